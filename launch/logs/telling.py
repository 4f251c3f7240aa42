"""What a run has to say to people while it trains, as lines: each logged step, what happens, and warnings."""

import math
import time
from collections.abc import Collection

from launch.logs.happened import OF_WORKERS, Row, in_order, logged, numbers, told
from launch.logs.ranks import Heard
from launch.rundir import RunDir
from launch.rundir.tail import Tail


class Teller:
    """Looks at one attempt, again and again. Shows what was written since it was made."""

    def __init__(self, run: RunDir, attempt: int, verbose: bool = False, events: Collection[str] | None = OF_WORKERS):
        """`events`: the names of those that are told, None for all."""
        self.wanted = events
        self.latest: Row = {"time": time.time()}
        """The last row of metrics that was told, or a time before which there is nothing to tell."""
        self.events, self.samples, self.metrics = Tail(run.events), Tail(run.samples), Tail(run.metrics)
        self.heard = Heard(run.attempt(attempt), verbose)
        self.total: int | None = None
        """Optimizer steps that the run has, once it has started."""
        self.step: int | None = None
        """The last one that was trained."""
        self.numbers = ""
        """Loss and throughput of the last one that was logged."""

    def look(self, last: bool = False) -> list[str]:
        """The new lines. At the `last` look, warnings that wait for other ranks are told."""
        lines: list[tuple[Row, str]] = []
        for row in self.events.rows():
            if row.get("event") == "started":
                self.total = row.get("steps")
            if self.wanted is None or row.get("event") in self.wanted:
                lines += [(row, line) for line in told(row)]
        for row in self.samples.rows():
            self.step = row.get("step")
        for row in self.metrics.rows():
            # A resume or a rollback writes the file anew, with the rows that it keeps.
            if row.get("time", math.inf) < self.latest["time"] or row == self.latest:
                continue
            self.latest = row if "time" in row else self.latest
            if "loss" in row:
                self.numbers = numbers(row)
            line = logged(row, self.total)
            lines += [(row, line)] if line else []
        return in_order(lines) + self.heard.look(last)
