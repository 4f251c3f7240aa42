"""python -m launch.supervisor SPEC [options of muster run]: what a batch job starts.

The same as `muster run`, on the nodes of the job: they are asked what is wrong with them, the best ones train, and a
failure, a time limit or a lost node is followed by what can be done about it.

The job ends for Slurm with its batch script's process, for good. So that process, this one, is small and does nothing
but wait: it starts the supervisor, passes signals on to it, and starts another one when it was killed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from types import FrameType

from launch.processes import die_with_parent, signal_name

# Slurm's warning that it wants the nodes back (#SBATCH --signal). It comes once, at any moment.
WARNING = signal.SIGUSR1
# By which it asks to stop. Ctrl-C is not among them: a terminal sends it to both of us.
PASSED_ON = (signal.SIGTERM, signal.SIGHUP, WARNING)
# Who was told to end by one of these is not started again; who was warned has to give the job back.
ENDS = {signal.SIGTERM, signal.SIGHUP, signal.SIGINT}
# At a job's end Slurm kills all processes of a batch script, one after another: ours within this time.
OWN_END_SECONDS = 1.0
# Restarts of attempts are counted by the supervisors (recovery.restarts). One that is killed sooner than this may not
# have come as far as an attempt: so many in a row, and no other is started.
SOON_SECONDS, MOST_SOON = 60.0, 3


class Parent:
    """Keeps a supervisor, and the next one where somebody, or the kernel for want of memory, has killed it."""

    def __init__(self, command: Sequence[str]):
        """`command` is that of `muster run` without its arguments."""
        self.command = command
        self.child: subprocess.Popen[bytes] | None = None
        self.heard: set[int] = set()

    def keep(self, arguments: Sequence[str]) -> int:
        """The supervisor's exit code; 128 more than a signal's number where one ended it and none follows."""
        for number in (*PASSED_ON, signal.SIGINT):  # which the supervisor does not inherit, as it would SIG_IGN
            signal.signal(number, self._hear)
        of_the_last: list[str] = []  # what the next one is told
        killed_soon = 0
        while True:
            began = time.monotonic()
            code = self._run([*self.command, *of_the_last, *arguments])
            if code >= 0:
                return code
            killed_soon = killed_soon + 1 if time.monotonic() - began < SOON_SECONDS else 0
            time.sleep(OWN_END_SECONDS)
            if ENDS & {*self.heard, -code}:
                return 128 - code
            told = f"the supervisor was killed ({signal_name(-code)})"
            if killed_soon > MOST_SOON:
                print(
                    f"error: {told} {killed_soon} times in a row, each within {SOON_SECONDS:g} s of its start",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                return 128 - code
            print(f"{told}: another one goes on", file=sys.stderr, flush=True)
            of_the_last = ["--killed", str(-code)]

    def _run(self, argv: Sequence[str]) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is a child to pass them on to
        try:
            if told := ENDS & self.heard:  # since the last one ended
                return -min(told)
            warned = WARNING in self.heard  # before there was a child, or by one that was killed since
            self.child = subprocess.Popen(argv, preexec_fn=partial(_begin, os.getpid()))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        with self.child:
            if warned:
                self.child.send_signal(WARNING)
            return self.child.wait()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard.add(number)
        if self.child is not None and number in PASSED_ON:
            self.child.send_signal(number)


def _begin(parent: int) -> None:
    """In the child. It starts with the warning held back, which would end it before it can hear: the supervisor lets it
    come once it can (supervise/stopping.py)."""
    die_with_parent(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, {WARNING})


if __name__ == "__main__":
    sys.exit(Parent([sys.executable, "-m", "launch", "run", "--in-job"]).keep(sys.argv[1:]))
