"""Blocks that are computed again, some or all: the losses and gradients of a model that keeps everything."""

from typing import Any

import pytest
import torch

from launch.spec import LoraSpec
from tests.conftest import Workspace
from tests.training.model.live_memory import computing_in
from tests.training.model.test_initial import plan_for
from tests.training.model.test_memory import built, inputs
from training.model.loading import load
from training.model.recompute import checkpoint_blocks, checkpointed_blocks

TOLERANCE = 1e-6  # of gradients against their norm; losses are the same bits


def trained(kind: str, precision: str, attention: str, first: int, count: int, **lora: Any) -> Any:
    """(loss, gradients by name) of a padded batch."""
    torch.manual_seed(1)
    model = built(kind, precision, LoraSpec(**lora), attention, zero=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    checkpoint_blocks(model.get_base_model(), first, count)
    torch.manual_seed(2)  # dropout draws the same masks
    with computing_in(precision, casts=True):
        loss = model(**inputs(masked=True)).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_so_many_blocks_change_nothing(kind: str, precision: str, attention: str, count: int) -> None:
    """With dropout, whose masks are drawn again."""
    loss, gradients = trained(kind, precision, attention, 0, 0, dropout=0.1)
    found, ours = trained(kind, precision, attention, 0, count, dropout=0.1)
    assert torch.equal(found, loss)
    assert ours.keys() == gradients.keys()
    difference = torch.cat([(ours[name] - gradients[name]).flatten() for name in gradients]).norm()
    assert float(difference / torch.cat([one.flatten() for one in gradients.values()]).norm()) < TOLERANCE


def test_blocks_in_front_of_the_first_trained_one_need_no_gradient() -> None:
    """The model's own switch would have the embeddings' output ask for one."""
    options = {"layers_to_transform": [2, 3], "dropout": 0.0}
    loss, gradients = trained("qwen2", "fp32", "sdpa", 2, 0, **options)
    found, ours = trained("qwen2", "fp32", "sdpa", 2, 1, **options)
    assert torch.equal(found, loss)
    assert {name.split(".")[4] for name in ours} == {"2", "3"}
    assert all(torch.allclose(ours[name], gradients[name], rtol=0, atol=1e-7) for name in gradients)


def test_only_while_training() -> None:
    """An evaluation computes each block once."""
    model, calls = built("qwen2", "fp32", LoraSpec(), "sdpa", zero=False), list[int]()
    checkpoint_blocks(model.get_base_model(), 0, 2)
    block = model.get_base_model().model.layers[0]
    block.input_layernorm.register_forward_pre_hook(lambda *_: calls.append(1))
    model(**inputs(masked=False)).loss.backward()
    assert len(calls) == 2
    with torch.no_grad():
        model.eval()(**inputs(masked=False))
    assert len(calls) == 3


@pytest.mark.parametrize(("asked", "layers"), [(False, 0), (1, 1), (2, 2), (True, 2), ("auto", 0)])
def test_a_model_is_loaded_as_the_spec_asks(workspace: Workspace, asked: Any, layers: int) -> None:
    plan = plan_for(workspace, training={"gradient_checkpointing": asked})
    assert (plan.checkpointed_layers, plan.gradient_checkpointing) == (layers, layers > 0)
    model = load(plan)
    assert checkpointed_blocks(model) == layers
    assert [block.gradient_checkpointing for block in model.get_base_model().model.layers] == [
        number < layers for number in range(2)
    ]


def test_the_first_trained_block_is_the_first_to_be_computed_again(workspace: Workspace) -> None:
    plan = plan_for(workspace, training={"gradient_checkpointing": True}, lora={"layers_to_transform": [1]})
    assert plan.checkpointed_layers == 1
    assert [block.gradient_checkpointing for block in load(plan).get_base_model().model.layers] == [False, True]
