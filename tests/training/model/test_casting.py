"""What goes into an adapter, in which type."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from launch.spec import LoraSpec
from tests.conftest import Workspace
from tests.training.model.live_memory import saved_bytes
from tests.training.model.test_initial import plan_for
from tests.training.model.test_memory import built, inputs
from training.model.loading import load


def model_of(kind: str, casts: bool, **lora: Any) -> PeftModel:
    """In bf16 with an adapter in fp32, as it is held but under DeepSpeed; `casts`: as PEFT has it."""
    torch.manual_seed(0)
    model: PeftModel = built(kind, "bf16", LoraSpec(**lora, cast_inputs=casts), "sdpa", zero=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def trained(model: PeftModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and the gradients."""
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs(masked=True)).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("lora", [{"dropout": 0.0}, {"dropout": 0.1}, {"dropout": 0.0, "use_dora": True}], ids=str)
def test_losses_and_gradients_are_the_same_to_the_last_bit(kind: str, lora: dict[str, Any]) -> None:
    (loss, gradients), (plain, expected) = (trained(model_of(kind, casts, **lora)) for casts in (False, True))
    assert torch.equal(loss, plain)
    assert gradients.keys() == expected.keys()
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)


def test_layers_that_share_an_input_keep_it_once() -> None:
    def kept(casts: bool) -> int:
        model = model_of("qwen2", casts, dropout=0.0)
        with torch.autocast("cpu", torch.bfloat16):
            return saved_bytes(model, lambda: model(**inputs(masked=False)).loss)

    tokens, hidden, blocks = 2 * 64, 96, 4
    # Of q, k, v and of gate, up one copy each in place of five, and none for o, whose input the attention keeps.
    assert kept(casts=True) - kept(casts=False) == blocks * tokens * 2 * (3 * hidden + hidden)


@pytest.mark.parametrize("casts", [True, False])
def test_the_spec_says_whether_inputs_are_cast(casts: bool, wide_base: Workspace) -> None:
    plan = plan_for(wide_base, lora={"dropout": 0.0, "cast_inputs": casts})
    assert plan.lora_implementation == ("peft" if casts else "fused")
    layers = [module for module in load(plan).modules() if isinstance(module, LoraLayer)]
    assert layers
    assert {"_cast_input_dtype" in vars(layer) for layer in layers} == {not casts}


def test_without_autocast_an_adapter_in_fp32_gets_fp32() -> None:
    model = model_of("qwen2", casts=False, dropout=0.0).eval()
    with torch.no_grad():
        alone = model(**inputs(masked=False)).loss
    assert torch.isfinite(alone)
