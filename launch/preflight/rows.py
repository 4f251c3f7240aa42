"""The rows of a run, each of them read: a bad one is named before a model is loaded."""

from launch.errors import DataError
from launch.plan import Plan
from launch.preflight.result import Result


def rows(plan: Plan, spec_file: str) -> tuple[Result, DataError | None]:
    """The check's result, and for a failed one every mistake with its place."""
    from training.data.survey import Survey, refuse
    from training.data.tokens import settings, sources

    data, fix = plan.spec.data, f"see each with: muster data validate {spec_file}"
    try:
        report = Survey(sources(data), settings(data)).run()
        if data.on_bad_row == "fail" or report.unread:
            refuse(report)
    except DataError as error:
        others = len(error.mistakes) - 1 + error.hidden
        evidence = f"{error.mistakes[0]}{f', and {others} more' if others else ''}"
        return Result(name="data", family="data", status="fail", evidence=evidence, fix=fix), error
    evidence = ", ".join(f"{count:,} rows to {split}" for split, count in report.rows.items())
    if not report.kinds:
        return Result(name="data", family="data", status="pass", evidence=evidence), None
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kinds.most_common())
    return Result(name="data", family="data", status="warn", evidence=f"{evidence}: {kinds}", fix=fix), None
