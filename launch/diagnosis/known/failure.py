"""What a known failure is: how it reads, what it means, what to do."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from launch.errors import ExitCode

# How much a line says of why a run ended, most first: the cause itself; a process that died without a word; what may
# be a cause or the end of another rank; what only follows from another rank's end.
Standing = Literal["cause", "death", "doubt", "echo"]
STANDINGS: tuple[Standing, ...] = ("cause", "death", "doubt", "echo")
# What a process was doing, as its traceback shows.
Doing = Literal["loading", "forward", "backward", "optimizer step", "evaluation", "saving"]


@dataclass(frozen=True, kw_only=True)
class Known:
    """One failure that can be recognised from a line of text.

    `patterns` are regular expressions; their named groups `rank`, `node` and `pid` say whom the line is about. A line
    of a traceback begins with its exception's type, so `^` tells an exception from a sentence that mentions it.
    """

    name: str
    """Stable: other tools may rely on it."""
    code: ExitCode
    patterns: tuple[str, ...]
    cause: str
    """In plain words; one sentence without a full stop."""
    fix: str
    source: str
    """Which program or library prints it."""
    standing: Standing = "cause"
    another_try: bool = False
    """Whether the same run may succeed when it is started again as it is."""
    fixes: Mapping[Doing, str] = field(default_factory=dict)
    """Instead of `fix`, for what the process was doing."""

    @cached_property
    def pattern(self) -> "re.Pattern[str]":
        return re.compile("|".join(f"(?:{pattern})" for pattern in self.patterns), re.MULTILINE)

    def fix_for(self, doing: str | None) -> str:
        return {str(key): fix for key, fix in self.fixes.items()}.get(doing or "", self.fix)


def task_ended(how: str) -> str:
    """The pattern of srun's line about a task: `srun: error: n1: task 3: Killed`, `tasks 1-3` for several.

    A task is no rank: muster has one on each node, which starts a rank per GPU.
    """
    return rf"srun: error: (?P<node>[\w.-]+): tasks? \d[-,\d]*: {how}"


def raised(*types: str, saying: str = "") -> str:
    """The pattern of a traceback's last line: one of these types, with its module or without, and what it says."""
    name = rf"^(?:[\w.]+\.)?(?:{'|'.join(types)})"
    return rf"{name}: .*{saying}" if saying else rf"{name}(?::|$)"
