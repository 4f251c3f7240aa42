"""One attempt: its logs and failure files, and the kernel's records of this machine -> the first cause."""

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launch.diagnosis.cause import Cause, first_of
from launch.diagnosis.ending import read_failures
from launch.diagnosis.hits import Hit, Source
from launch.diagnosis.known import Known, recognised
from launch.diagnosis.records import kernel_hits
from launch.diagnosis.scan import hits_in
from launch.diagnosis.tracebacks import doing
from launch.errors import ExitCode
from launch.preflight.result import read_document
from launch.rundir import Attempt, RunDir
from launch.rundir.journal import document
from launch.rundir.pulses import Pulse, read_pulses

# Logs of batch jobs that lie in the run directory.
_JOB_LOGS = ("*.log", "slurm-*.out")


@dataclass
class Explained:
    cause: Cause | None
    unread: list[str] = field(default_factory=list)
    """What could not be read, and why, in words."""


@dataclass(frozen=True)
class _Known:
    """What is known of an attempt beside its logs."""

    root: Path
    pulses: Mapping[int, Pulse]
    failures: Mapping[int, dict[str, Any]]
    ranks: range
    began: float
    ended: float

    def node(self, rank: int | None) -> str | None:
        if rank is not None and rank in self.pulses:
            return self.pulses[rank].node
        nodes = {pulse.node for pulse in self.pulses.values()}
        return nodes.pop() if len(nodes) == 1 else None

    def placed(self, hit: Hit) -> Hit:
        """With the name that a rank's own pulse has for its node: a launcher may know it by another one."""
        pulse = self.pulses.get(hit.rank) if hit.rank is not None else None
        return replace(hit, node=pulse.node) if pulse else hit

    def repeats(self, hit: Hit) -> bool:
        """Whether a launcher only passes on what a rank wrote down itself: the rank's own words say whose they are."""
        messages = (str(failure.get("message", "")).partition("\n")[0] for failure in self.failures.values())
        return hit.rank is None and any(message and message in hit.text for message in messages)

    def until(self, rank: int) -> float | None:
        """When a rank wrote its last word."""
        if rank in self.failures:
            return float(self.failures[rank]["time"])
        return self.pulses[rank].time if rank in self.pulses else None


def explain(attempt: Attempt) -> Cause | None:
    """Why an attempt ended, as far as its files and this machine's kernel tell; None where they tell nothing."""
    return explained(attempt).cause


def explained(attempt: Attempt, more: Iterable[Hit] = (), logs: Iterable[Path] = ()) -> Explained:
    """The same, with what could not be read. `more` is what Slurm noted, `logs` are further files to read."""
    known, unread = _known(attempt), list[str]()
    run = RunDir(attempt.root.parent.parent)
    logged = map(known.placed, _in_logs(known, run, logs, unread))
    hits = [*more, *(hit for hit in logged if not known.repeats(hit))]
    hits += [told for rank in known.failures if (told := _told(known, run, rank, hits)) is not None]
    offsets = clock_offsets(run)
    cause = first_of(hits, known.ranks, offsets)
    if cause is None or cause.node in (None, os.uname().nodename):
        hits += [hit for hit in _kernel(known, unread) if hit.rank is not None or may_follow(cause, hit)]
        cause = first_of(hits, known.ranks, offsets)
    return Explained(_completed(cause, known), unread)


def may_follow(cause: Cause | None, record: Hit) -> bool:
    """Whether what the ranks tell may come of a process that the kernel killed and that is none of them: one that loads
    or tokenises for them, or another user's. Where a rank says itself why it ended, it does not.
    """
    if record.known.name != "oom-killed" or cause is None or not cause.certain:
        return True
    told_by_muster = cause.name == "reported" and cause.exit_code not in (ExitCode.HOST, ExitCode.WORKER)
    return cause.name in ("exception", "reported") and not told_by_muster


def clock_offsets(run: RunDir) -> dict[str, float]:
    """Seconds by which each node's clock was ahead of the middle one, as the nodes compared them; none if unknown."""
    compared = [result for result in read_document(run.preflight) if result.name == "fleet-clock"]
    return {node: seconds for result in compared for node, seconds in result.values.get("ahead_seconds", {}).items()}


def _known(attempt: Attempt) -> _Known:
    pulses = {pulse.rank: pulse for pulse in read_pulses(attempt)}
    failures = {failure["rank"]: failure for failure in read_failures(attempt)}
    times = [path.stat().st_mtime for path in attempt.root.iterdir() if path.is_file()] or [time.time()]
    return _Known(attempt.root, pulses, failures, range(_world(attempt, pulses)), min(times) - 60.0, max(times))


