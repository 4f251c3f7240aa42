"""All checks of one run on this machine, its rows included, and what they mean for it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from launch.allocation import Allocation
from launch.errors import MusterError
from launch.plan import Plan
from launch.preflight import CHECKS, Check, Context, Result, accept, problem, rows, run_checks
from launch.preflight.result import Batch
from launch.rundir import RunDir
from launch.supervise.rollcall import roll_call

# What a login node can tell of a run on others.
STATIC = ("plan", "model", "storage", "slurm")


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
    return _judged(Context(plan=plan, run=run), spec_file, accepted, partial(run_checks, checks=CHECKS))


def of_batch(plan: Plan, spec_file: str, run: RunDir, accepted: Sequence[str], batch: Batch) -> Checked:
    """Here, of a job that will run on other machines. Raises as `checked` does."""
    static = [_static(check) for check in CHECKS]
    return _judged(Context(plan=plan, run=run, batch=batch), spec_file, accepted, partial(run_checks, checks=static))


def of_job(job: Allocation, plan: Plan, spec_file: str, run: RunDir, accepted: Sequence[str] = ()) -> Checked:
    """On every node of a job, and among all of them. Raises as `checked` does."""
    return _judged(Context(plan=plan, run=run), spec_file, accepted, partial(roll_call, job))


def rows_alone(plan: Plan, spec_file: str, run: RunDir, accepted: Sequence[str] = ()) -> Checked:
    """Where the nodes are asked later. Raises as `checked` does."""
    return _judged(Context(plan=plan, run=run), spec_file, accepted, lambda _: [])


def _judged(
    context: Context, spec_file: str, accepted: Sequence[str], look: Callable[[Context], list[Result]]
) -> Checked:
    plan = context.plan
    names = [*accepted, *plan.spec.preflight.accept]
    accept([], names, known := [check.name for check in CHECKS])
    results = look(context)
    data = rows(plan, spec_file)
    judged = accept([*results, data.result], names, known)
    return Checked(judged, data.error or problem(judged), data.checked, context.place)


def _static(check: Check) -> Check:
    later = "looked at on the job's own nodes, before it trains"
    return check if check.family in STATIC else replace(check, concerns=lambda _: later)
