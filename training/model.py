"""The frozen base and its adapter. No code that comes with a checkpoint is ever run."""

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from launch.errors import UsageError
from launch.model_files import hub_name
from launch.plan import Plan
from launch.spec import LoraSpec
from launch.wording import first_line
from training.original.importing import native_directory, original_directory

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load(plan: Plan) -> PeftModel:
    """The base in the plan's precision or quantised, with a fresh adapter."""
    base = load_base(plan)
    base.config.use_cache = False
    if plan.gradient_checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = get_peft_model(base, lora_config(plan.spec.lora))
    seed_adapter(model, plan.spec.training.seed)
    return model


def load_base(plan: Plan) -> Any:
    variant = plan.spec.model.variant
    options: dict[str, Any] = {}
    if plan.spec.model.quantization != "none":
        options["quantization_config"] = _quantization(plan)
        # Packed weights are quantised on the device they stay on; the launcher owns which one that is.
        options["device_map"] = {
            "": f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if plan.topology.device == "gpu" else "cpu"
        }
    try:
        return AutoModelForCausalLM.from_pretrained(
            loadable(variant),
            dtype=DTYPES[plan.precision],
            attn_implementation=plan.attention,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"model.variant {variant}: the model could not be loaded: {first_line(error)}") from error


def loadable(variant: str, tell: Callable[[str], None] = lambda _: None) -> str:
    """What transformers loads for a variant: its name, or the directory that an original checkpoint was imported into.

    The import happens once, before the process group exists: others wait for it without a time limit.
    """
    original = original_directory(variant, weights=True)
    return hub_name(variant) if original is None else str(native_directory(original, tell))


def _quantization(plan: Plan) -> BitsAndBytesConfig:
    if plan.spec.model.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = DTYPES[plan.precision]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=compute,
    )


def lora_config(lora: LoraSpec) -> LoraConfig:
    targets = lora.target_modules
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias=lora.bias,
        target_modules=targets if targets == "all-linear" else list(targets),
    )  # fmt: skip


def seed_adapter(model: PeftModel, seed: int) -> None:
    """LoRA's own initialisation (A uniform by Kaiming with a = sqrt(5), B zero), drawn on the CPU in the order of the
    modules.

    PEFT draws on whatever device and after whatever else used the generator, so the adapter would depend on the
    strategy.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(adapter_parameters(model)):
        if "lora_A" in name:
            bound = math.sqrt(6 / ((1 + 5) * parameter.shape[1]))
            with torch.no_grad():
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


def adapter_parameters(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """The trainable parameters by name, in the model's order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
