"""What an attempt begins with."""

import os
import time
from pathlib import Path

import pytest

from launch.rundir import RunDir
from launch.supervise.loop import began, forget_stop
from tests.conftest import command


def test_when_this_process_was_started() -> None:
    before = time.time()
    told = float(command("-c", "from launch.supervise.loop import began; print(began())").out)
    assert before - 0.1 <= told <= time.time()


@pytest.mark.parametrize(("after", "stays"), [(-0.2, False), (0.2, True)])
def test_a_stop_is_meant_for_whoever_ran_then(tmp_path: Path, after: float, stays: bool) -> None:
    run = RunDir(tmp_path)
    run.stop.touch()
    os.utime(run.stop, (began() + after, began() + after))
    forget_stop(run)
    assert run.stop.exists() is stays
