"""`muster diagnose`: one page that names the first cause of a run's last failure, and the fix."""

from typing import Annotated

import typer

from launch.commands.options import AsJson, RunName
from launch.commands.resolving import place_of
from launch.terminal import print_json, show


def diagnose(
    run: RunName,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Look at this attempt.  [default: the last one]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name the first cause of a run's last failure, and the fix."""
    from launch.diagnosis.page import document, page
    from launch.diagnosis.report import diagnosed
    from launch.redact import redact
    from launch.rundir import RunDir
    from launch.rundir.journal import scrub

    found = diagnosed(RunDir(place_of(run).resolve()), attempt)
    if as_json:
        print_json(scrub(document(found)))
    else:
        show(redact(page(found)))
