"""A report on the screen, and as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.redact import redact
from launch.report.facts import against_plan, verdict
from launch.report.marks import marks
from launch.report.numbers import told
from launch.report.page import Run
from launch.report.together import together
from launch.wording import printable

STYLES = {"good": "green", "bad": "red", "warn": "yellow"}


def summary(runs: Sequence[Run]) -> RenderableType:
    """A fact a row; of several runs a number a row and a run a column."""
    return _one(runs[0]) if len(runs) == 1 else _several(runs)


def _one(run: Run) -> RenderableType:
    said = verdict(run.reading, run.numbers)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", _text(run.name))
    table.add_row("verdict", _text(f"{said.word}: {said.sentence}".removesuffix(": "), style=STYLES.get(said.tone, "")))
    if said.fix:
        table.add_row("fix", _text(" ".join(said.fix.split())))
    for one in told(run.reading, run.numbers):
        table.add_row(one.name, Text(f"{one.value} ({one.note})" if one.note else one.value))
    return table


def _several(runs: Sequence[Run]) -> RenderableType:
    found = together([(run.name, run.reading, run.numbers) for run in runs])
    table = Table(box=None, pad_edge=False)
    table.add_column("", style="bold")
    for run in runs:
        table.add_column(_text(run.name), overflow="fold")
    table.add_row("state", *(verdict(run.reading, run.numbers).word for run in runs))
    for row in found.rows:
        marked = (f"{value} *" if place in row.best else value for place, value in enumerate(row.values))
        table.add_row(row.name, *marked)
    for setting, *values in found.differences:
        table.add_row(setting, *(_text(value) for value in values))
    return Group(table, _text(found.sentence))


def document(target: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """What `muster report --json` prints; docs/report.md lists its keys."""
    return {"report": str(target), "runs": [_document(run) for run in runs]}


def _document(run: Run) -> dict[str, Any]:
    reading = run.reading
    return {
        "name": run.name, "run": str(reading.place.root), "verdict": vars(verdict(reading, run.numbers)),
        "numbers": run.numbers, "plan": [vars(row) for row in against_plan(reading, run.numbers)],
        "attempts": [
            {
                "attempt": one.number, "exit_code": None if one.exit_code is None else int(one.exit_code),
                "reason": one.reason, "step": one.step, "seconds": one.seconds, "then": list(one.then),
            }
            for one in reading.diagnosis.tried
        ],
        "events": [
            {"event": mark.kind, "time": mark.time, "step": mark.step, "text": mark.text}
            for mark in marks(reading) if mark.tone != "calm"
        ],
    }  # fmt: skip


def _text(told: str, style: str = "") -> Text:
    return Text(printable(redact(told)), style=style)
