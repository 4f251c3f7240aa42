"""What becomes of a job by what its nodes say."""

from pathlib import Path

import pytest
from rich.console import Console

from launch.allocation import Allocation
from launch.errors import PreflightError
from launch.rundir import RunDir
from launch.supervise import job
from launch.supervise.decisions import Requeue
from launch.supervise.gang import Gathered
from tests.launch.supervise.test_decisions import plan
from tests.launch.supervise.test_gang import gathered, probe

ENDED = "cannot answer: exit code 143"


@pytest.mark.parametrize("found", [gathered(n0=ENDED, n1=ENDED), gathered(probe("n1"), n0=ENDED)])
def test_a_preemption_ends_what_asks_the_nodes_and_is_no_fault_of_theirs(
    found: Gathered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may have answered before; without a preemption those that are silent are out."""
    two = Allocation(job="1", number=1, nodes=("n0", "n1"), restarts=0, cpus=None)
    place = job.InJob(RunDir(tmp_path), two, (), Console())
    monkeypatch.setattr(job, "gather", lambda *_: found)
    monkeypatch.setattr(job, "preempted", lambda _: True)
    assert place.prepared(plan(nodes=2), []) == Requeue("preempted while the nodes were asked")
    monkeypatch.setattr(job, "preempted", lambda _: False)
    with pytest.raises(PreflightError, match=r"2 nodes needed, \d fit: node n0"):
        place.prepared(plan(nodes=2), [])
