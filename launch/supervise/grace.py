"""Whether a warning before a time limit leaves enough time to stop: measured, before it is needed."""

import math
import time

from launch.rundir import RunDir
from launch.rundir.journal import event
from launch.rundir.tail import Tail


def seconds_to_stop(longest_step: float, longest_save: float) -> int:
    """A stop waits for the step that has begun, with an evaluation that may be in it, and for a checkpoint."""
    return math.ceil(longest_step + longest_save)


class Grace:
    """Follows a run and tells, once, when it could not stop within its grace."""

    def __init__(self, run: RunDir, grace: float):
        self.run, self.grace, self.told = run, grace, False
        self.steps, self.events = Tail(run.samples), Tail(run.events)
        self.last: float | None = None
        self.step = self.save = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if self.steps.rows():
            if self.last is not None:
                self.step = max(self.step, now - self.last)
            self.last = now
        for row in self.events.rows():
            if row["event"] == "saved":
                self.save = max(self.save, row["seconds"])
        needed = seconds_to_stop(self.step, self.save)
        if self.save and needed > self.grace and not self.told:
            self.told = True
            event(
                self.run.events, "grace_short", grace_seconds=self.grace, needed_seconds=needed,
                longest_step_seconds=round(self.step, 1), save_seconds=self.save,
                fix=f"slurm.grace_seconds: {2 * needed}",
            )  # fmt: skip
