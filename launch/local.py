"""One attempt of a run on this machine: start the workers, follow them, pass on a stop, say how it ended."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from rich.console import Console

from launch.claim import finished
from launch.diagnose import outcome, read_failures
from launch.errors import ExitCode
from launch.journal import event, rows, write_json
from launch.plan import Plan
from launch.processes import die_with_parent, log_writer
from launch.progress import Follower
from launch.render import launch_argv
from launch.rundir import RunDir

LOOK_SECONDS = 0.2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)  # the last when an ssh session ends
# A disk with less is full: neither a log line's block nor a failure file fits any more.
FULL_BYTES = 1 << 20
# Set by a launcher for its workers. Left over from another launch, they would make ours believe that it is part of it.
_FOREIGN_PREFIXES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "GROUP_", "ROLE_")
_FOREIGN_NAMES = {
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR",
}  # fmt: skip


def run_attempt(plan: Plan, run: RunDir, resume: str, console: Console) -> tuple[ExitCode, str]:
    """Trains once. Returns the exit code and the reason in words; both are in the attempt's outcome.json as well."""
    attempt = run.attempt(run.last_attempt() + 1)
    attempt.root.mkdir(parents=True)
    write_json(attempt.plan, plan.model_dump(mode="json"))
    run.stop.unlink(missing_ok=True)
    argv = launch_argv(plan, run.root, run.accelerate, attempt.number, free_port(), resume)
    began = time.time()
    launcher, writer = _start(argv, attempt.launcher_log)
    with _Stopper(run, launcher, console) as stopper, Follower(run, console) as follower:
        while launcher.poll() is None:
            with contextlib.suppress(OSError):  # the terminal may be gone; the run goes on
                follower.look()
            time.sleep(LOOK_SECONDS)
    writer.wait()
    told = {row["event"] for row in rows(run.events) if row["time"] >= began}
    code, reason = outcome(
        launcher.returncode, read_failures(attempt), plan.world_size,
        stopped="stopped" in told, finished=finished(run), disk_full=shutil.disk_usage(run.root).free < FULL_BYTES,
    )  # fmt: skip
    if stopper.killed:
        code, reason = ExitCode.WORKER, "killed as asked, before it could save; continue with --resume auto"
    kind = code.name.lower()
    ending = {"exit_code": int(code), "class": kind, "reason": reason, "returncode": launcher.returncode}
    with contextlib.suppress(OSError):  # on a full disk the exit code and the message are all that can be left
        if code not in (ExitCode.DONE, ExitCode.STOPPED) and "failed" not in told:
            event(run.events, "failed", **{"class": kind, "message": reason})
        write_json(attempt.outcome, {**ending, "seconds": round(time.time() - began, 1)})
    return code, reason


def _start(argv: list[str], log: Path) -> "tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]":
    """The launcher, and the process that writes what it prints to its log.

    Each leads a session of its own, so that Ctrl-C reaches this process alone.
    """
    variables = environment(os.environ)
    writer = log_writer(log, variables)
    launcher = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=writer.stdin, stderr=writer.stdin,
        env=variables, start_new_session=True, preexec_fn=die_with_parent,
    )  # fmt: skip
    assert writer.stdin is not None
    writer.stdin.close()
    return launcher, writer


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """The workers' environment: the caller's without another launcher's variables, and our own packages first.

    With PYTHONSAFEPATH a folder called training/ where the user stands cannot take the place of ours.
    """
    kept = {
        name: value
        for name, value in outer.items()
        if name not in _FOREIGN_NAMES and not name.startswith(_FOREIGN_PREFIXES)
    }
    packages = str(Path(__file__).resolve().parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (packages, outer.get("PYTHONPATH"))))
    return {**kept, "PYTHONSAFEPATH": "1", "TOKENIZERS_PARALLELISM": outer.get("TOKENIZERS_PARALLELISM", "true")}


def free_port() -> int:
    """A port that is free now. 29500, the default everywhere, collides on shared machines (pytorch#116974)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Stopper:
    """First signal: ask the workers to save and stop, through the run directory. Second: kill them."""

    def __init__(self, run: RunDir, launcher: "subprocess.Popen[bytes]", console: Console):
        self.run, self.launcher, self.console = run, launcher, console
        self.asked = self.killed = False

    def __enter__(self) -> "_Stopper":
        self.before = {number: signal.signal(number, self._signalled) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self.killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.launcher.pid, signal.SIGKILL)
            return
        self.asked = True
        self.run.stop.touch()
        with contextlib.suppress(OSError):  # a terminal that was closed takes no more words
            self.console.print("stopping: the run saves a checkpoint at the next step and ends; once more to kill it")
