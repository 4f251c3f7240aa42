"""Follows a run directory while its workers train: a bar on a terminal, a line per logged step elsewhere."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from launch.journal import parse_rows
from launch.rundir import RunDir
from launch.wording import amount, plural


class Tail:
    """New complete rows of a .jsonl file since the last look."""

    def __init__(self, path: Path):
        self.path = path
        self.offset, self.inode = (path.stat().st_size, path.stat().st_ino) if path.exists() else (0, 0)

    def rows(self) -> list[dict[str, Any]]:
        try:
            with open(self.path, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self.inode:  # a resume wrote it anew, without the rows that it will repeat
                    self.offset, self.inode = 0, inode
                file.seek(self.offset)
                block = file.read()
        except FileNotFoundError:
            return []
        end = block.rfind(b"\n") + 1
        self.offset += end
        return list(parse_rows(block[:end].decode(errors="replace")))


class Follower:
    """Shows what the workers write. Use as a context manager and call `look` now and then."""

    def __init__(self, run: RunDir, console: Console):
        self.console = console
        self.events, self.samples, self.metrics = Tail(run.events), Tail(run.samples), Tail(run.metrics)
        self.total: int | None = None
        self.began = time.time()
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
            self.look()
            self.bar.update(self.task, refresh=True)
            self.bar.__exit__(None, None, None)

    def look(self) -> None:
        for row in self.events.rows():
            self._event(row)
        for row in self.samples.rows():
            self.bar.update(self.task, completed=row["step"], description="training")
        for row in self.metrics.rows():
            self._metrics(row)

    def _event(self, row: dict[str, Any]) -> None:
        match row["event"]:
            case "started":
                self.total = row["steps"]
                self.bar.update(self.task, total=self.total)
                self.console.print(data_line("data", row["data"]))
                if "evaluation_data" in row:
                    self.console.print(data_line("evaluation", row["evaluation_data"]))
            case "resumed":
                self.console.print(f"resumed from {row['checkpoint']}")
            case "forecast_off":
                took, expected = (amount(row[key]) for key in ("measured_bytes", "forecast_bytes"))
                self.console.print(f"warning: the largest batch took {took}, the forecast for it was {expected}")
            case "checkpoint_refused":
                self.console.print(f"refused {row['reason']}; {row['instead']}")

    def _metrics(self, row: dict[str, Any]) -> None:
        if row.get("time", self.began) < self.began:  # kept from an earlier attempt when a resume wrote the file anew
            return
        if "eval_loss" in row:
            self.console.print(f"step {row['step']}: eval_loss {row['eval_loss']:.4f}")
            return
        # Where every step was left out there is no loss.
        loss = "-" if row["loss"] is None else f"{row['loss']:.3f}"
        numbers = f"loss {loss}  {row['tokens_per_second']:,.0f} tokens/s"
        self.bar.update(self.task, numbers=numbers)
        if not self.console.is_terminal:
            self.console.print(f"step {row['step']}/{self.total}: {numbers}")


def data_line(name: str, data: dict[str, Any], left_out: str = "tokens/*/quarantine.jsonl") -> str:
    """What became of rows, nothing left out; those that were stand in `left_out`."""
    done = [f"{count:,} {what}" for what, count in data["counts"].items()]
    if data["quarantined_rows"]:
        done.append(f"{plural(data['quarantined_rows'], 'row')} left out (see {left_out})")
    use = "trained on" if name == "data" else "judged"
    tokens = f"{data['tokens']:,} tokens, {data['trainable_tokens']:,} of them {use}"
    return "; ".join([f"{name}: {plural(data['rows'], 'row')}, {tokens}", *done])
