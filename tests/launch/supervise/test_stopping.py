"""Who asks a run to stop, and what a second signal does."""

import os
import signal
import threading
from pathlib import Path

from rich.console import Console

from launch.rundir import BY_A_PERSON, BY_A_WARNING, RunDir
from launch.supervise.stopping import Stopper


def stopper(tmp_path: Path, in_job: bool) -> Stopper:
    return Stopper(RunDir(tmp_path), Console(quiet=True), in_job)


def test_the_second_signal_kills_on_a_machine_and_not_in_a_job(tmp_path: Path) -> None:
    for in_job in (False, True):
        with stopper(tmp_path, in_job) as asked:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (asked.asked, asked.kill) == ("person", False)
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked.kill is not in_job


def test_ctrl_c_in_a_session_of_salloc_kills_the_second_time(tmp_path: Path) -> None:
    with stopper(tmp_path, True) as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert (asked.asked, asked.kill) == ("person", False)
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.kill
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.kill


def test_usr1_is_the_schedulers_in_a_job_alone(tmp_path: Path) -> None:
    for in_job, expected in ((True, "scheduler"), (False, "person")):
        with stopper(tmp_path, in_job) as asked:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert asked.asked == expected
            assert RunDir(tmp_path).stop.exists()


def test_a_warning_from_before_it_could_be_heard(tmp_path: Path) -> None:
    """The batch script's own process starts the supervisor with it held back (test_supervisor.py)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # of all threads this one: others have not blocked it
    with stopper(tmp_path, True) as asked:
        assert (asked.asked, asked.by_name) == ("scheduler", False)


def test_a_stop_through_the_directory(tmp_path: Path) -> None:
    asked = stopper(tmp_path, True)
    asked.look()
    assert asked.asked == "nobody"
    RunDir(tmp_path).stop.touch()
    asked.look()
    assert asked.asked == "person"


def test_a_warning_that_a_node_has_heard(tmp_path: Path) -> None:
    for in_job, expected in ((True, "scheduler"), (False, "person")):
        asked = stopper(tmp_path, in_job)
        RunDir(tmp_path).stop.write_text(BY_A_WARNING)
        asked.look()
        assert asked.asked == expected
        RunDir(tmp_path).stop.write_text(BY_A_PERSON)
        asked.look()
        assert asked.asked == "person"


def test_a_person_outranks_the_scheduler(tmp_path: Path) -> None:
    with stopper(tmp_path, True) as asked:
        os.kill(os.getpid(), signal.SIGUSR1)
        asked.look()
        assert asked.asked == "scheduler"
        RunDir(tmp_path).stop.write_text(BY_A_PERSON)
        asked.look()
        assert (asked.asked, asked.by_name) == ("person", True)
