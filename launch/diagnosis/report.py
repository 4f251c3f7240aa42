"""A run, as `muster diagnose` tells of it: how it stands, the first cause, what was tried."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launch.claim import finished, trained_by
from launch.cluster.commands import SlurmError
from launch.cluster.queue import state_of
from launch.diagnosis.cause import Cause, Evidence
from launch.diagnosis.explain import Explained, explained
from launch.diagnosis.records import slurm_hits
from launch.errors import ExitCode, HostError, UsageError
from launch.rundir import Attempt, RunDir
from launch.rundir.journal import document, drawable, rows

Status = Literal["done", "running", "stopped", "failed", "broken off", "not started"]
# A supervisor shows every second that it lives; storage that nodes share may be so late (acdirmax of NFS is 60 s).
SILENT_SECONDS = 90.0
# What a supervisor did between attempts, as events.jsonl has it.
_MEASURES = ("oom", "restarted", "supervisor_killed", "node_excluded", "paired", "requeued")


@dataclass(frozen=True)
class Tried:
    """One attempt."""

    number: int
    exit_code: ExitCode | None
    """None where its supervisor was killed before it could tell."""
    reason: str
    step: int | None
    seconds: float | None
    then: tuple[str, ...] = ()
    """What was changed after it."""


@dataclass(frozen=True)
class Diagnosis:
    run: Path
    name: str
    attempt: int | None
    status: Status
    """Of the attempt that was asked for; of the run where that is the last one."""
    why: str
    """One sentence."""
    cause: Cause | None
    tried: tuple[Tried, ...]
    unread: tuple[str, ...] = field(default_factory=tuple)
    """What could not be read, and why."""


def diagnosed(run: RunDir, number: int | None = None) -> Diagnosis:
    """Raises UsageError where there is no run, or no attempt of this number."""
    last = run.last_attempt()
    _require(run, number, last)
    tried = _tried(run, last)
    if not last:
        return Diagnosis(run.root, _name(run), None, "not started", _before_any(run), None, ())
    asked = number or last
    one = tried[asked - 1]
    status, why = _standing(run, one, asked == last)
    cause, unread = None, list[str]()
    if status not in ("done", "running"):
        cause, unread = _explained(run, run.attempt(asked), one, status, asked == last)
        if cause is not None and status in ("failed", "broken off"):
            why = _sentence(cause)
    return Diagnosis(run.root, _name(run), asked, status, why, cause, tried, tuple(unread))


def _require(run: RunDir, number: int | None, last: int) -> None:
    if not run.plan.exists() and not run.attempts.is_dir():
        inside = run.root.parent.name == "attempts"
        hint = f"; did you mean {run.root.parent.parent} --attempt {run.root.name}?" if inside else ""
        raise UsageError(
            f"{run.root}: is not a run directory, it has neither plan.json nor attempts/; give the one that muster run"
            f" printed, such as runs/NAME{hint}"
        )
    if number is not None and not 1 <= number <= last:
        raise UsageError(f"--attempt {number}: this run has {f'attempts 1 to {last}' if last else 'none yet'}")


def _tried(run: RunDir, last: int) -> tuple[Tried, ...]:
    outcomes = [document(run.attempt(number).outcome) for number in range(1, last + 1)]
    begun = [_changed(run.attempt(number).plan) for number in range(1, last + 1)]
    measures = [row for row in rows(run.events) if row.get("event") in _MEASURES]
    return tuple(
        Tried(
            number, _code(told.get("exit_code")), str(told.get("reason", "")),
            _number(told.get("step"), int), _number(told.get("seconds"), int, float),
            tuple(_measure(row) for row in measures if _between(row["time"], begun, number - 1)),
        )
        for number, told in enumerate(outcomes, 1)
    )  # fmt: skip


def _number(told: Any, *types: type) -> Any:
    """None where a damaged outcome has no number that can be shown."""
    return told if type(told) in types and drawable(told) else None


def _code(told: Any) -> ExitCode | None:
    """None where an outcome tells none, or one that is not ours."""
    try:
        return ExitCode(told)
    except ValueError:
        return None


def _between(at: float, begun: list[float | None], index: int) -> bool:
    """Whether something happened after this attempt had begun and before the next one did."""
    first, after = begun[index], begun[index + 1] if index + 1 < len(begun) else None
    return first is not None and first <= at and (after is None or at < after)


def _measure(row: dict[str, Any]) -> str:
    told = [str(row[key]).partition("\n")[0] for key in ("node", "reason") if row.get(key)]
    return ": ".join([str(row["event"]).replace("_", " "), *told])


def _standing(run: RunDir, one: Tried, is_last: bool) -> tuple[Status, str]:
    holder = (trained_by(run) or _supervised(run, run.attempt(one.number))) if is_last else None
    if holder and one.exit_code is None:
        return "running", f"{holder} is training in it now: nothing has failed yet"
    if one.exit_code == ExitCode.DONE or (is_last and one.exit_code is None and _finished(run)):
        return "done", f"this run is fine: it ended as planned, and its adapter is in {run.adapter.name}/"
    if one.exit_code == ExitCode.STOPPED:
        return "stopped", one.reason
    if one.exit_code is None:
        return "broken off", "it left no outcome: who supervised it was killed, or its node was lost"
    return "failed", one.reason.partition("\n")[0]


def _supervised(run: RunDir, attempt: Attempt) -> str | None:
    """Who supervises it, on another node perhaps, where no lock is seen from here."""
    beat, told = _changed(attempt.supervisor), document(attempt.supervisor)
    if beat is None or time.time() - beat > SILENT_SECONDS or _gone_here(told) or _job_is_over(run):
        return None
    return f"process {told.get('pid')} on {told.get('node')}"


def _gone_here(told: dict[str, Any]) -> bool:
    """Whether it was a process of this machine, and is none any more: its last beat may be a second old."""
    return told.get("node") == os.uname().nodename and not Path("/proc", str(told.get("pid"))).exists()


def _job_is_over(run: RunDir) -> bool:
    """Whether Slurm says so: what was killed with its job has shown that it lives just before."""
    try:
        states = [state_of(job) for job in jobs(run)]
    except SlurmError:
        return False
    return any(state is not None and not state.active for state in states)


def _finished(run: RunDir) -> bool:
    try:
        return finished(run)
    except HostError:
        return False


def _explained(
    run: RunDir, attempt: Attempt, one: Tried, status: Status, is_last: bool
) -> tuple[Cause | None, list[str]]:
    hits, unread = [], list[str]()
    for job in jobs(run) if is_last else ():
        noted, silent = slurm_hits(job)
        hits += noted
        unread += [silent] if silent else []
    told: Explained = explained(attempt, hits)
    cause = told.cause
    if status == "stopped" and cause is not None and cause.exit_code != ExitCode.STOPPED:
        cause = None  # it stopped as it was asked to; what its logs hold beside that ended nothing
    if status == "broken off" and cause is not None and cause.name == "terminated":
        cause = None  # whoever supervised it had ended, and Slurm or the machine then ended what it had started
    if cause is None and status == "failed":
        cause = _as_told(run, attempt, one)
    return cause, unread + told.unread


def _as_told(run: RunDir, attempt: Attempt, one: Tried) -> Cause:
    """Where no log explains the end: what whoever supervised the attempt wrote down."""
    assert one.exit_code is not None
    summary, _, rest = one.reason.partition("\n")
    nodes = document(attempt.outcome).get("nodes") or []
    found = Evidence(str(attempt.outcome.relative_to(run.root)), 1, summary)
    return Cause(
        "reported", one.exit_code, None, nodes[0] if nodes else None, summary, (found,), rest, None, True,
        one.exit_code in (ExitCode.COMMUNICATION, ExitCode.WORKER), step=one.step,
    )  # fmt: skip


def jobs(run: RunDir) -> list[str]:
    """The number of the batch job that the run has had last, submitted or by hand; none without one."""
    named = [str(row[key]) for row in rows(run.events) for key in ("job", "job_id") if row.get(key)]
    told = document(run.job).get("id")
    return named[-1:] or ([str(told)] if told else [])


def _before_any(run: RunDir) -> str:
    checks = document(run.preflight)
    if checks.get("status") == "fail":
        return str(checks.get("verdict"))
    return "no attempt has been made; muster preflight SPEC says whether one can work"


def _sentence(cause: Cause) -> str:
    who = " ".join(
        filter(None, (f"rank {cause.rank}" if cause.rank is not None else "", f"on {cause.node}" if cause.node else ""))
    )
    return f"{who}: {cause.summary}" if who else cause.summary


def _name(run: RunDir) -> str:
    return str(document(run.plan).get("name") or run.root.name)


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
