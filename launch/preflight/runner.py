"""Runs checks apart from one another, each in a process of its own with a deadline of its own.

A check that hangs, on a dead NFS mount or in a stuck driver, is unknown after its deadline; one that breaks is unknown
at once. Neither holds up the others.
"""

from collections.abc import Sequence
from functools import partial

from launch.errors import UsageError
from launch.preflight.check import Check
from launch.preflight.result import Context, Finding, Result, unknown
from launch.processes import OverdueError, together


def run_checks(context: Context, checks: Sequence[Check]) -> list[Result]:
    """Every check's result, in their order; those that do not concern the run are skipped with the reason."""
    reasons = {check.name: check.concerns(context) for check in checks}
    concerned = [check for check in checks if reasons[check.name] is None]
    answers = together([(partial(_run, check, context), check.deadline) for check in concerned])
    found = {check.name: _finding(check, answer) for check, (answer, _) in zip(concerned, answers, strict=True)}
    taken = {check.name: seconds for check, (_, seconds) in zip(concerned, answers, strict=True)}
    skipped = {name: Finding(status="skipped", evidence=reason) for name, reason in reasons.items() if reason}
    return [
        Result(
            **(found | skipped)[check.name].model_dump(), name=check.name, family=check.family,
            threshold=check.threshold, seconds=round(taken.get(check.name, 0.0), 3),
        )
        for check in checks
    ]  # fmt: skip


def _run(check: Check, context: Context) -> Finding:
    assert check.run is not None, "a check that is not run says where it is looked at"
    return check.run(context)


def _finding(check: Check, answer: Finding | BaseException) -> Finding:
    match answer:
        case Finding():
            return answer
        case OverdueError():
            fix = "see what hangs there: a mount that does not answer (df), a driver that does not (nvidia-smi, dmesg)"
            return unknown(f"no answer within {check.deadline:g} s", fix)
        case _:
            return unknown(f"the check itself failed: {type(answer).__name__}: {answer}", "report this")


def accept(results: Sequence[Result], names: Sequence[str], known: Sequence[str]) -> list[Result]:
    """Results with those that failed and that somebody accepts as warnings.

    Raises UsageError for a name that is no check's.
    """
    if "data" in names:
        raise UsageError("--accept data: rows are accepted by what is wrong with them: data.accept, data.on_bad_row")
    wrong = [name for name in names if name not in known]
    if wrong:
        raise UsageError(f"--accept or preflight.accept: no check is called {wrong[0]}; allowed: {', '.join(known)}")
    return [
        result.model_copy(update={"status": "warn", "accepted": True})
        if result.status == "fail" and result.name in names
        else result
        for result in results
    ]
