"""A line of a log in which a known failure is told, with what stands around it. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from launch.diagnosis import lines, tracebacks
from launch.diagnosis.known import Known, recognised

# A step that was trained, as Trainer's dicts and muster's own lines tell it; and how far any progress bar has come.
_TRAINED = re.compile(r"\{'loss': '?[\d.]+.*?'epoch'|step \d+/\d+: loss [\d.]+")
_BAR = re.compile(r"\d+/\d+ \[\d+:\d\d")
# A message that is followed by so much progress did not end its process.
SURVIVED = 3
# Lines of torchrun's report of its workers.
_REPORT = re.compile(r"\s*(?:exitcode|traceback)\s+: ")
_WORK = re.compile(r"last enqueued (?:NCCL )?work: (\d+), last completed (?:NCCL )?work: (\d+)")


@dataclass(frozen=True)
class Source:
    """A log, and whose it is."""

    file: str
    """Its name as it is shown, relative to the run directory."""
    year: int
    """In which it was last written to: some lines have no year."""
    rank: int | None = None
    """Where one rank alone writes to it."""
    node: str | None = None
    until: float | None = None
    """Seconds since 1970 when it was last written to."""


@dataclass(frozen=True)
class Hit:
    known: Known
    file: str
    line: int
    """Counted from 1."""
    text: str
    rank: int | None = None
    node: str | None = None
    time: float | None = None
    """Seconds since 1970, by the clock of the node that wrote it."""
    doing: str | None = None
    pid: int | None = None
    chained: bool = False
    """Whether the next exception in the same log came of this one."""
    completed: int | None = None
    """Of a collective that timed out: the number of the last one that this rank completed."""
    latest: bool = False
    """Whether `time` is only when it was written at the latest: nothing before it tells the time."""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def hit(source: Source, number: int, before: Sequence[str], line: str, after: Sequence[str]) -> Hit | None:
    """The failure told in a line, if one is. `before` and `after` are as much of the log as is at hand."""
    text = lines.bare(line)
    known = recognised(text)
    if known is None or _listed_later(known, text, before) or tracebacks.ignored(before):
        return None
    if known.name == "exception" and not tracebacks.follows(before):
        return None  # a sentence that begins like an exception
    own = lines.labelled(line)
    if survived(before, after, alone=source.rank is not None, fatal=own is not None):
        return None
    found = known.pattern.search(text)
    assert found is not None
    groups = {name: value for name, value in found.groupdict().items() if value}
    rank = _whose(source, line, text, before, groups)
    mine = before if own is None else [each for each in before if lines.labelled(each) == own]
    node = groups.get("node") or groups.get("node2") or _reported(text, before, "host") or source.node
    told = lines.written(line, source.year) or lines.last_written(before, source.year)
    at = told or _at_most(source, after)
    pid = int(groups["pid"]) if "pid" in groups else None
    work = _completed(rank, (line, *after[:12]))
    doing = tracebacks.doing(mine)
    chained = tracebacks.chained(after)
    return Hit(known, source.file, number, text, rank, node, at, doing, pid, chained, work, told is None)


def _at_most(source: Source, after: Sequence[str]) -> float | None:
    """When a line was written at the latest that nothing before it tells the time of."""
    bounds = (lines.next_written(after, source.year), source.until)
    return min((bound for bound in bounds if bound is not None), default=None)


def _whose(source: Source, line: str, text: str, before: Sequence[str], groups: dict[str, str]) -> int | None:
    """The rank that a message is about."""
    if source.rank is not None:
        return source.rank
    own = lines.labelled(line)
    told = groups.get("rank") or _reported(text, before, "rank")
    return own if own is not None else int(told) if told else lines.rank_of(line)


def _completed(rank: int | None, after: Sequence[str]) -> int | None:
    """The last collective that a rank completed, as ProcessGroupNCCL tells it after a time-out."""
    told = (_WORK.search(line) for line in after if lines.rank_of(line) == rank)
    return next((int(work[2]) for work in told if work), None)


def survived(before: Sequence[str], after: Sequence[str], *, alone: bool, fatal: bool) -> bool:
    """Whether the process went on after a message.

    What torch's excepthook labels with a rank ended it. In a log of several ranks a progress bar may be another's, and
    only trained steps count: no rank trains on alone.
    """
    if fatal:
        return False
    tokens = {found[0] for line in after for found in _TRAINED.finditer(line)}
    if alone:
        earlier = {found[0] for line in before for found in _BAR.finditer(line)}
        tokens |= {found[0] for line in after for found in _BAR.finditer(line)} - earlier
    return len(tokens) >= SURVIVED


def _listed_later(known: Known, text: str, before: Sequence[str]) -> bool:
    """Whether a line of torchrun's report is about a worker that another one's end, or the launcher, has ended.

    Of two that end within one look of the launcher it calls either the first: a worker that a signal ended has a reason
    of its own, unless it was the launcher's SIGKILL for those that do not end in 30 s.
    """
    if not _REPORT.match(text):
        return False
    if known.name == "killed":
        return any("forcefully exiting" in line for line in before)
    listed = [number for number, line in enumerate(before) if re.match(r"\W*Failures:", lines.bare(line))]
    root = [number for number, line in enumerate(before) if "Root Cause (first observed failure)" in line]
    return known.standing == "echo" and bool(listed) and max(listed) > max(root, default=-1)


def _reported(text: str, before: Sequence[str], key: str) -> str | None:
    """Of torchrun's report: `rank      : 1 (local_rank: 1)` stands a few lines above the exit code."""
    if not _REPORT.match(text):
        return None
    found = [match for line in before[-5:] if (match := re.match(rf"\s*{key}\s+: (\S+)", lines.bare(line)))]
    return found[-1][1] if found else None
