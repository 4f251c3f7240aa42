"""Runs of a few steps, each made once, and compared by their losses."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Workspace, losses, muster, read_rows

STEPS = {"training": {"max_steps": 4, "epochs": None, "save_steps": 2}}
TOLERANCE = 1e-4


def trained(workspace: Workspace, strategy: str, sections: dict[str, dict[str, Any]], name: str) -> Path:
    """The run directory of a few steps; the same one for the same name."""
    run = workspace.root / f"{name}-{strategy}"
    if not run.exists():
        cluster = {"strategy": strategy, "devices_per_node": 1 if strategy == "single" else 2, "device": "cpu"}
        merged = {**STEPS, **sections, "cluster": cluster}
        merged["training"] = {**STEPS["training"], **sections.get("training", {})}
        done = muster("run", workspace.spec(f"{name}-{strategy}", **merged), "--run-dir", run)
        assert done.code == 0, done.err
    observed = next(row for row in read_rows(run / "events.jsonl") if row["event"] == "verified")
    assert (observed["engine"], observed["world_size"]) == (strategy, 1 if strategy == "single" else 2)
    return run


def assert_same_training(run: Path, reference: Path, tolerance: float = TOLERANCE) -> None:
    """Losses of the steps, and the evaluations before and after."""
    found, expected = ([*losses(path), *evaluations(path)] for path in (run, reference))
    assert len(found) == len(expected) == 6
    assert found == pytest.approx(expected, rel=tolerance)


def evaluations(run: Path) -> list[float]:
    return [row["eval_loss"] for row in read_rows(run / "metrics.jsonl") if "eval_loss" in row]
