"""All checks of one run on this machine, its rows included, and what they mean for it."""

from collections.abc import Sequence
from typing import NamedTuple

from launch.errors import MusterError
from launch.plan import Plan
from launch.preflight import CHECKS, Context, Result, accept, problem, rows, run_checks
from launch.rundir import RunDir


class Checked(NamedTuple):
    results: list[Result]
    problem: MusterError | None
    """What stops a run: rows that cannot be used, told in full, before all else."""
    rows: dict[str, str]
    """Fingerprints of rows without an error."""
    place: str
    """What was checked, such as `8 GPUs on 1 node`."""


def checked(plan: Plan, spec_file: str, run: RunDir, accepted: Sequence[str] = (), here: bool = True) -> Checked:
    """`here` is false where the nodes of a job are asked instead of this machine: then only rows are looked at.

    Raises UsageError for a name in `accepted`, or in the spec's preflight.accept, that no check has."""
    names = [*accepted, *plan.spec.preflight.accept]
    accept([], names, known := [check.name for check in CHECKS])
    context = Context(plan=plan, run=run)
    results = run_checks(context, CHECKS) if here else []
    data = rows(plan, spec_file)
    judged = accept([*results, data.result], names, known)
    return Checked(judged, data.error or problem(judged), data.checked, context.place)
