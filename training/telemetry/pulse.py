"""Where this rank is, in a file that whoever watches the run reads; and its stacks and its collectives, when somebody
asks for them."""

import faulthandler
import os
import signal
import threading
import time

from launch.cluster.allocation import node_name
from launch.rundir import BEAT_SECONDS, Attempt, Phase
from launch.rundir.journal import beat
from launch.rundir.pulses import Pulse
from training.telemetry.flight import keep_flight

# NCCL may catch USR1, and to us it is a request to stop.
STACKS_SIGNAL = signal.SIGUSR2


class Heartbeat:
    """The mark of one rank: a phase and a step. Marking is an assignment; a thread writes it every BEAT_SECONDS.

    The file changes with each beat, whatever the training thread does: a rank whose mark stands still waits for
    something, one whose beats have ended is stopped or gone.
    """

    def __init__(self, rank: int):
        self.rank = rank
        self.phase: Phase = "starting"
        self.step = self.marks = 0
        self._attempt: Attempt | None = None
        self._writing = threading.Lock()

    def mark(self, phase: Phase, step: int | None = None) -> None:
        """Something has begun, or gone on."""
        self.phase = phase
        self.step = self.step if step is None else step
        self.marks += 1

    def begin(self, attempt: Attempt) -> None:
        """From here on the mark is written, and STACKS_SIGNAL writes the stacks of all threads, even of one that waits
        inside a C library."""
        self._attempt = attempt
        stacks = open(attempt.stacks(self.rank), "w", encoding="utf-8")  # noqa: SIM115 - open as long as the process
        faulthandler.register(STACKS_SIGNAL, stacks, all_threads=True)
        self._write()
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def end(self) -> None:
        """This rank has done what it had to. Those that watch the run do not miss it, however long the others take."""
        self.mark("ended")
        if self._attempt is not None:
            self._write()

    def _beat(self) -> None:
        assert self._attempt is not None
        kept = False
        while True:
            time.sleep(BEAT_SECONDS)
            self._write()
            if not kept and self._attempt.stacks_wanted.exists():
                kept = True
                keep_flight(self._attempt.flight(self.rank))

    def _write(self) -> None:
        assert self._attempt is not None
        with self._writing:  # the last one stays
            pulse = Pulse(
                rank=self.rank, node=node_name(), pid=os.getpid(), phase=self.phase, step=self.step, marks=self.marks,
                time=round(time.time(), 3),
            )  # fmt: skip
            beat(self._attempt.pulse(self.rank), pulse.model_dump())
