"""All checks of one run on this machine, or of a sweep's, their rows included, and what they mean for it."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from launch.cluster.allocation import Allocation
from launch.commands.resolving import as_given
from launch.errors import DataError, MusterError
from launch.plan import Plan
from launch.preflight import CHECKS, Check, Context, Result, accept, problem, rows, run_checks
from launch.preflight.result import SEVERITY
from launch.preflight.rows import RowsCheck
from launch.rundir import RunDir
from launch.supervise.rollcall import roll_call
from launch.wording import by_saying

if TYPE_CHECKING:
    from launch.submit.job import Request

# What a login node can tell of a run on others.
STATIC = ("plan", "model", "storage", "slurm")
# Of these, checks of what elements of a sweep differ in; the others are of the one job, or of all elements together.
OF_ELEMENT = ("trackers", "model-files", "tokenizer", "slurm-shared", "slurm-container", "slurm-time", "slurm-memory")
SIZED = ("slurm-time", "slurm-memory")  # of the element that needs most


class Checked(NamedTuple):
    results: list[Result]
    problem: MusterError | None
    """What stops a run: rows that cannot be used, told in full, before all else."""
    rows: dict[str, str]
    """Fingerprints of rows without an error."""
    place: str
    """What was checked, such as `8 GPUs on 1 node`."""


def checked(plan: Plan, given: str, run: RunDir, accepted: Sequence[str] = ()) -> Checked:
    """On this machine. Raises UsageError for a name in `accepted`, or in the spec's preflight.accept, that no check
    has."""
    return _judged(Context(plan=plan, run=run), given, accepted, partial(run_checks, checks=CHECKS))


def of_batch(found: "Request", spec: Path, overrides: Sequence[str], accepted: Sequence[str]) -> Checked:
    """Here, of a job that will run on other machines: of a sweep, every model, data and tracker that its elements name,
    once each. Raises as `checked` does."""
    names, known = _accepting(found.plan, accepted)
    (first, *others), beside = _distinct(found, _looked_at), tuple(plan for plan, _ in found.runs[1:])
    static = [_static(check) for check in CHECKS]
    own = [check for check in static if check.name in OF_ELEMENT]
    context = Context(plan=found.plan, run=found.runs[0][1], batch=found.batch, beside=beside)
    results = [(_element(found, first), result) for result in run_checks(context, static)]
    sized = [check for check in own if check.name in SIZED]
    more = {**dict.fromkeys(_largest(found), sized), **dict.fromkeys(others, own)}
    for index in sorted(more.keys() - {first}):
        plan, run = found.runs[index]
        seen = run_checks(Context(plan=plan, run=run, batch=found.batch), more[index])
        results += [(_element(found, index), result) for result in seen]
    changes = found.changes or [[]]
    read = {
        index: rows(found.runs[index][0], as_given(spec, [*overrides, *changes[index]]))
        for index in _distinct(found, _data)
    }
    results += [(_element(found, index), each.result) for index, each in read.items()]
    checked = dict.fromkeys(result.name for _, result in results)
    worst = [_worst([each for each in results if each[1].name == name]) for name in checked]
    judged = accept(worst, names, known)
    return Checked(judged, _all_errors(list(read.values())) or problem(judged), read[0].checked, context.place)


def of_job(job: Allocation, plan: Plan, given: str, run: RunDir, accepted: Sequence[str] = ()) -> Checked:
    """On every node of a job, and among all of them. Raises as `checked` does."""
    return _judged(Context(plan=plan, run=run), given, accepted, partial(roll_call, job))


def rows_alone(plan: Plan, given: str, run: RunDir, accepted: Sequence[str] = ()) -> Checked:
    """Where the nodes are asked later. Raises as `checked` does."""
    return _judged(Context(plan=plan, run=run), given, accepted, lambda _: [])


def _judged(context: Context, given: str, accepted: Sequence[str], look: Callable[[Context], list[Result]]) -> Checked:
    names, known = _accepting(context.plan, accepted)
    results = look(context)
    data = rows(context.plan, given)
    judged = accept([*results, data.result], names, known)
    return Checked(judged, data.error or problem(judged), data.checked, context.place)


def _accepting(plan: Plan, accepted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The checks that may fail, and all that there are. Raises UsageError, before anything is looked at."""
    names, known = [*accepted, *plan.spec.preflight.accept], [check.name for check in CHECKS]
    accept([], names, known)
    return names, known


def _static(check: Check) -> Check:
    later = "looked at on the job's own nodes, before it trains"
    return check if check.family in STATIC else replace(check, concerns=lambda _: later)


def _looked_at(plan: Plan) -> Hashable:
    """What the checks of an element read of it, beside its rows: of two with the same, one is enough."""
    spec = plan.spec
    return spec.model.variant, spec.data.train, spec.data.eval, tuple(spec.training.report_to)


def _largest(found: "Request") -> list[int]:
    """The elements that need most of a node's memory, and most time."""
    plans = [plan for plan, _ in found.runs]
    memory = max(range(len(plans)), key=lambda index: plans[index].memory.host_bytes)
    return [memory, max(range(len(plans)), key=lambda index: plans[index].duration_seconds or 0)]


def _data(plan: Plan) -> Hashable:
    """Rows and how they are read; lengths come with the tokens."""
    return plan.spec.data.model_dump_json(exclude={"max_length", "packing"})


def _distinct(found: "Request", value: Callable[[Plan], Hashable]) -> list[int]:
    """The first element with each value."""
    first: dict[Hashable, int] = {}
    for index, (plan, _) in enumerate(found.runs):
        first.setdefault(value(plan), index)
    return list(first.values())


def _element(found: "Request", index: int) -> str:
    return f"run {index} ({', '.join(found.changes[index])})" if found.changes else ""


def _worst(results: Sequence[tuple[str, Result]]) -> Result:
    """Of what one check has found, by element: the worst, and all elements of which it is said."""
    status = min((result.status for _, result in results), key=SEVERITY.index)
    bad = {element: result for element, result in results if result.status == status}
    found = next(iter(bad.values()))
    if len(results) == 1 or status in ("pass", "skipped"):
        return found
    told = by_saying({element: result.evidence for element, result in bad.items()})
    fixes = dict.fromkeys(result.fix for result in bad.values() if result.fix)
    return found.model_copy(update={"evidence": "; ".join(told), "fix": "; ".join(fixes)})


def _all_errors(read: Sequence[RowsCheck]) -> DataError | None:
    errors = [each.error for each in read if each.error is not None]
    mistakes = list(dict.fromkeys(mistake for error in errors for mistake in error.mistakes))
    return DataError(mistakes, sum(error.hidden for error in errors)) if errors else None
