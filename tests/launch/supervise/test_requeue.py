"""What Slurm says of a job that it takes the nodes of away."""

import pytest

from launch.supervise import requeue


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ("StartTime=1000 SuspendTime=None PreemptTime=None", False),
        ("StartTime=1000 SuspendTime=None PreemptTime=1060", True),
        ("StartTime=1000 SuspendTime=None PreemptTime=900", False),
        ("StartTime=1000 SuspendTime=1061 PreemptTime=1060", False),
        ("StartTime=1000 SuspendTime=1030 PreemptTime=1060", True),
        ("StartTime=Unknown SuspendTime=None PreemptTime=1060", True),
        ("", False),
    ],
    ids=["not at all", "now", "an earlier start", "suspended for it", "suspended before", "no start", "no answer"],
)
def test_whether_a_job_is_preempted(told: str, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requeue, "slurm", lambda *_: f"JobId=1 JobState=RUNNING {told}\n")
    assert requeue.preempted("1") is taken
