"""Following a run directory while others write in it."""

import io
from pathlib import Path

from rich.console import Console

from launch.logs.progress import Follower
from launch.rundir import RunDir
from launch.rundir.journal import append


def test_without_a_terminal_there_is_a_line_a_row(tmp_path: Path) -> None:
    run, screen = RunDir(tmp_path), io.StringIO()
    with Follower(run, Console(file=screen, width=140)) as follower:
        data = {"rows": 40, "tokens": 12345, "trainable_tokens": 4321, "quarantined_rows": 2}
        data["counts"] = {"documents shortened": 3}
        append(run.events, {"event": "started", "time": 0, "steps": 22, "data": data})
        append(run.events, {"event": "resumed", "time": 0, "checkpoint": "step-000008"})
        append(run.metrics, {"step": 0, "eval_loss": 6.15})
        follower.look()
        append(run.samples, {"step": 9, "epoch": 0, "ids": ["a"]})
        append(run.metrics, {"step": 9, "loss": 1.23456, "tokens_per_second": 4567.8})
    assert screen.getvalue().splitlines() == [
        "data: 40 rows, 12,345 tokens, 4,321 of them trained on; 3 documents shortened;"
        " 2 rows left out (see tokens/*/quarantine.jsonl)",
        "resumed from step-000008",
        "step 0: eval_loss 6.1500",
        "step 9/22: loss 1.235  4,568 tokens/s",
    ]
