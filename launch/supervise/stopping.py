"""Signals to whoever supervises a run, as requests to save and stop."""

import contextlib
import signal
from types import FrameType

from rich.console import Console

from launch.rundir import BY_A_PERSON, BY_A_WARNING, RunDir
from launch.supervise.decisions import Asked

# The last comes when an ssh session ends.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Stopper:
    """First signal: ask the workers to save and stop, through the run directory. Second: kill them.

    In a job USR1 is the scheduler's warning (#SBATCH --signal) before a time limit or a preemption, and no signal
    kills but Ctrl-C in a session of salloc: Slurm sends several of the others, and has its own kill for the end.
    """

    def __init__(self, run: RunDir, console: Console, in_job: bool = False):
        self.run, self.console, self.in_job = run, console, in_job
        self.asked: Asked = "nobody"
        self.by_name = False
        """Whether it was `muster stop`."""
        self.kill = False

    def __enter__(self) -> "Stopper":
        self.before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # a warning that came before we could hear (supervisor.py)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def look(self) -> None:
        """Somebody may have asked through the run directory itself (`muster stop`)."""
        with contextlib.suppress(OSError):
            asked = self.run.stop.read_text(encoding="utf-8")
            self.by_name = self.by_name or asked == BY_A_PERSON
            if self.by_name:
                self.asked = "person"
            elif self.asked == "nobody":
                self.asked = "scheduler" if self.in_job and asked == BY_A_WARNING else "person"

    def warned(self) -> None:
        """As by the scheduler's warning, where that came before anybody could hear it."""
        self._signalled(signal.SIGUSR1, None)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.asked != "nobody":
            self.kill = self.kill or not self.in_job or number == signal.SIGINT
            return
        self.asked = "scheduler" if self.in_job and number == signal.SIGUSR1 else "person"
        with contextlib.suppress(OSError):
            self.run.stop.touch()
        with contextlib.suppress(OSError):  # a terminal that was closed takes no more words
            again = "" if self.in_job and number != signal.SIGINT else "; once more to kill it"
            told = f"stopping: the run saves a checkpoint at the next step and ends{again}"
            self.console.print(told, highlight=False, soft_wrap=True)
