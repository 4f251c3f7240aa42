"""What becomes of a job by what its nodes say."""

from pathlib import Path

import pytest
from rich.console import Console

from launch.cluster.allocation import Allocation
from launch.errors import PreflightError
from launch.rundir import RunDir
from launch.supervise import job
from launch.supervise.decisions import Requeue
from launch.supervise.gang import Gathered
from tests.launch.supervise.test_decisions import plan
from tests.launch.supervise.test_gang import gathered, probe

ENDED = "cannot answer: exit code 143"
PREEMPTED = Requeue("preempted before training began; continue with --resume auto")


TWO = Allocation(job="1", number=1, nodes=("n0", "n1"), restarts=0, cpus=None)


@pytest.mark.parametrize("found", [gathered(n0=ENDED, n1=ENDED), gathered(probe("n1"), n0=ENDED)])
def test_a_preemption_ends_what_asks_the_nodes_and_is_no_fault_of_theirs(
    found: Gathered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may have answered before; without a preemption those that are silent are out."""
    place = job.InJob(RunDir(tmp_path), TWO, (), Console())
    monkeypatch.setattr(job, "gather", lambda *_: found)
    monkeypatch.setattr(job, "preempted", lambda _: True)
    assert place.prepared(plan(nodes=2), []) == PREEMPTED
    monkeypatch.setattr(job, "preempted", lambda _: False)
    with pytest.raises(PreflightError, match=r"2 nodes needed, \d fit: node n0"):
        place.prepared(plan(nodes=2), [])


def test_a_preemption_after_all_nodes_have_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What asked them had done its work when it was told."""
    place = job.InJob(RunDir(tmp_path), TWO, (), Console())
    monkeypatch.setattr(job, "gather", lambda *_: gathered(probe("n0"), probe("n1")))
    monkeypatch.setattr(job, "preempted", lambda _: True)
    assert place.prepared(plan(nodes=2), []) == PREEMPTED
    monkeypatch.setattr(job, "preempted", lambda _: False)
    place.prepared(plan(nodes=2), [])
    assert place.nodes == ["n0", "n1"]
