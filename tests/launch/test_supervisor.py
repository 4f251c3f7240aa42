"""The batch script's own process: what becomes of a job whose supervisor ends in one way or another."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, command, environment, until_ended

# In place of the supervisor: says how it was started, then does what it is told.
CHILD = """
import os, signal, sys, time
killed = "--killed" in sys.argv
def heard(number, frame):
    print("heard", signal.Signals(number).name, flush=True)
    sys.exit(75)
def listen():
    signal.signal(signal.SIGUSR1, heard)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
print(*sys.argv[1:], flush=True)
{does}
"""
KEEP = "import sys; from launch import supervisor; supervisor.OWN_END_SECONDS = 0.2; sys.exit(supervisor.Parent({argv!r}).keep({given!r}))"  # noqa: E501


def started(does: str, *given: str) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-c", CHILD.format(does=does)]
    keep = KEEP.format(argv=argv, given=list(given))
    return subprocess.Popen(
        [sys.executable, "-c", keep], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]") -> tuple[int, list[str], list[str]]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out.splitlines(), err.splitlines()


@pytest.mark.parametrize("code", [0, 3, 75])
def test_its_exit_code_is_the_job_s(code: int) -> None:
    assert ended(started(f"sys.exit({code})", "a.yaml", "--run-dir", "x y")) == (code, ["a.yaml --run-dir x y"], [])


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (40, "signal 40")])
def test_one_that_was_killed_is_followed_by_another_that_knows(number: int, name: str) -> None:
    code, out, err = ended(started(f"if not killed: os.kill(os.getpid(), {number})", "a.yaml"))
    assert (code, out) == (0, ["a.yaml", f"--killed {number} a.yaml"])
    assert err == [f"the supervisor was killed ({name}): another one goes on"]


def test_one_that_is_killed_again_and_again_is_given_up() -> None:
    code, out, err = ended(started("os.kill(os.getpid(), 9)", "a.yaml"))
    assert (code, len(out)) == (137, 4)
    told = "4 times in a row, each within 60 s of its start"
    assert err[-1] == f"error: the supervisor was killed (SIGKILL) {told}"


def test_a_signal_that_asks_to_stop_reaches_it_once() -> None:
    process = started("listen(); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    process.send_signal(signal.SIGUSR1)
    assert ended(process) == (75, ["heard SIGUSR1"], [])


def test_a_warning_waits_until_it_can_be_heard() -> None:
    """It is sent once, and by default it kills: a supervisor that still looks at its data would be gone."""
    process = started("time.sleep(0.5); print('looked', flush=True); listen(); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    process.send_signal(signal.SIGUSR1)
    assert ended(process) == (75, ["looked", "heard SIGUSR1"], [])


def test_one_that_was_warned_and_killed_is_followed_by_one_that_is_warned() -> None:
    """Else nobody would give the job back."""
    does = "if not killed: os.kill(os.getppid(), signal.SIGUSR1); os.kill(os.getpid(), 9)\nlisten(); time.sleep(60)"
    code, out, _ = ended(started(does, "a.yaml"))
    assert (code, out) == (75, ["a.yaml", "--killed 9 a.yaml", "heard SIGUSR1"])


def test_a_warning_in_its_last_moment_does_not_end_the_job() -> None:
    """Python itself has let go of its handlers by then."""
    dies = "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1]); os.kill(os.getpid(), signal.SIGUSR1)"
    code, out, _ = ended(started(f"if not killed: {dies}", "a.yaml"))
    assert (code, out) == (0, ["a.yaml", f"--killed {int(signal.SIGUSR1)} a.yaml"])


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_who_was_asked_to_end_is_not_started_again(sent: signal.Signals) -> None:
    """By Slurm, which tells all processes of a job and kills them later: here one that has no ear yet."""
    process = started("time.sleep(60)")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(sent)
    assert ended(process) == (128 + sent, [], [])


def test_who_was_told_to_end_before_there_was_anybody_to_tell_starts_nobody(tmp_path: Path) -> None:
    code = (
        "import signal, sys; from launch import supervisor; supervisor.OWN_END_SECONDS = 0.1\n"
        "parent = supervisor.Parent(['touch']); parent.heard = {signal.SIGTERM}; sys.exit(parent.keep(sys.argv[1:]))"
    )
    assert command("-c", code, tmp_path / "started").code == 128 + signal.SIGTERM
    assert not (tmp_path / "started").exists()


def test_ctrl_c_in_a_terminal_is_heard_once() -> None:
    """The terminal itself sends it to both."""
    process = started("signal.signal(signal.SIGINT, heard); print('ready', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["\n", "ready\n"]
    os.killpg(process.pid, signal.SIGINT)
    assert ended(process) == (75, ["heard SIGINT"], [])


def test_it_ends_with_its_parent() -> None:
    process = started("print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout is not None
    process.stdout.readline()
    child = int(process.stdout.readline())
    process.kill()
    process.communicate()
    until_ended(child)


def test_it_imports_nothing_large() -> None:
    """It must not be what the kernel ends for want of memory, and costs little before a run begins."""
    large = "{'typer', 'pydantic', 'rich', 'yaml', 'launch.cli'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, launch.supervisor; print({large})"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "set()\n"
