"""RMS norms as one operation: the losses and gradients of transformers' own."""

import copy
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from launch.spec import LoraSpec
from tests.training.model.test_fused import GRADIENTS, LOSS, distance, trained
from tests.training.model.test_initial import disturb
from tests.training.model.test_memory import ENGINES, architecture_of, built, expected_bytes, kept_bytes, setting
from training.model.norms import Norm, fuse_norms, norms_are_fused


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize("fused", [True, False])
def test_losses_and_gradients_are_transformers(kind: str, precision: str, zero: bool, fused: bool) -> None:
    """Beside PEFT's layers and beside fused ones."""
    model = built(kind, precision, LoraSpec(dropout=0.0), "sdpa", zero, fused=fused)
    disturb(model)
    ours = copy.deepcopy(model)
    fuse_norms(ours)
    assert norms_are_fused(ours)
    assert not norms_are_fused(model)
    (expected, plain), (loss, found) = trained(model, precision), trained(ours, precision)
    assert float(loss) == pytest.approx(float(expected), rel=LOSS[precision])
    assert found.keys() == plain.keys()
    assert distance(found, plain) < GRADIENTS[precision]


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [True, False])
def test_the_result_is_the_same_to_the_bit(held: torch.dtype, given: torch.dtype, autocast: bool) -> None:
    """Whatever holds the weight: behind a norm in fp32 the hidden state is fp32, before the first one it is not. Its
    gradient is rounded at other places, but computed in fp32 as well: under autocast products would be in bf16."""
    norm = LlamaRMSNorm(48).to(held).requires_grad_(False)
    norm.weight.copy_(torch.randn(48))
    ours = copy.deepcopy(norm)
    fuse_norms(ours)
    made = []
    for one in (norm, ours):
        x = torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(2)).to(given).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = one(x)
            (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
        made.append((y, gradient))
    (expected, theirs), (found, gradient) = made
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    assert gradient.dtype == theirs.dtype
    close = 1e-5 if given == held == torch.float32 else 1e-2  # a rounding to bf16 of the largest is 4e-3
    assert (gradient - theirs).abs().max() < close * theirs.abs().max()


def test_its_gradient_is_that_of_finite_differences() -> None:
    x, weight = torch.randn(3, 8, dtype=torch.float64, requires_grad=True), torch.randn(8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda given: Norm.apply(given, weight, 1e-6), (x,))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize(("attention", "masked"), [("sdpa", False), ("eager", True)])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", [{}, {"target_modules": ["down_proj"]}, {"layers_to_transform": [1, 3]}], ids=str)
def test_what_is_kept_for_the_backward_pass(
    kind: str, precision: str, zero: bool, attention: str, masked: bool, fused: bool, options: dict[str, Any]
) -> None:
    lora = LoraSpec(dropout=0.0, **options)
    model = built(kind, precision, lora, attention, zero, fused=fused)
    fuse_norms(model)
    here = setting(architecture_of(model), precision, lora, zero, attention=attention, masked=masked, fused_lora=fused,
                   fused_norms=True)  # fmt: skip
    assert kept_bytes(model, here) == pytest.approx(expected_bytes(model, here), rel=0.03)
