"""Numbers and lists as people read them."""

import time
from collections.abc import Mapping, Sequence

_GIB, _MIB = 1024**3, 1024**2


def plural(count: int, noun: str, several: str = "") -> str:
    """`1 row`, `2 rows`, `2 processes` where `several` says so; thousands are set apart."""
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"


def named(names: Sequence[str]) -> str:
    """A few by name, many by number: a thousand nodes do not make a thousand rows."""
    shown = ", ".join(sorted(names)[:5])
    return f"{shown} and {len(names) - 5:,} more" if len(names) > 5 else shown


def by_saying(told: Mapping[str, str], what: str = "", shown: int = 5) -> list[str]:
    """What is said of each name, those together of which the same is said; all beyond `shown` sayings by number.

    `what` stands before the names, such as `node `.
    """
    same: dict[str, list[str]] = {}
    for name, said in told.items():
        same.setdefault(said, []).append(name)
    lines = [f"{what}{named(names)}: {said}" for said, names in list(same.items())[:shown]]
    others = sum(len(names) for names in list(same.values())[shown:])
    return [*lines, f"and {others:,} more"] if others else lines


def printable(text: str) -> str:
    """One line that neither moves a terminal's cursor nor reads like another one."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """What an error says first; its type's name where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def span(seconds: float) -> str:
    """A duration: seconds, minutes, hours or days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def local(form: str, seconds: float) -> str:
    """A time since 1970 as this machine's clock has it, in a form of strftime; empty where no calendar has it, such as
    one that a damaged file tells."""
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return ""


def amount(count: int) -> str:
    """Bytes: GiB, or MiB below one."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.1f} MiB"
