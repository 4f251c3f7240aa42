"""Adapted layers as one operation: the losses and gradients of PEFT's own layers."""

import copy
from typing import Any

import pytest
import torch

from launch.spec import LoraSpec
from tests.conftest import Workspace
from tests.training.model.live_memory import Live, computing_in
from tests.training.model.test_initial import IDS, disturb, plan_for
from tests.training.model.test_memory import built, inputs
from training.model.fused import AdaptedLinear, fuse, is_fused
from training.model.loading import load

# Relative, of a loss, and of all gradients against their norm. In bf16 these are 0.7 to 1.6 % from those in fp32,
# PEFT's as well as the fused ones, which round once instead of three times.
LOSS = {"fp32": 1e-6, "bf16": 1e-3}
GRADIENTS = {"fp32": 1e-6, "bf16": 2e-2}


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


def trained(model: Any, precision: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and the gradients of a padded batch."""
    torch.manual_seed(1)  # of the rows, and of dropout's masks
    with computing_in(precision, casts=True):
        loss = model(**inputs(masked=True)).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_alike(model: Any, precision: str) -> None:
    """A model as PEFT computes it, with an adapter that has trained, and a copy of it whose layers are fused."""
    disturb(model)
    fused = copy.deepcopy(model)
    fuse(fused)
    assert is_fused(fused)
    assert not is_fused(model)
    (expected, plain), (loss, ours) = trained(model, precision), trained(fused, precision)
    assert float(loss) == pytest.approx(float(expected), rel=LOSS[precision])
    assert ours.keys() == plain.keys()
    assert all(ours[name].dtype == plain[name].dtype for name in plain)
    assert distance(ours, plain) < GRADIENTS[precision]


def distance(found: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    difference = torch.cat([(found[name] - reference[name]).flatten().float() for name in reference]).norm()
    return float(difference / torch.cat([one.flatten().float() for one in reference.values()]).norm())


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(("precision", "zero"), [("fp32", False), ("bf16", False), ("bf16", True)])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_losses_and_gradients_are_peft_s(kind: str, precision: str, zero: bool, dropout: float) -> None:
    """With an adapter in fp32 under autocast, and one in the base's type as under ZeRO. Dropout drops the same."""
    check_alike(built(kind, precision, LoraSpec(dropout=dropout), "sdpa", zero), precision)


@pytest.mark.parametrize(
    "options",
    [
        {"bias": "all"}, {"bias": "lora_only"}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"]},
        {"layers_to_transform": [1, 3]}, {"modules_to_save": ["embed_tokens"]},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_is_trained(options: dict[str, Any]) -> None:
    check_alike(built("qwen2", "fp32", LoraSpec(dropout=0.0, **options), "sdpa", zero=False), "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("upcast", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_packed_base(dropout: float, upcast: bool, precision: Any, wide_base: Workspace) -> None:
    """Also with norms in fp32, behind which bitsandbytes' layers make fp32 under autocast, too."""
    packed = {"quantization": "nf4", "upcast_unquantized": upcast}
    plan = plan_for(wide_base, model=packed, lora={"dropout": dropout, "implementation": "peft"})
    model = load(plan.model_copy(update={"precision": precision})).train()
    disturb(model)
    found = []
    for fused in (False, True):
        if fused:
            fuse(model)
        model.zero_grad()
        torch.manual_seed(1)
        with computing_in(precision, casts=True):
            loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        found.append((loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (expected, plain), (loss, ours) = found
    assert loss == pytest.approx(expected, rel=LOSS[precision])
    assert distance(ours, plain) < GRADIENTS[precision]


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_a_bias_of_a_packed_layer_has_its_gradient_in_its_own_type(bias: str, wide_base: Workspace) -> None:
    """bitsandbytes casts it at first use, here from fp32."""
    packed = {"quantization": "nf4", "upcast_unquantized": True}
    plan = plan_for(wide_base, model=packed, lora={"bias": bias})
    model = load(plan.model_copy(update={"precision": "bf16"})).train()
    assert is_fused(model)
    with computing_in("bf16", casts=True):
        loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    biases = [p for name, p in model.named_parameters() if name.endswith("bias") and p.requires_grad]
    assert biases
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in biases)


def test_a_weight_that_was_rearranged_for_inference_is_refused(wide_base: Workspace) -> None:
    """bitsandbytes does so on CPUs with AVX512-BF16, at an evaluation that soundness.evaluating has not guarded."""
    model = load(plan_for(wide_base, model={"quantization": "nf4"})).train()
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            state.packing_format_for_cpu = True
    with pytest.raises(RuntimeError, match="rearranged this weight for inference"):
        model(input_ids=IDS, labels=IDS).loss.backward()


def test_an_mlp_that_somebody_else_computes_is_not_called_fused() -> None:
    model = built("qwen2", "fp32", LoraSpec(), "sdpa", zero=False, fused=True)
    assert is_fused(model)
    del model.get_base_model().model.layers[1].mlp.forward
    assert not is_fused(model)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_those_of_finite_differences(dropout: float, gated: bool) -> None:
    base = torch.nn.Linear(5, 7).double()
    base.weight.requires_grad_(False)
    shapes = (2, 3, 5), (2, 3, 5), (4, 5), (7, 4)
    x, gate, a, b = (torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in shapes)

    def output(*given: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return AdaptedLinear.apply(*given, base, 0.5, dropout)  # type: ignore[no-any-return, no-untyped-call]

    assert torch.autograd.gradcheck(output, (x, gate if gated else None, a, b, base.bias))


def test_a_second_derivative_is_refused() -> None:
    model = built("qwen2", "fp32", LoraSpec(dropout=0.0), "sdpa", zero=False, fused=True)
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(model(IDS).logits.sum(), adapters, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(gradient.sum() for gradient in gradients).backward()


@pytest.mark.parametrize("state", ["evaluated", "disabled", "merged"])
def test_beside_training_peft_computes(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("qwen2", "fp32", LoraSpec(), "sdpa", zero=False)
    disturb(model)
    fused = copy.deepcopy(model)
    fuse(fused)
    monkeypatch.setattr(AdaptedLinear, "apply", None)  # whoever calls it fails
    with pytest.raises(TypeError):
        fused(IDS)
    found = []
    for each in (model, fused):
        if state == "merged":
            each.merge_adapter()
        if state == "disabled":
            with each.disable_adapter():
                found.append(each(IDS).logits)
        else:
            found.append(each.eval()(IDS).logits if state == "merged" else _unwatched(each))
    assert torch.equal(*found)


def _unwatched(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits  # type: ignore[no-any-return]


def test_nothing_as_large_as_the_output_is_made_beside_it() -> None:
    """PEFT makes B's product, its scaled copy and the sum."""
    tokens, wide = 1000, 500
    layer = built("qwen2", "fp32", LoraSpec(dropout=0.0), "sdpa", zero=False, intermediate_size=wide)
    up = layer.get_base_model().model.layers[0].mlp.up_proj
    x, peaks = torch.randn(tokens, 96), []
    for fused in (False, True):
        if fused:
            fuse(layer)
        with Live([x, *up.parameters()]) as live:
            output = up(x)
        peaks.append(live.peak / output.nbytes)
        del output
    assert peaks[0] > 2.9
    assert peaks[1] < 1.1
