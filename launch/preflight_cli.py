"""`muster preflight`: can exactly this run work here?"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from launch.errors import UsageError, WorkerError
from launch.terminal import print_json

if TYPE_CHECKING:
    from launch.preflight import Result


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


def try_checks(as_json: bool) -> None:
    """What the checks find on simulated machines. Raises MusterError where that is not what is wrong with them."""
    from launch.preflight.selftest import MACHINES, selftest
    from launch.screen import console, selftest_view

    with tempfile.TemporaryDirectory() as cache:
        tried = selftest(Path(cache))
    rows = [{"machine": t.scenario, "found": t.found, "expected": MACHINES[t.scenario].found} for t in tried]
    if as_json:
        print_json(rows)
    else:
        console(stderr=False).print(selftest_view(rows))
    wrong = [t.scenario for t in tried if not t.right]
    if wrong:
        raise WorkerError(
            f"--selftest: the checks do not find what is wrong with {', '.join(wrong)}: do not rely on them"
        )
