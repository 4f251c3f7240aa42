"""Plain text for people and programs: data to stdout, everything else to stderr."""

import contextlib
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


def console(stderr: bool = True) -> "Console":
    """For tables and bars."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)
