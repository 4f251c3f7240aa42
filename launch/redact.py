"""Keeps secrets out of everything that is written.

    python -m launch.redact FILE < output      appends its input to FILE, line by line, without secrets

Each worker's output goes through such a process: it outlives the worker, so that nothing is lost when one is killed.
"""

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Mapping

from launch.secrets import SECRET

# Variables whose value is a secret, by name. Short values (`1`, `true`) would blot out ordinary text.
SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL)", re.IGNORECASE)
SHORTEST = 8
HIDDEN = "[secret]"


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """Values of the environment that must never be written, longest first."""
    named = {value for name, value in environment.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST}
    # A path to a secret is none. Path.exists would raise on a value that is longer than a file name can be.
    values = [value for value in named if not os.path.exists(value)]
    return sorted(values, key=len, reverse=True)


def redact(text: str, values: list[str] | None = None) -> str:
    """The text with each secret replaced: the environment's own, and whatever has the form of one."""
    for value in secret_values(os.environ) if values is None else values:
        text = text.replace(value, HIDDEN)
    return SECRET.sub(HIDDEN, text)


def main() -> None:
    # Slurm sends them to every process of a step; this one ends with its input.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    values = secret_values(os.environ)
    for line in io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace"):
        # On a full disk lines are lost, but the pipe is still drained: a closed one would end the worker.
        with contextlib.suppress(OSError), open(sys.argv[1], "a", encoding="utf-8", errors="replace") as log:
            log.write(redact(line, values))


if __name__ == "__main__":
    main()
