"""How an adapter begins: unchanged base, PiSSA, LoftQ, or where another adapter ended."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from launch.errors import WorkerError
from launch.model.files import find
from launch.model.weights import weight_files
from launch.plan import Plan
from launch.spec import LoraSpec
from training.checkpoint.states import scatter_adapter
from training.model.adapter import PRINCIPAL, read_adapter, read_principal, trainable_parameters
from training.original.importing import native_directory, original_directory

# Subspace iterations of the truncated singular value decomposition; PEFT's documentation advises 4 to 16.
ITERATIONS = 16


def initialise(model: PeftModel, plan: Plan, resumed: Path | None) -> None:
    """Gives a fresh adapter its first values; of a run that is resumed, only what its checkpoint does not hold.

    Raises WorkerError when an initialisation does not keep what it promises.
    """
    lora, seed = plan.spec.lora, plan.spec.training.seed
    seed_adapter(model, seed)
    if lora.init_lora_weights == "pissa":
        principal = read_principal(resumed, model) if resumed else _principal_pairs(model, seed)
        _move_principal(model, principal)
    elif lora.init_lora_weights == "loftq" and resumed is None:
        _add_quantization_error(model, plan, seed)
    elif lora.adapter is not None and resumed is None:
        continue_from(Path(lora.adapter), model)


def leaves_base_unchanged(lora: LoraSpec) -> bool:
    """Whether a fresh adapter gives its base's logits. What PiSSA and LoftQ promise instead, `initialise` looks at."""
    return lora.init_lora_weights == "default" and lora.adapter is None


def seed_adapter(model: PeftModel, seed: int) -> None:
    """LoRA's own initialisation (A uniform by Kaiming with a = sqrt(5), B zero), drawn on the CPU in the order of the
    modules.

    PEFT draws on whatever device and after whatever else used the generator, so the adapter would depend on the
    strategy.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(trainable_parameters(model)):
        if "lora_A" in name:
            bound = math.sqrt(6 / ((1 + 5) * parameter.shape[1]))
            with torch.no_grad():
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


def continue_from(directory: Path, model: PeftModel) -> None:
    """Takes over an adapter's values. Its kind was judged when the run was planned.

    Raises UsageError when its tensors are not those of this model's adapter.
    """
    parameters = trainable_parameters(model)
    scatter_adapter(parameters, read_adapter(directory, model, parameters))


def _principal_pairs(model: PeftModel, seed: int) -> dict[str, torch.Tensor]:
    """The best pairs of the adapter's rank for each base weight, by parameter name."""
    pairs: dict[str, torch.Tensor] = {}
    for name, layer in _layers(model):
        a, b = _low_rank(_weight(layer), layer.r["default"], layer.scaling["default"], seed)
        # What is taken out of the base is what the adapter holds, to the last bit of its type.
        a, b = (half.to(layer.lora_A["default"].weight.dtype).float() for half in (a, b))
        pairs |= {f"{name}.lora_A.default.weight": a.cpu(), f"{name}.lora_B.default.weight": b.cpu()}
    return pairs


def _move_principal(model: PeftModel, principal: dict[str, torch.Tensor]) -> None:
    """Out of each base weight and into its adapter. The sum of both stays, to the rounding of the base's type."""
    for name, layer in _layers(model):
        weight, whole = layer.get_base_layer().weight, _weight(layer).clone()
        a, b = (principal[f"{name}.lora_{half}.default.weight"].to(whole.device) for half in "AB")
        product = layer.scaling["default"] * b @ a
        weight.data.copy_((whole - product).to(weight.dtype))
        _set_pair(layer, a, b)
        off = (_weight(layer) + product - whole).abs().max() / whole.abs().max()
        if off > 4 * torch.finfo(weight.dtype).eps:
            raise WorkerError(f"pissa: {name}: base and adapter together are {off:.1e} from the weight that was loaded")
    setattr(model, PRINCIPAL, principal)


def _add_quantization_error(model: PeftModel, plan: Plan, seed: int) -> None:
    """LoftQ's first step: the adapter is the best of its rank to what quantising lost of each weight."""
    from bitsandbytes.functional import dequantize_4bit

    original = _unquantised(plan)
    for name, layer in _layers(model):
        weight = layer.get_base_layer().weight
        kept = dequantize_4bit(weight.data, weight.quant_state).float()
        lost = original(f"{name.removeprefix('base_model.model.')}.weight").to(kept.device, torch.float32) - kept
        a, b = _low_rank(lost, layer.r["default"], layer.scaling["default"], seed)
        _set_pair(layer, a, b)
        left = (lost - layer.scaling["default"] * b @ a).norm()
        if not left < lost.norm():
            raise WorkerError(
                f"loftq: {name}: the adapter does not lessen the error of quantising ({left} of {lost.norm()})"
            )


def _low_rank(weight: torch.Tensor, rank: int, scaling: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, inputs] and B [outputs, rank] with scaling x B A the best of this rank to a weight [outputs, inputs]."""
    with torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []):
        torch.manual_seed(seed)
        u, s, v = torch.svd_lowrank(weight, q=rank, niter=ITERATIONS)
    root = torch.sqrt(s / scaling)
    return root[:, None] * v.T, u * root


def _layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def _weight(layer: Any) -> torch.Tensor:
    """A base weight in fp32, on the GPU where there is one: singular values take minutes on a CPU."""
    weight: torch.Tensor = layer.get_base_layer().weight.detach()
    return weight.to("cuda" if torch.cuda.is_available() else weight.device, torch.float32)


def _set_pair(layer: Any, a: torch.Tensor, b: torch.Tensor) -> None:
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(a)
        layer.lora_B["default"].weight.copy_(b)


def _unquantised(plan: Plan) -> Any:
    """Reads one tensor of the base's files by name."""
    variant = plan.spec.model.variant
    original = original_directory(variant, weights=True)
    directory = native_directory(original) if original else find(variant)
    assert directory is not None  # it was loaded a moment ago
    files: dict[str, Path] = {}
    for path in weight_files(directory, original=False):
        with safe_open(path, framework="pt") as opened:
            files |= dict.fromkeys(opened.keys(), path)

    def read(name: str) -> torch.Tensor:
        with safe_open(files[name], framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
            return tensor

    return read
