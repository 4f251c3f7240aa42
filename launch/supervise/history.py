"""What the attempts of a run have left behind, also those of an earlier job."""

from pathlib import Path

from pydantic import ValidationError

from launch.errors import ExitCode
from launch.plan import Plan
from launch.rundir import Attempt, RunDir
from launch.rundir.journal import document, rows
from launch.supervise.decisions import Ended, Past


def history(run: RunDir) -> list[Past]:
    """Every attempt that ended, oldest first. One whose supervisor was killed with it left no outcome: its node was
    lost, which says nothing about the run."""
    found = []
    for number in range(1, run.last_attempt() + 1):
        attempt = run.attempt(number)
        ended = _ended(attempt.outcome)
        if ended is not None:
            found.append(Past(ended, read_plan(attempt)))
    return found


def _ended(path: Path) -> Ended | None:
    try:
        told = document(path)
        return Ended(
            ExitCode(told["exit_code"]), told["reason"], told.get("step", 0), told.get("error"),
            tuple(told.get("nodes", ())), tuple(told.get("checks", ())),
        )  # fmt: skip
    except (ValueError, KeyError):
        return None


def read_plan(attempt: Attempt) -> Plan | None:
    try:
        return Plan.model_validate_json(attempt.plan.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def last_step(run: RunDir) -> int:
    """The last optimizer step in the ledger, 0 without any."""
    return max((row["step"] for row in rows(run.samples) if isinstance(row.get("step"), int)), default=0)
