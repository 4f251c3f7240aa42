"""The workers of this node: started, looked after, ended together."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from launch.machine.devices import BY_BUS, ORDER
from launch.processes import die_with_parent, log_writer
from launch.rundir import Attempt
from launch.rundir.pulses import Pulse, ended_well, read_pulses

# Ranks whose peer is gone wait for it, and torchrun (torch.distributed.elastic) gives them 30 s to end.
# With one rank gone there is nothing to wait for: after so many seconds all of them are killed.
BEREAVED_SECONDS = 10.0
# Until what was printed is in its log. A process that a worker has left behind may hold its output open for ever.
LOGGED_SECONDS = 10.0
# faulthandler's signal in a worker (training/telemetry/pulse.py).
STACKS_SIGNAL = signal.SIGUSR2
# Set by a launcher for its workers. Left over from another launch, they would make ours believe that it is part of it.
_FOREIGN_PREFIXES = (
    "ACCELERATE_", "FSDP_", "TORCHELASTIC_", "GROUP_", "ROLE_", "PMI_", "PMIX_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_",
)  # fmt: skip
_FOREIGN_NAMES = {
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR",
}  # fmt: skip


class NodeWorkers:
    """One node's part of an attempt: a launcher, and the ranks that it starts.

    What it is told comes through the attempt's directory, which works across nodes where signals do not.
    """

    def __init__(self, argv: list[str], attempt: Attempt, ranks: Collection[int], log: Path):
        self.attempt, self.ranks = attempt, ranks
        self.asked = False
        self.bereaved: float | None = None
        variables = environment(os.environ)
        self.writer = log_writer(log, variables)
        # A session of its own: Ctrl-C reaches this process alone.
        self.launcher = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=self.writer.stdin, stderr=self.writer.stdin,
            env=variables, start_new_session=True, preexec_fn=partial(_begin, os.getpid()),
        )  # fmt: skip
        assert self.writer.stdin is not None
        self.writer.stdin.close()

    def poll(self) -> int | None:
        """The launcher's exit code once it has ended, negative for a signal. Looks after its ranks meanwhile."""
        if self.launcher.poll() is None:
            self._look_after(time.monotonic())
        return self.launcher.returncode

    def kill(self) -> None:
        """Ends the launcher, and with it its ranks: they die with their parent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.launcher.pid, signal.SIGKILL)

    def cut_off(self) -> bool:
        return False

    def preempted(self) -> bool:
        return False

    def leave(self) -> None:
        self.kill()

    def close(self) -> None:
        """Waits until what they printed is in their logs, but not for what a worker has started and left behind."""
        self.launcher.wait()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.writer.wait(LOGGED_SECONDS)

    def _look_after(self, now: float) -> None:
        if self.attempt.over.exists():
            self.kill()
        if not self.asked and self.attempt.stacks_wanted.exists():
            self.asked = True
            for pulse in self._pulses():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pulse.pid, STACKS_SIGNAL)
        if all(pulse.phase == "ended" or _alive(pulse.pid) for pulse in self._pulses()):
            self.bereaved = None
        elif self.bereaved is None:
            self.bereaved = now
        elif now - self.bereaved > BEREAVED_SECONDS:
            self.kill()

    def ended_well(self) -> bool:
        """Whether each rank of this node has done what it had to."""
        return ended_well(self._pulses(), len(self.ranks))

    def _pulses(self) -> list[Pulse]:
        return [pulse for pulse in read_pulses(self.attempt) if pulse.rank in self.ranks]


def _begin(parent: int) -> None:
    """In the launcher, which would die of the scheduler's warning. Its workers listen to it: ranks/control.py."""
    die_with_parent(parent)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """The workers' environment: the caller's without another launcher's variables, and our own packages first.

    With PYTHONSAFEPATH a folder called training/ where the user stands cannot take the place of ours. GPUs are counted
    as preflight counts them, unless somebody wants it otherwise.
    """
    kept = {
        name: value
        for name, value in outer.items()
        if name not in _FOREIGN_NAMES and not name.startswith(_FOREIGN_PREFIXES)
    }
    packages = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (packages, outer.get("PYTHONPATH"))))
    defaults = {"TOKENIZERS_PARALLELISM": "true", ORDER: BY_BUS}
    return {**defaults, **kept, "PYTHONSAFEPATH": "1"}


def free_port() -> int:
    """A port that is free now. 29500, the default everywhere, collides on shared machines (pytorch#116974)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
