"""`muster preflight`: can exactly this run work here?"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.options import Accept, AsJson, Overrides, RunDirectory
from launch.commands.resolving import as_given, no_plan_as_json, resolve, run_directory
from launch.errors import DataError, UsageError, WorkerError
from launch.terminal import console, print_json

if TYPE_CHECKING:
    from launch.preflight import Result

SELFTEST_SECONDS = 600.0  # a quarter of a minute on two cores


def preflight(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="SPEC", parser=Path, help="The run's spec, a YAML file.", show_default=False),
    ] = None,
    overrides: Overrides = [],
    run_dir: RunDirectory = None,
    accepted: Accept = [],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the result as a page, too.", show_default=False)
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show every check and its threshold; run none.")] = False,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Try the checks on simulated machines, healthy and faulty.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a spec can run: on this machine, or on all nodes of the Slurm job around it."""
    from launch.cluster.allocation import allocation
    from launch.commands.checking import checked, of_job

    if listed:
        _list_checks(as_json)
        return
    if selftest:
        _try_checks(as_json)
        return
    if spec is None:
        raise UsageError("preflight needs a SPEC, --list or --selftest")
    with no_plan_as_json(as_json):
        plan = resolve(spec, overrides)
    job, place = allocation() if plan.topology.nodes > 1 else None, run_directory(plan, run_dir)
    given = as_given(spec, overrides)
    found = of_job(job, plan, given, place, accepted) if job else checked(plan, given, place, accepted)
    _show_checks(found.results, found.place, as_json, html)
    if isinstance(found.problem, DataError):
        raise found.problem
    if found.problem is not None:
        raise typer.Exit(found.problem.exit_code)


def _show_checks(results: "list[Result]", place: str, as_json: bool, html: Path | None) -> None:
    """Prints what was found, and writes it as a page where that was asked for."""
    from launch.preflight import document
    from launch.preflight.page import page
    from launch.preflight.screen import checks_view

    if html is not None:
        try:
            html.write_text(page(results, place), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--html {html}: cannot be written: {error.strerror}") from None
    if as_json:
        print_json(document(results, place))
    else:
        console(stderr=False).print(checks_view(results, place))


def _list_checks(as_json: bool) -> None:
    """Every check, for people or as JSON."""
    from launch.preflight import LISTED
    from launch.preflight.screen import checks_list

    if as_json:
        keys = ("name", "family", "finds", "threshold")
        print_json([{key: getattr(check, key) for key in keys} for check in LISTED])
    else:
        console(stderr=False).print(checks_list(LISTED))


def _try_checks(as_json: bool) -> None:
    """What the checks find on simulated machines. Raises MusterError where that is not what is wrong with them."""
    from launch.preflight.screen import selftest_view
    from launch.preflight.selftest import selftest
    from launch.processes import OverdueError, tidy_end, within

    with tidy_end(), tempfile.TemporaryDirectory() as cache:
        try:  # within: whatever ends this process ends all of it
            tried = within(SELFTEST_SECONDS, lambda: selftest(Path(cache)))
        except OverdueError:
            raise WorkerError(
                f"--selftest: not done after {SELFTEST_SECONDS:g} s: try it on a quieter machine"
            ) from None
    if as_json:
        print_json([{"machine": t.scenario, "found": t.found, "expected": t.expected, "not_tried": t.not_tried}
                    for t in tried])  # fmt: skip
    else:
        console(stderr=False).print(selftest_view(tried))
    wrong = [t.scenario for t in tried if not (t.right or t.not_tried)]
    if wrong:
        raise WorkerError(
            f"--selftest: the checks do not find what is wrong with {', '.join(wrong)}: do not rely on them"
        )
