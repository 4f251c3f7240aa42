"""Follows an attempt while its workers train: a line for each logged step, and on a terminal a bar below them."""

import contextlib
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from launch.logs.telling import Teller
from launch.rundir import RunDir


class Follower:
    """Shows what the workers write. Use as a context manager and call `look` now and then."""

    def __init__(self, run: RunDir, console: Console, verbose: bool = False):
        self.console = console
        self.teller = Teller(run, run.last_attempt(), verbose)
        self.bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"), TimeRemainingColumn(),
            console=console, transient=False, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("starting", total=None, numbers="")

    def __enter__(self) -> "Follower":
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        with contextlib.suppress(OSError):  # a terminal that was closed
            self.look(last=True)
            self.bar.update(self.task, refresh=True)
            self.bar.__exit__(None, None, None)

    def look(self, last: bool = False) -> None:
        """At the `last` look nothing waits any longer."""
        for line in self.teller.look(last):
            # As it is: a message may hold brackets, and a path must survive a copy and paste.
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.bar.update(self.task, total=self.teller.total, numbers=self.teller.numbers)
        if self.teller.step is not None:
            self.bar.update(self.task, completed=self.teller.step, description="training")
