"""Plain text for people and programs: data to stdout, everything else to stderr."""

import json
import sys
from typing import Any


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2), flush=True)


def as_error(message: str) -> str:
    """Each line marked, but for the indented ones that continue it."""
    return "\n".join(line if line.startswith(" ") else f"error: {line}" for line in message.splitlines())


def say(*lines: str) -> None:
    """To stderr, unwrapped: paths and commands must survive a copy and paste."""
    from launch.redact import redact

    print(redact("\n".join(lines)), file=sys.stderr)
