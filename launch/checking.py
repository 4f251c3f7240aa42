"""All checks of one run on this machine, its rows included, and what they mean for it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from launch.errors import MusterError
from launch.plan import Plan
from launch.preflight import CHECKS, Check, Context, Result, accept, problem, rows, run_checks
from launch.preflight.result import Batch
from launch.rundir import RunDir

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


def checked(
    plan: Plan, spec_file: str, run: RunDir, accepted: Sequence[str] = (), here: bool = True, batch: Batch | None = None
) -> Checked:
    """`here` is false where the nodes of a job are asked instead of this machine: then only rows are looked at. With a
    `batch`, of a job that will run on other machines.

    Raises UsageError for a name in `accepted`, or in the spec's preflight.accept, that no check has.
    """
    names = [*accepted, *plan.spec.preflight.accept]
    accept([], names, known := [check.name for check in CHECKS])
    context = Context(plan=plan, run=run, batch=batch)
    checks = CHECKS if batch is None else [_static(check) for check in CHECKS]
    results = run_checks(context, checks) if here else []
    data = rows(plan, spec_file)
    judged = accept([*results, data.result], names, known)
    return Checked(judged, data.error or problem(judged), data.checked, context.place)


def _static(check: Check) -> Check:
    later = "looked at on the job's own nodes, before it trains"
    return check if check.family in STATIC else replace(check, concerns=lambda _: later)
