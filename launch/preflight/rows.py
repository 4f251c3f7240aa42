"""The rows of a run, each of them read: a bad one is named before a model is loaded."""

from typing import NamedTuple

from launch.errors import DataError
from launch.plan import Plan
from launch.preflight.check import Check
from launch.preflight.result import Context, Result, Status
from launch.wording import plural


class RowsCheck(NamedTuple):
    result: Result
    error: DataError | None
    """Every mistake with its place, of rows that cannot be trained on."""
    checked: dict[str, str]
    """Fingerprints of rows without any error; empty where there is one."""


def rows(plan: Plan, given: str) -> RowsCheck:
    """Checks what can be checked without the model's tokenizer: lengths come with the tokens."""
    from training.data.checks.survey import Survey, refuse
    from training.data.sequences.tokens import rows_fingerprints, settings, sources

    data, fix = plan.spec.data, f"see each with: muster data validate {given}"
    try:
        fingerprints = rows_fingerprints(data)
        report = Survey(sources(data), settings(data)).run()
        refuse(report, data)
    except DataError as error:
        others = len(error.mistakes) - 1 + error.hidden
        evidence = f"{error.mistakes[0]}{f', and {others} more' if others else ''}"
        return RowsCheck(_result("fail", evidence, fix), error, {})
    purposes = {"train": "train on", "eval": "evaluate on"}
    evidence = ", ".join(f"{plural(count, 'row')} to {purposes[split]}" for split, count in report.rows.items())
    checked = {} if report.errors else {str(split): found for split, found in fingerprints.items()}
    if not report.kinds:
        return RowsCheck(_result("pass", evidence), None, checked)
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kinds.most_common())
    return RowsCheck(_result("warn", f"{evidence}: {kinds}", fix), None, checked)


def _result(status: Status, evidence: str, fix: str = "") -> Result:
    return Result(
        name=CHECK.name, family=CHECK.family, status=status, evidence=evidence, fix=fix, threshold=CHECK.threshold
    )


def _elsewhere(context: Context) -> str | None:
    return "rows are read beside the other checks, however long it takes"


CHECK = Check(
    "data", "data", "a row that cannot be trained on", "every row is read; data.on_bad_row and data.accept",
    concerns=_elsewhere,
)  # fmt: skip