def _world(attempt: Attempt, pulses: Mapping[int, Pulse]) -> int:
    """How many ranks took part; where no plan tells, as many as left a trace."""
    try:
        topology = document(attempt.plan)["topology"]
        return int(topology["nodes"] * topology["devices_per_node"])
    except (ValueError, KeyError, TypeError):
        logged = [
            int(found[1]) for path in attempt.root.glob("rank-*.log") if (found := re.search(r"-(\d+)\.", path.name))
        ]
        return 1 + max([*logged, *pulses], default=-1)


def _in_logs(known: _Known, run: RunDir, logs: Iterable[Path], unread: list[str]) -> list[Hit]:
    found = []
    beside = [path for pattern in _JOB_LOGS for path in run.root.glob(pattern)]
    for path in [*sorted(known.root.glob("*.log")), *sorted({*beside, *logs})]:
        try:
            changed = path.stat().st_mtime
            if path.parent != known.root and changed < known.began:
                continue
            found += hits_in(path, _source(path, known, run, changed))
        except OSError as error:
            unread.append(f"{path}: {error.strerror or error}")
    return found


def _source(path: Path, known: _Known, run: RunDir, changed: float) -> Source:
    of_rank = re.fullmatch(r"rank-(\d+)\.log", path.name)
    rank = int(of_rank[1]) if of_rank else None
    of_node = re.fullmatch(r"launcher-(.+)\.log", path.name)
    node = of_node[1] if of_node else known.node(rank)
    until = known.until(rank) if rank is not None else None
    name = str(path.relative_to(run.root)) if path.is_relative_to(run.root) else str(path)
    return Source(name, time.localtime(changed).tm_year, rank, node, until or changed)


def _told(known: _Known, run: RunDir, rank: int, hits: Iterable[Hit]) -> Hit | None:
    """What a rank wrote down itself, where its log does not say the same."""
    failure, path = known.failures[rank], Attempt(known.root).failure(rank)
    text = next(iter(str(failure.get("message", "")).splitlines()), "") or str(failure.get("error"))
    table = recognised(f"{failure.get('error')}: {failure.get('message')}")
    reported = _reported(failure, text) if table is None or table.code != failure["exit_code"] else table
    if any(hit.rank == rank and hit.known.name in (reported.name, table and table.name) for hit in hits):
        return None
    line = next((number for number, row in enumerate(_rows(path), 1) if '"message"' in row), 1)
    trace = str(failure.get("traceback", "")).splitlines()
    name = str(path.relative_to(run.root))
    return Hit(reported, name, line, text, rank, known.node(rank), float(failure["time"]), doing(trace))


def _rows(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _reported(failure: Mapping[str, Any], text: str) -> Known:
    """A failure that muster itself explains: its class and message, in place of the table's."""
    code = ExitCode(failure["exit_code"])
    lost = code == ExitCode.COMMUNICATION
    rest = " ".join(str(failure.get("message", "")).splitlines()[1:])
    return Known(
        name="reported", code=code, patterns=(), cause=text, fix=rest, source="muster",
        standing="doubt" if lost else "cause", another_try=lost or code in (ExitCode.WORKER, ExitCode.STOPPED),
    )  # fmt: skip


def _kernel(known: _Known, unread: list[str]) -> list[Hit]:
    here = os.uname().nodename
    if known.pulses and here not in {pulse.node for pulse in known.pulses.values()}:
        return []
    pids = {pulse.pid: rank for rank, pulse in known.pulses.items() if pulse.node == here}
    try:
        return kernel_hits(known.began, known.ended, pids, here)
    except OSError as error:
        unread.append(f"the kernel's log of this machine: {error.strerror}; ask an administrator for dmesg")
        return []


def _completed(cause: Cause | None, known: _Known) -> Cause | None:
    """With what is known of the failing rank beside what it printed."""
    if cause is None:
        return None
    node = cause.node or (known.node(cause.rank) if cause.rank is not None else None)
    pulse = known.pulses.get(cause.rank) if cause.rank is not None else None
    phase = cause.phase or (pulse.phase if pulse else None)
    return replace(cause, node=node, phase=phase, step=_step(cause, pulse))


def _step(cause: Cause, pulse: Pulse | None) -> int | None:
    """The step that numbers went wrong in, as its message says: after going back a pulse shows another one."""
    named = re.search(r"\bstep (\d+)", cause.evidence[0].text) if cause.exit_code == ExitCode.NUMERICAL else None
    return int(named[1]) if named else pulse.step if pulse else None
