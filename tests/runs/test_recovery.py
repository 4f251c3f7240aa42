"""What `muster run` mends by itself, and what it does not: each fault ends as the undisturbed run does, or says why."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished, Workspace, losses, muster, read_rows
from tests.faults import before_steps
from tests.runs.test_resume import largest_difference

TWO_RANKS = {"strategy": "ddp", "devices_per_node": 2, "device": "cpu"}
# Restart where rank 1 did something at step 5 of the first attempt; a checkpoint is at step 4.
ONCE = "if (attempt, step, rank) == (1, 5, 1):\n    "


def started(workspace: Workspace, run: Path, fault: str, **sections: dict[str, Any]) -> Finished:
    merged: dict[str, dict[str, Any]] = {"cluster": TWO_RANKS, "training": {"epochs": 1.0, "save_steps": 4}, **sections}
    variables = before_steps(run.parent / f"{run.name}-fault", fault)
    return muster("run", workspace.spec("recovery", **merged), "--run-dir", run, **variables)


def outcomes(run: Path) -> list[tuple[str, str]]:
    """(class, reason) of each attempt."""
    told = [json.loads(path.read_text()) for path in sorted(run.glob("attempts/*/outcome.json"))]
    return [(one["class"], one["reason"]) for one in told]


def events(run: Path, name: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(run / "events.jsonl") if row["event"] == name]


def ledger(run: Path) -> list[tuple[int, list[str]]]:
    """The samples of each step; which rank took which is not part of it."""
    return [(row["step"], sorted(row["ids"])) for row in read_rows(run / "samples.jsonl")]


@pytest.fixture(scope="module")
def undisturbed(base_workspace: Workspace) -> Path:
    run = base_workspace.root / "undisturbed"
    done = started(base_workspace, run, "pass")
    assert done.code == 0, done.err
    return run


def assert_the_same(run: Path, undisturbed: Path, tolerance: float = 0.0) -> None:
    assert losses(run) == pytest.approx(losses(undisturbed), abs=tolerance)
    assert largest_difference(run, undisturbed) <= tolerance
    assert ledger(run) == ledger(undisturbed)


def test_a_killed_rank_costs_a_restart_and_changes_nothing(workspace: Workspace, undisturbed: Path) -> None:
    run = workspace.root / "killed"
    done = started(workspace, run, ONCE + "os.kill(os.getpid(), 9)")
    assert done.code == 0, done.err
    (first, reason), last = outcomes(run)
    assert first == "worker"
    assert reason.startswith("rank 1 ended without a word")
    assert last == ("done", "done")
    assert "restarting from the newest checkpoint: rank 1 ended without a word" in done.err
    assert_the_same(run, undisturbed)
    killed = json.loads((run / "attempts/001/pulse-rank-1.json").read_text())["time"]
    ended = (run / "attempts/001/outcome.json").stat().st_mtime
    assert ended - killed < 45, "all ranks end within 30 s of the first"


def test_a_rank_that_stops_is_named_and_restarted(workspace: Workspace, undisturbed: Path) -> None:
    run = workspace.root / "stopped"
    done = started(workspace, run, ONCE + "os.kill(os.getpid(), 19)", recovery={"hang_seconds": 60.0})
    assert done.code == 0, done.err
    (first, reason), last = outcomes(run)
    assert first == "communication"
    assert re.match(
        r"the run hangs: rank 1 on \S+ shows no life for 20 s: stopped, killed, or its node is cut off", reason
    )
    assert last == ("done", "done")
    assert_the_same(run, undisturbed)
    assert 'trainer.py", line' in (run / "attempts/001/stacks-rank-0.txt").read_text()
    assert (run / "attempts/001/stacks-rank-1.txt").read_text() == ""


def test_a_rank_that_waits_for_ever_is_named_with_its_stack(workspace: Workspace, undisturbed: Path) -> None:
    run = workspace.root / "waiting"
    done = started(workspace, run, ONCE + "import time; time.sleep(10000)", recovery={"hang_seconds": 30.0})
    assert done.code == 0, done.err
    (first, reason), last = outcomes(run)
    assert first == "communication"
    assert "no rank has gone on for 30 s" in reason or "rank 1 on " in reason
    assert last == ("done", "done")
    assert_the_same(run, undisturbed)
    assert 'sitecustomize.py", line' in (run / "attempts/001/stacks-rank-1.txt").read_text()
    waiting, behind = (last_collective(run / f"attempts/001/flight-rank-{rank}") for rank in (0, 1))
    assert waiting["collective_seq_id"] > behind["collective_seq_id"], "one has begun what the other never came to"
    assert (waiting["retired"], behind["retired"]) == (False, True)
    assert any("trainer.py" in frame["filename"] for frame in waiting["frames"])
    assert [path.name for path in run.glob("attempts/002/flight-*")] == []


def last_collective(record: Path) -> dict[str, Any]:
    """The one that a rank began last, by torch's flight recorder."""
    return dict(pickle.loads(record.read_bytes())["entries"][-1])


