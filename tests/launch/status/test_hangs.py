"""Ranks that stand still: when that is a hang, and who the others wait for."""

from typing import Any

import pytest

from launch.rundir.pulses import Pulse
from launch.spec import RecoverySpec
from launch.status.hangs import Hang, Watch

LIMITS = RecoverySpec(hang_seconds=60, start_seconds=600)


def pulse(rank: int, time: float, **changes: Any) -> Pulse:
    values = {"rank": rank, "node": f"n{rank}", "pid": 1, "phase": "training", "step": 5, "marks": 9, "time": time}
    return Pulse.model_validate({**values, **changes})


def watched(*looks: tuple[float, list[Pulse]]) -> Hang | None:
    watch, found = Watch(LIMITS, 0.0), None
    for now, pulses in looks:
        found = watch.look(pulses, now)
    return found


def test_ranks_that_go_on() -> None:
    assert watched(*[(now, [pulse(0, now, marks=now), pulse(1, now, marks=now)]) for now in range(300)]) is None


def test_a_long_step_is_no_hang() -> None:
    assert watched(*[(now, [pulse(0, now), pulse(1, now)]) for now in range(60)]) is None


def test_nobody_goes_on_and_nobody_is_behind() -> None:
    hang = watched(*[(now, [pulse(0, now), pulse(1, now)]) for now in range(62)])
    assert hang == Hang((), (), "no rank has gone on for 60 s; all are training after step 5: see their stacks")


def test_a_rank_that_is_behind_is_named() -> None:
    hang = watched(*[(now, [pulse(0, now, marks=10), pulse(1, now), pulse(2, now, marks=10)]) for now in range(62)])
    assert hang == Hang((1,), ("n1",), "is behind the others, training, and nobody has gone on for 60 s")


def test_a_rank_whose_beats_end_is_named_sooner() -> None:
    hang = watched(*[(now, [pulse(0, now, marks=now), pulse(1, min(now, 10))]) for now in range(32)])
    assert hang is not None
    assert (hang.ranks, hang.nodes) == ((1,), ("n1",))
    assert hang.why == "shows no life for 20 s: stopped, killed, or its node is cut off"


def test_a_rank_that_has_ended_is_not_missed_and_not_waited_for() -> None:
    ended = pulse(1, 3, phase="ended", marks=10)
    assert watched(*[(now, [pulse(0, now, marks=now), ended]) for now in range(300)]) is None
    hang = watched(*[(now, [pulse(0, now), ended]) for now in range(62)])
    assert hang == Hang((), (), "no rank has gone on for 60 s; all are training after step 5: see their stacks")


def test_ranks_that_have_ended_and_a_launcher_that_has_not() -> None:
    ended = [pulse(0, 5, phase="ended"), pulse(1, 3, phase="ended")]
    assert watched(*[(now, ended) for now in range(60)]) is None
    hang = watched(*[(now, ended) for now in range(62)])
    assert hang == Hang((), (), "all ranks have ended, and whatever started them has not for 60 s")


def test_loading_may_take_longer() -> None:
    def loading(now: float) -> list[Pulse]:
        return [pulse(0, now, phase="starting"), pulse(1, now, phase="starting")]

    assert watched(*[(now, loading(now)) for now in range(500)]) is None
    assert watched(*[(now, loading(now)) for now in range(602)]) is not None


def test_no_worker_begins() -> None:
    assert watched((0.0, []), (599.0, [])) is None
    hang = watched((0.0, []), (601.0, []))
    assert hang == Hang((), (), "no worker has begun within 600 s (recovery.start_seconds)")


def test_another_nodes_clock_does_not_matter() -> None:
    assert watched(*[(now, [pulse(0, now, marks=now), pulse(1, now - 9000, marks=now)]) for now in range(300)]) is None


@pytest.mark.parametrize("seconds", [4.9, 0])
def test_a_limit_shorter_than_a_few_beats_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 5"):
        RecoverySpec(hang_seconds=seconds)
