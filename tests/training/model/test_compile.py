"""Blocks that are compiled compute what they computed, by one graph for all but the first and for all rows."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tests.conftest import Workspace
from tests.training.model.test_initial import plan_for
from training.model.collate import collator
from training.model.loading import load

TOLERANCE = 1e-5  # of a loss and of the gradients against their norm: fused operations round once where two did


THREE = [[40, 30], [90], [20, 20, 20]]


def trained(
    workspace: Workspace, compiled: bool, checkpointed: bool | int = False, attention: str = "sdpa",
    rows: Sequence[list[int]] = THREE,
) -> tuple[list[float], torch.Tensor]:  # fmt: skip
    """Losses of packed batches of other documents, and the gradients of the last."""
    plan = plan_for(
        workspace, training={"compile": compiled, "gradient_checkpointing": checkpointed},
        data={"packing": True, "max_length": 96}, model={"attention": attention},
    )  # fmt: skip
    model = load(plan).train()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    collate, losses = collator(plan, 0), []
    for lengths in rows:
        batch: dict[str, Any] = collate([row(lengths)])
        batch.pop("indices")
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        losses.append(float(loss.detach()))
        assert batch["input_ids"].shape == (1, 96 if compiled else sum(lengths))
    return losses, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def row(lengths: list[int]) -> dict[str, Any]:
    ids = torch.arange(1, sum(lengths) + 1).numpy() % 300
    return {"index": 0, "input_ids": ids, "labels": ids, "lengths": lengths}


@pytest.mark.parametrize("checkpointed", [False, 1])
def test_losses_and_gradients_are_those_of_blocks_that_are_not(workspace: Workspace, checkpointed: bool | int) -> None:
    counters.clear()
    torch.compiler.reset()
    losses, gradients = trained(workspace, True, checkpointed)
    assert counters["stats"]["unique_graphs"] == 2  # the first block's input has no gradient
    assert not counters["graph_break"]
    plain, expected = trained(workspace, compiled=False)
    assert losses == pytest.approx(plain, rel=TOLERANCE)
    assert float((gradients - expected).norm() / expected.norm()) < TOLERANCE


def test_documents_that_are_computed_one_by_one_make_no_graphs_of_their_own(workspace: Workspace) -> None:
    """Attention by documents on a CPU stands between two graphs: however many there are, and of whatever lengths."""
    torch.compiler.reset()
    counters.clear()
    more = [*THREE, [7, 50, 9, 3], [60, 31], [5] * 15, [80, 2], [33, 33, 20, 1, 1]]
    trained(workspace, True, attention="varlen", rows=more[:5])
    some = counters["stats"]["unique_graphs"]
    torch.compiler.reset()
    counters.clear()
    losses, _ = trained(workspace, True, attention="varlen", rows=more)
    assert counters["stats"]["unique_graphs"] == some
    assert losses == pytest.approx(trained(workspace, False, attention="varlen", rows=more)[0], rel=TOLERANCE)
