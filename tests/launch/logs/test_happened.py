"""Events and logged steps, a line each."""

from typing import Any

import pytest

from launch.logs.happened import OF_WORKERS, WORRIES, logged, told

LINES: list[tuple[dict[str, Any], str]] = [
    (
        {"event": "warning", "kind": "loss_flat", "step": 300, "message": "the loss has not moved for 200 steps",
         "advice": "raise training.learning_rate"},
        "step 300: warning: the loss has not moved for 200 steps; raise training.learning_rate",
    ),
    ({"event": "warning", "kind": "loss_flat", "step": 3}, "step 3: warning: loss_flat"),
    (
        {"event": "skipped", "step": 7, "reason": "the gradient norm is not finite", "loss": 2.5, "grad_norm": None,
         "threshold": 10.0, "ids": ["a"]},
        "step 7: update left out: the gradient norm is not finite (loss 2.5, threshold 10)",
    ),
    (
        {"event": "rolled_back", "step": 120, "checkpoint": "step-000100", "to_step": 100, "reason": "the loss rose",
         "left_out": [{"step": 119, "ids": ["a"]}, {"step": 120, "ids": ["b"]}]},
        "step 120: back to step 100: the loss rose; the samples of 2 steps are left out",
    ),
    (
        {"event": "learning_rate_lowered", "step": 100, "factor": 0.5, "learning_rate": 1e-4, "warmup_steps": 20},
        "step 100: learning rate lowered to 0.0001, reached over 20 steps",
    ),
    ({"event": "resumed", "checkpoint": "step-000008", "step": 8}, "resumed from step-000008"),
    ({"event": "failed", "class": "worker", "message": "first\nsecond"}, "failed: first"),
    ({"event": "saved", "step": 4, "seconds": 0.04, "bytes": 204356}, "step 4: saved a checkpoint of 0.2 MiB in 0.0 s"),
    ({"event": "restarted", "reason": "rank 1 was killed\nmore"}, "restarted: rank 1 was killed"),
    (
        {"event": "supervisor_killed", "job": "7", "signal": "SIGKILL", "attempt": 1, "reason": "it was killed"},
        "it was killed",
    ),
    ({"event": "stopped", "step": 3}, "stopped as asked at step 3"),
    (
        {"event": "grace_short", "grace_seconds": 30.0, "needed_seconds": 55, "fix": "slurm.grace_seconds: 110"},
        "warning: the job's last 30 s are not enough to save, 55 s are: slurm.grace_seconds: 110",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("row", "line"), LINES)
def test_an_event_is_a_line(row: dict[str, Any], line: str) -> None:
    assert told(row) == [line]


def test_an_event_of_another_version_is_told_as_far_as_it_can_be_read() -> None:
    assert told({"event": "skipped", "reason": "no step here"}) == ["skipped: no step here"]
    assert told({"event": "saved"}) == ["saved"]
    assert told({"event": "verified", "engine": "ddp"}) == told({"event": "of tomorrow"}) == told({}) == []


def test_no_text_of_an_event_reaches_the_terminal_raw() -> None:
    assert told({"event": "stopped", "step": "\x1b[31m[red]"}) == ["stopped as asked at step \\x1b[31m[red]"]


def test_a_logged_step_is_a_line() -> None:
    row = {"step": 9, "loss": 1.23456, "tokens_per_second": 4567.8}
    assert logged(row, 22) == "step 9/22: loss 1.235  4,568 tokens/s"
    assert logged({"step": 9, "loss": None, "tokens_per_second": None}, None) == "step 9/?: loss -  - tokens/s"
    evaluated = {"step": 0, "eval_loss": 6.15, "eval_answer_f1": 0.5}
    assert logged(evaluated, 22) == "step 0: eval_loss 6.1500  answer_f1 0.5000"
    assert logged({"step": 3, "best_step": 2}, 22) is None


def test_what_worries_is_shown_where_nobody_else_tells_it() -> None:
    assert {"warning", "skipped", "rolled_back", "learning_rate_lowered"} <= OF_WORKERS & WORRIES
