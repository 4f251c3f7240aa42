"""`muster report`: a run, or several, as one page."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.options import AsJson
from launch.errors import HostError, UsageError
from launch.terminal import console, print_json, say

if TYPE_CHECKING:
    from launch.rundir import RunDir


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="A run directory, or a run's name in runs/; several are compared.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write the page.  [default: RUN/report.html]", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's report.html, and print its summary; compare several runs."""
    from launch.report.numbers import numbers
    from launch.report.page import Run, page
    from launch.report.reading import read
    from launch.report.summary import document, summary
    from launch.rundir.journal import scrub
    from launch.status.following import Asker, named

    places = [place for name in runs for place in named(name)]
    target = out or _own(places)
    if target.is_dir():
        raise UsageError(
            f"--out {target}: is a folder; give the name of a file in it, such as {target / 'report.html'}"
        )
    # A hundred thousand rows are two million objects and no cycle: looking for some takes a quarter of the time.
    gc.disable()
    ask = Asker()
    read_runs = [read(place, ask) for place in places]
    names = [read_runs[0].status.name] if len(places) == 1 else _names(places)
    found = [Run(name, reading, numbers(reading)) for name, reading in zip(names, read_runs, strict=True)]
    _write(target, page(found))
    if ask.warning is not None:
        say(f"warning: {ask.warning}")
    say(f"report: {target}")
    if as_json:
        print_json(scrub(document(target, found)))
    else:
        console(stderr=False).print(summary(found))


def _write(target: Path, text: str) -> None:
    from launch.rundir.journal import write_output

    try:
        write_output(target, text)
    except OSError as error:
        raise HostError(
            f"{target}: the report cannot be written there ({error.strerror or error});"
            " say where, such as --out run.html"
        ) from error


def _own(places: list["RunDir"]) -> Path:
    if len(places) > 1:
        raise UsageError(
            "--out: a comparison of several runs belongs to none of them; say where, such as --out runs.html"
        )
    return places[0].report


def _names(places: list["RunDir"]) -> list[str]:
    """The folders' names, with as much of the way to them as it takes to tell them apart."""
    parts = [place.root.parts for place in places]
    deepest = max(map(len, parts))
    for depth in range(1, deepest + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names
