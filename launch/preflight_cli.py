"""`muster preflight`: can exactly this run work here?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.errors import UsageError
from launch.terminal import print_json

if TYPE_CHECKING:
    from launch.preflight import Result

Accept = Annotated[
    list[str],
    typer.Option(
        "--accept", metavar="CHECK", help="Go on although this check fails; may be given again.", show_default=False
    ),
]


def show_checks(results: "list[Result]", place: str, as_json: bool, html: Path | None) -> None:
    """Prints what was found, and writes it as a page where that was asked for."""
    from launch.preflight import document
    from launch.preflight.page import page
    from launch.screen import checks_view, console

    if html is not None:
        try:
            html.write_text(page(results, place), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--html {html}: cannot be written: {error.strerror}") from None
    if as_json:
        print_json(document(results, place))
    else:
        console(stderr=False).print(checks_view(results, place))


def list_checks(as_json: bool) -> None:
    """Every check, for people or as JSON."""
    from launch.preflight import LISTED
    from launch.screen import checks_list, console

    if as_json:
        keys = ("name", "family", "finds", "threshold")
        print_json([{key: getattr(check, key) for key in keys} for check in LISTED])
    else:
        console(stderr=False).print(checks_list(LISTED))
