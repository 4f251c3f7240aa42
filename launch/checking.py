"""All checks of one run on this machine, its rows included, and what they mean for it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from launch.allocation import Allocation
from launch.errors import MusterError
from launch.plan import Plan
from launch.preflight import CHECKS, Context, Result, accept, problem, rows, run_checks
from launch.rundir import RunDir
from launch.supervise.rollcall import roll_call


class Checked(NamedTuple):
    results: list[Result]
    problem: MusterError | None
    """What stops a run: rows that cannot be used, told in full, before all else."""
    rows: dict[str, str]
    """Fingerprints of rows without an error."""
    place: str
    """What was checked, such as `8 GPUs on 1 node`."""


def checked(plan: Plan, spec_file: str, run: RunDir, accepted: Sequence[str] = ()) -> Checked:
    """On this machine. Raises UsageError for a name in `accepted`, or in the spec's preflight.accept, that no check
    has."""
    return _judged(plan, spec_file, run, accepted, lambda context: run_checks(context, CHECKS))


def of_job(job: Allocation, plan: Plan, spec_file: str, run: RunDir, accepted: Sequence[str] = ()) -> Checked:
    """On every node of a job, and among all of them. Raises as `checked` does."""
    return _judged(plan, spec_file, run, accepted, lambda context: roll_call(job, plan, run))


def rows_alone(plan: Plan, spec_file: str, run: RunDir, accepted: Sequence[str] = ()) -> Checked:
    """Where the nodes are asked later. Raises as `checked` does."""
    return _judged(plan, spec_file, run, accepted, lambda context: [])


def _judged(
    plan: Plan, spec_file: str, run: RunDir, accepted: Sequence[str], look: Callable[[Context], list[Result]]
) -> Checked:
    names = [*accepted, *plan.spec.preflight.accept]
    accept([], names, known := [check.name for check in CHECKS])
    context = Context(plan=plan, run=run)
    results = look(context)
    data = rows(plan, spec_file)
    judged = accept([*results, data.result], names, known)
    return Checked(judged, data.error or problem(judged), data.checked, context.place)
