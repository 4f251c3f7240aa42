"""What the gate makes of a step's numbers, on one rank."""

import math
from pathlib import Path

import pytest
import torch

from launch.rundir import RunDir
from launch.spec import Precision
from tests.launch.conftest import plan_of
from training.guard.gate import OVERFLOWS, Gate
from training.ranks.control import Control


def gate(folder: Path, precision: Precision) -> Gate:
    plan = plan_of("1xA100-80GB").model_copy(update={"precision": precision})
    return Gate(plan, RunDir(folder), Control(0, 1, folder / "stop"), torch.device("cpu"))


def judged(one: Gate, loss: float, grad_norm: float) -> str:
    one.losses, one.labels = [torch.tensor(loss)], 10
    passes = one.judge(torch.tensor(grad_norm))
    assert passes is (one.verdict.what == "go_on")
    return one.verdict.what


def test_under_fp16_an_overflow_is_the_loss_scale_s_business(tmp_path: Path) -> None:
    one = gate(tmp_path, "fp16")
    assert [judged(one, 2.0, math.inf) for _ in range(OVERFLOWS - 1)] == ["go_on"] * (OVERFLOWS - 1)
    assert judged(one, 2.0, 1.0) == "go_on"
    assert [judged(one, 2.0, math.inf) for _ in range(OVERFLOWS - 1)] == ["go_on"] * (OVERFLOWS - 1)
    assert one.guard.skipped == 0


def test_under_fp16_gradients_that_overflow_at_any_scale_are_unsound(tmp_path: Path) -> None:
    one = gate(tmp_path, "fp16")
    verdicts = [judged(one, 2.0, math.inf) for _ in range(OVERFLOWS + 2)]
    assert verdicts == ["go_on"] * (OVERFLOWS - 1) + ["skip", "skip", "roll_back"]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_without_a_loss_scale_the_first_overflow_is_unsound(precision: Precision, tmp_path: Path) -> None:
    assert judged(gate(tmp_path, precision), 2.0, math.inf) == "skip"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_loss_that_is_no_number_is_unsound_in_any_type(precision: Precision, tmp_path: Path) -> None:
    assert judged(gate(tmp_path, precision), math.nan, 1.0) == "skip"
