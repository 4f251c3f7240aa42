"""What a check sees and what it says."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from launch.errors import PreflightError
from launch.plan import Plan
from launch.rundir import RunDir

Status = Literal["pass", "warn", "fail", "skipped", "unknown"]


class Context(BaseModel):
    """The run that a check is about."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    plan: Plan
    run: RunDir


class Result(BaseModel):
    """`evidence` is what was read, `fix` what to do about a warn, fail or unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: Literal["software", "gpu", "node", "storage", "model", "data"]
    status: Status
    evidence: str
    fix: str = ""


Check = Callable[[Context], Result]


def run_checks(context: Context, checks: Sequence[Check]) -> list[Result]:
    """Every check's result. A check that breaks is unknown and hides none of the others."""
    results = []
    for check in checks:
        try:
            results.append(check(context))
        except Exception as error:  # noqa: BLE001 - a broken check must not stop the others
            name = check.__name__.replace("_", "-")
            results.append(
                Result(
                    name=name,
                    family="node",
                    status="unknown",
                    evidence=f"the check itself failed: {type(error).__name__}: {error}",
                    fix="report this",
                )
            )
    return results


def verdict(results: Sequence[Result]) -> Status:
    """The worst of all: fail, then unknown, then warn."""
    statuses = {result.status for result in results}
    return next((status for status in ("fail", "unknown", "warn") if status in statuses), "pass")


def document(results: Sequence[Result]) -> dict[str, Any]:
    """What preflight.json and `muster preflight --json` hold."""
    return {"status": verdict(results), "checks": [result.model_dump() for result in results]}


def problem(results: Sequence[Result]) -> PreflightError | None:
    """Every failed check with its fix."""
    failed = [f"{result.name}: {result.evidence}. {result.fix}" for result in results if result.status == "fail"]
    return PreflightError("\n".join(["the checks failed, nothing was started", *failed])) if failed else None


def require(results: Sequence[Result]) -> None:
    """Raises PreflightError where a check failed."""
    failed = problem(results)
    if failed is not None:
        raise failed