OUT_OF_MEMORY = """
import torch
if trainer.plan.micro_batch_size > {largest} and step >= 3:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
"""


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_global_one(workspace: Workspace) -> None:
    batch = {"micro_batch_size": 4, "gradient_accumulation_steps": 1, "global_batch_size": None}
    sections = {"training": {"epochs": 1.0, "save_steps": 2, **batch}}
    reference, run = workspace.root / "reference", workspace.root / "oom"
    assert started(workspace, reference, "pass", **sections).code == 0
    done = started(workspace, run, OUT_OF_MEMORY.format(largest=1), **sections)
    assert done.code == 0, done.err
    assert [kind for kind, _ in outcomes(run)] == ["gpu_memory", "gpu_memory", "done"]
    halved = events(run, "oom")
    assert [(row["micro_batch_size"], row["gradient_accumulation_steps"]) for row in halved] == [(2, 2), (1, 4)]
    assert {row["global_batch_size"] for row in halved} == {8}
    assert halved[0]["reason"] == "out of GPU memory: micro-batch 4 -> 2, the global batch of 8 is kept"
    assert_the_same(run, reference, tolerance=1e-5)
    # Started again, it does not try what has failed.
    again = muster("run", workspace.spec("recovery", cluster=TWO_RANKS, **sections), "--run-dir", run)
    assert again.code == 0, again.err


def test_out_of_memory_at_micro_batch_one_ends_with_6_and_what_would_fit(workspace: Workspace) -> None:
    run = workspace.root / "hopeless"
    fault = 'import torch\nraise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")'
    batch = {"micro_batch_size": 2, "gradient_accumulation_steps": 1, "global_batch_size": None}
    sections = {"training": {"epochs": 1.0, **batch}}
    done = started(workspace, run, fault, cluster={"device": "cpu", "devices_per_node": 1}, **sections)
    assert done.code == 6
    assert [(row["micro_batch_size"], row["gradient_checkpointing"]) for row in events(run, "oom")] == [
        (1, False),
        (1, True),
    ]
    assert "the micro-batch is 1 and activations are recomputed already" in done.err
    assert not events(run, "finished")


def test_the_same_error_twice_is_not_tried_again(workspace: Workspace) -> None:
    run = workspace.root / "broken"
    done = started(workspace, run, 'if step == 3:\n    raise KeyError("weights")')
    assert done.code == 10
    assert [kind for kind, _ in outcomes(run)] == ["worker", "worker"]
    assert re.search("restarting from the beginning, nothing was saved yet: rank [01]: KeyError", done.err)
    assert "same error at the same step as before: a restart mends nothing" in done.err


def test_restarts_without_progress_come_to_an_end(workspace: Workspace) -> None:
    run = workspace.root / "fruitless"
    """The rank that is left tells of the same lost connection each time, which is no error of its own."""
    done = started(workspace, run, "if (step, rank) == (3, 1):\n    os.kill(os.getpid(), 9)", recovery={"restarts": 2})
    assert done.code == 10
    assert [kind for kind, _ in outcomes(run)] == ["worker"] * 3
    assert "2 restarts brought no further step (recovery.restarts)" in done.err
