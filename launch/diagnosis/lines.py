"""What stands around a message in a log line: whose it is, and when it was written. Pure."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

_COLOUR = re.compile(r"\x1b\[[\d;]*[mK]")
# torchrun's tee and torch's own excepthook (`[rank3]: `, `[default3]:`), srun --label (`3: `), a time, a service that
# collects logs (`id || `), a worker of Ray (`(Worker pid=7, ip=10.0.0.1) `).
_PREFIX = re.compile(
    r"^(?:\[(?:rank|default)(\d+)\]:\s?|\s?\d{1,5}: (?=\S)|\(\w+ pid=\d+(?:, ip=[\d.]+)?\) "
    r"|stderr: |\w+ \|\| |\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?\s+)+"
)
_LABEL = re.compile(r"\[(?:rank|default)(\d+)\]:")
_ELSEWHERE = re.compile(r"\[(?:PG [^\]]*)?[Rr]ank (\d+)\]")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# 2026-11-27 04:24:31,123 and 2026-11-27T04:24:31.5, also with `_` as torchrun's report has it.
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T_](\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(Z?)")
# glog of torch's C++ and Python parts: E1127 04:24:31.123456, with one digit for the months up to September.
_GLOG = re.compile(r"(?:^|[\[ ])[IWEF](\d{1,2})(\d\d) (\d\d):(\d\d):(\d\d)\.(\d+)")
# syslog: Nov 27 04:24:31
_SYSLOG = re.compile(r"\b([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)\b")


def plain(text: str) -> str:
    """Without colours."""
    return _COLOUR.sub("", text) if "\x1b" in text else text


def bare(line: str) -> str:
    """The message alone: without whose it is, without colours, and without what a progress bar wrote before it on the
    same line."""
    return _PREFIX.sub("", plain(line).rstrip().rpartition("\r")[2])


def rank_of(line: str) -> int | None:
    """The rank that a line says it is about."""
    found = _LABEL.search(line) or _ELSEWHERE.search(line)
    return int(found[1]) if found else None


def labelled(line: str) -> int | None:
    """The rank whose line this is, as its prefix says."""
    found = _LABEL.match(line.lstrip())
    return int(found[1]) if found else None


def written(line: str, year: int) -> float | None:
    """Seconds since 1970 at which a line says that it was written, read in this machine's time zone.

    `year` is for the forms that have none.
    """
    if found := _ISO.search(line):
        parts = [int(part) for part in found.groups()[:6]]
        return _seconds(parts, found[7], utc=bool(found[8]))
    if found := _GLOG.search(line):
        month, day, hour, minute, second = (int(part) for part in found.groups()[:5])
        return _seconds([year, month, day, hour, minute, second], found[6])
    if (found := _SYSLOG.search(line)) and found[1] in _MONTHS:
        day, hour, minute, second = (int(part) for part in found.groups()[1:])
        return _seconds([year, 1 + _MONTHS.index(found[1]), day, hour, minute, second], "")
    return None


def last_written(lines: Iterable[str], year: int) -> float | None:
    """The time of the last of these lines that tells one."""
    return next((at for line in reversed(list(lines)) if (at := written(line, year)) is not None), None)


def next_written(lines: Iterable[str], year: int) -> float | None:
    """The time of the first of these lines that tells one."""
    return next((at for line in lines if (at := written(line, year)) is not None), None)


def _seconds(parts: list[int], fraction: str | None, utc: bool = False) -> float | None:
    try:
        year, month, day, hour, minute, second = parts
        at = datetime(year, month, day, hour, minute, second, tzinfo=UTC if utc else None).timestamp()
    except (OverflowError, ValueError):
        return None
    return at + float(f"0.{fraction or 0}")
