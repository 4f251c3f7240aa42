"""Checks for people, as rich tables. Readable without colour."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.preflight.check import Check
from launch.preflight.result import SEVERITY, Result, sentence

if TYPE_CHECKING:
    from launch.preflight.selftest import Tried

MARKS = {
    "pass": ("ok", "green"),
    "warn": ("warn", "yellow"),
    "fail": ("FAIL", "red"),
    "skipped": ("skip", "dim"),
    "unknown": ("?", "yellow"),
}


def checks_view(results: Sequence[Result], place: str) -> RenderableType:
    """By family, those that stop the run first, the verdict last. What does not concern the run is named in a line."""
    told = [result for result in results if result.status != "skipped"]
    families = sorted(  # from a dict, not a set: among equals their order is the catalogue's, the same each time
        dict.fromkeys(r.family for r in told),
        key=lambda f: min(SEVERITY.index(r.status) for r in told if r.family == f),
    )
    table = Table(title="Checks", title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for family in families:
        own = sorted((r for r in told if r.family == family), key=lambda r: SEVERITY.index(r.status))
        for (status, text), same in groupby(own, key=lambda r: (r.status, _found(r))):
            mark, style = MARKS[status]
            table.add_row(Text(mark, style=style), "\n".join(r.name for r in same), Text(text))
    reasons = Counter(result.evidence for result in results if result.status == "skipped")
    left_out = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    lines = [Text(f"skipped: {left_out}", style="dim")] if left_out else []
    return Group(table, *lines, Text(sentence(results, place), style="bold"))


def _found(result: Result) -> str:
    where = f"{result.node}: " if result.node else ""
    accepted = " (accepted)" if result.accepted else ""
    return f"{where}{result.evidence}{accepted}{f'. {result.fix}' if result.fix else ''}"


def checks_list(checks: Sequence[Check]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    table.add_column("check", style="bold", no_wrap=True)
    for column in ("family", "finds", "threshold"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, check.family, check.finds, check.threshold)
    return table


def selftest_view(tried: "Sequence[Tried]") -> RenderableType:
    """A simulated machine a row: what was found, and whether that is what is wrong with it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("machine", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("as expected", no_wrap=True)
    for each in tried:
        same: dict[str, list[str]] = {}
        for name, status in each.found.items():
            same.setdefault(status, []).append(name)
        found = "; ".join(f"{status}: {', '.join(names)}" for status, names in same.items())
        judged = "not tried" if each.not_tried else "yes" if each.right else "NO"
        table.add_row(each.scenario, found or "nothing", judged)
    counted = [each for each in tried if not each.not_tried]
    told = f"{sum(each.right for each in counted)} of {len(counted)} machines as expected"
    reasons = dict.fromkeys(each.not_tried for each in tried if each.not_tried)
    lines = [f"{sum(each.not_tried == why for each in tried)} not tried: {why}" for why in reasons]
    return Group(table, Text(told, style="bold"), *map(Text, lines))
