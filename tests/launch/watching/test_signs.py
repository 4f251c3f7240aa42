"""Who lives, told without a lock."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.claim import hold
from launch.rundir import RunDir
from launch.rundir.journal import beat, write_json
from launch.rundir.pulses import Pulse
from launch.status.hangs import Seen
from launch.watching.signs import ALIVE_SECONDS, SILENT_SECONDS, holder, rank_troubles, ranks_told
from tests.conftest import environment

CLOCK = 1_790_000_000.0
HOLD = """
from pathlib import Path
from launch.claim import hold
from launch.rundir import RunDir
run = RunDir(Path({root!r}))
lock = hold(run, run.claimed)
input()
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_the_process_in_the_lock_file_holds_the_run_while_it_lives(run: RunDir) -> None:
    assert holder(run) is None
    code = HOLD.format(root=str(run.root))
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment()) as process:
        while process.poll() is None and not (run.claimed.exists() and run.claimed.read_text()):
            time.sleep(0.01)
        assert holder(run) == f"process {process.pid} on {os.uname().nodename}"
        assert process.stdin is not None
        process.stdin.close()
    assert holder(run) is None


def test_another_process_with_the_same_number_is_another(run: RunDir) -> None:
    hold(run, run.claimed).close()
    assert holder(run) is not None  # we live
    os.utime(run.claimed, (1.0, 1.0))
    assert holder(run) is None


def test_on_another_node_beats_tell(run: RunDir) -> None:
    attempt = run.attempt(1)
    attempt.root.mkdir(parents=True)
    run.claimed.write_text("process 1 on elsewhere")
    assert holder(run) is None
    beat(attempt.pulse(3), {"rank": 3})
    assert holder(run) == "attempt 1"
    old = time.time() - ALIVE_SECONDS - 1
    os.utime(attempt.pulse(3), (old, old))
    assert holder(run) is None


def test_an_attempt_that_ended_a_moment_ago_has_ended(run: RunDir) -> None:
    attempt = run.attempt(1)
    attempt.root.mkdir(parents=True)
    beat(attempt.supervisor, {"pid": 1})
    write_json(attempt.outcome, {"exit_code": 10, "reason": "x"})
    assert holder(run) is None


def seen(
    rank: int, moved: float = 100.0, lived: float = 100.0, behind: float = 0.0, step: int = 7, phase: str = "training"
) -> tuple[int, Seen]:
    values = {"rank": rank, "node": f"n{rank // 2}", "pid": 1, "phase": phase, "step": step, "marks": 9}
    return rank, Seen(Pulse.model_validate({**values, "time": CLOCK - behind}), moved, lived)


def troubles(*ranks: tuple[int, Seen], now: float = 101.0, clock: float = CLOCK + 1, step: float = 2.0) -> list[str]:
    return rank_troubles(dict(ranks), now, clock, step)


def test_ranks_that_beat_and_move_are_no_trouble() -> None:
    assert troubles(seen(0), seen(1)) == []
    assert troubles() == []


def test_a_rank_that_falls_silent_is_named() -> None:
    assert troubles(seen(0, lived=120.0), seen(3, lived=105.0), now=120.0) == ["rank 3 on n1: no sign of life for 15 s"]


def test_one_that_was_silent_before_anybody_looked() -> None:
    assert troubles(seen(0), seen(3, behind=40.0)) == ["rank 3 on n1: no sign of life for 40 s"]
    assert troubles(seen(0), seen(3, behind=SILENT_SECONDS)) == []


def test_all_are_silent() -> None:
    assert troubles(seen(0), seen(3), clock=CLOCK + 60) == ["ranks 0, 3 on n0, n1: no sign of life for 60 s"]
    assert troubles(seen(0), seen(3), clock=CLOCK + 25) == []  # clocks of nodes may be that far apart
    many = [seen(rank) for rank in range(16)]
    assert troubles(*many, clock=CLOCK + 60)[0].startswith("ranks 0, 1, 2, 3, 4 and 11 more on n0, n1, n2, n3, n4 and")


def test_nobody_goes_on() -> None:
    alive = {"lived": 160.0}
    assert troubles(seen(0, step=8, **alive), seen(1, **alive), now=160.0) == [
        "no rank has gone on for 60 s; the others wait for rank 1 on n0"
    ]
    assert troubles(seen(0, **alive), seen(1, **alive), now=160.0) == ["no rank has gone on for 60 s"]
    assert troubles(seen(0, moved=155.0, **alive), seen(1, **alive), now=160.0) == []


def test_long_steps_take_long_and_so_does_a_start() -> None:
    alive = {"lived": 160.0}
    assert troubles(seen(0, **alive), now=160.0, step=20.0) == []
    assert troubles(seen(0, phase="starting", **alive), now=160.0) == []


def test_what_the_ranks_do() -> None:
    assert ranks_told({}, 8) == ""
    assert ranks_told(dict([seen(0)]), 1) == "1 rank training"
    assert ranks_told(dict([seen(0), seen(1, phase="saving")]), 2) == "2 ranks saving and training"
    assert ranks_told(dict([seen(0)]), 8) == "1 of 8 ranks training"
