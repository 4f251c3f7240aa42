"""Plain text for people and programs: data to stdout, everything else to stderr."""

import contextlib
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def show(text: str, end: str = "\n") -> None:
    """To stdout. When the reader has what it wanted (`muster schema | head`), the rest goes nowhere."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: Any) -> None:
    show(json.dumps(value, indent=2))


def as_error(message: str) -> str:
    """Each line marked, but for the indented ones that continue it."""
    return "\n".join(line if line.startswith(" ") else f"error: {line}" for line in message.splitlines())


def settle_streams() -> None:
    """Whatever a shell or a locale has made of stdout and stderr, what is printed raises nothing.

    Of a closed one (`>&-`) Python has None in its place, and the next file opened would be it. What stdout cannot say,
    in a locale that is not UTF-8, is escaped, as Python does on stderr.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - for as long as we run
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def speaks_unicode() -> bool:
    """Whether stdout takes every character as it is."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def flush() -> None:
    """What is still buffered, to a reader that may be gone: Python would end with 120 in place of our exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(*lines: str) -> None:
    """To stderr, unwrapped: paths and commands must survive a copy and paste."""
    from launch.redact import redact

    with contextlib.suppress(OSError):  # a terminal that was closed
        print(redact("\n".join(lines)), file=sys.stderr)


# Columns of a list that goes into a pipe or a file, where a row is a line whatever is in it.
WIDE = 200


def console(stderr: bool = True, rows: bool = False) -> "Console":
    """For tables and bars. `rows`: of a table of which each row is to be one line where no terminal shows it."""
    from rich.console import Console

    shown = (sys.stderr if stderr else sys.stdout).isatty() or "COLUMNS" in os.environ
    width = WIDE if rows and not shown else None
    return Console(stderr=stderr, highlight=False, soft_wrap=False, width=width)
