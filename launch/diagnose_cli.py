"""`muster diagnose`: one page that names the first cause of a run's last failure, and the fix."""

from pathlib import Path
from typing import Annotated

import typer

from launch.options import AsJson
from launch.terminal import print_json, show


def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Look at this attempt.  [default: the last one]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name the first cause of a run's last failure, and the fix."""
    from launch.diagnosis.page import document, page
    from launch.diagnosis.report import diagnosed
    from launch.journal import scrub
    from launch.redact import redact
    from launch.rundir import RunDir

    found = diagnosed(RunDir(run.resolve()), attempt)
    if as_json:
        print_json(scrub(document(found)))
    else:
        show(redact(page(found)))
