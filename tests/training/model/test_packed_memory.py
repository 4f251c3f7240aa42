"""The memory model against real tensors of a base in NF4, with norms, embeddings and head in fp32 and without."""

from typing import Any

import pytest
import torch
from peft import get_peft_model, prepare_model_for_kbit_training

from benchmarks.random_model import random_base
from launch.memory import static
from launch.memory.forecast import forecast
from launch.memory.setting import Setting
from launch.model.architecture import from_config
from launch.spec import LoraSpec
from tests.training.model.live_memory import Live, computing_in
from tests.training.model.test_memory import (
    BATCH,
    SHAPES,
    architecture_of,
    checkpoint_first,
    expected_bytes,
    kept_bytes,
)
from tests.training.model.test_memory import setting as unpacked
from training.model.casting import leave_inputs
from training.model.fused import fuse
from training.model.loading import lora_config
from training.model.soundness import evaluating

WIDE = {"hidden_size": 128, "num_attention_heads": 8, "intermediate_size": 1024}


def packed(lora: LoraSpec, fused: bool, upcast: bool, **shapes: int) -> Any:
    """As training/model/loading.py makes it. bitsandbytes settles the types of biases when they are first used."""
    architecture = from_config({"model_type": "qwen2", **SHAPES, **WIDE, **shapes}, "config.json")
    base = random_base(architecture, "nf4", torch.device("cpu"), torch.bfloat16)
    if upcast:
        prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    base.requires_grad_(False)
    model = get_peft_model(base, lora_config(lora)).train()
    leave_inputs(model)
    if fused:
        fuse(model)
    with evaluating(model), computing_in("bf16", casts=True):
        model(torch.zeros(1, 8, dtype=torch.long))
    return model


def setting(model: Any, lora: LoraSpec, fused: bool, upcast: bool, **more: Any) -> Setting:
    return unpacked(
        architecture_of(model), "bf16", lora, masked=False, quantization="nf4", upcast_unquantized=upcast,
        fused_lora=fused, **more,
    )  # fmt: skip


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("upcast", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_is_kept_for_the_backward_pass(fused: bool, upcast: bool, dropout: float) -> None:
    lora = LoraSpec(dropout=dropout)
    model = packed(lora, fused, upcast)
    here = setting(model, lora, fused, upcast)
    assert kept_bytes(model, here, autocast=True) == pytest.approx(expected_bytes(model, here), rel=0.03)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("layers", [0, 2, 4])
@pytest.mark.parametrize("vocabulary", [8000, 200])
def test_the_peak_of_a_step_with_a_hidden_state_in_fp32(
    fused: bool, dropout: float, layers: int, vocabulary: int
) -> None:
    """Where the vocabulary is large it is the loss's."""
    lora = LoraSpec(dropout=dropout)
    model = packed(lora, fused, True, vocab_size=vocabulary)
    here = setting(
        model, lora, fused, True, max_length=256, gradient_checkpointing=layers > 0, checkpointed_layers=layers
    )
    checkpoint_first(model, here)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    ids = torch.randint(0, vocabulary, (BATCH, 256))
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    with Live([ids, *model.parameters(), *model.buffers(), *gradients]) as live:
        with computing_in("bf16", casts=True):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
    architecture = architecture_of(model)
    made = forecast(architecture, here)
    held = static.base_weights(architecture, here) + static.quantization_constants(architecture, here)
    held += static.adapters(here) + static.gradients(here) + static.optimizer(here) + static.buffers(architecture, here)
    steps = [made.phases[phase] for phase in ("forward", "loss", "backward")]
    assert max(steps) - held == pytest.approx(live.peak, rel=0.06)
    assert (made.phase == "loss") is (vocabulary == 8000)
