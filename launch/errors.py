"""What can go wrong, and the exit code that says which.

MusterError                      exit code
+-- UsageError                    2   wrong command line, spec or run directory
|   +-- SpecError                 2   the spec's mistakes, all of them, with file:line:column
|   +-- ContradictionError        2   configuration files that are not what the spec says, likewise
|   +-- ConflictError             2   values of a spec that cannot be planned together
+-- PreflightError                3   a check says that this run cannot work here
|   +-- DeviceError               3   fewer devices than a spec asks for
+-- NoPlanError                   4   no strategy fits the hardware
+-- DataError                     5   rows that cannot be trained on
+-- GpuMemoryError                6   a GPU ran out of memory
+-- NumericalError                7   loss or weights are no longer finite
+-- CommunicationError            8   ranks cannot reach one another
+-- HostError                     9   host memory or disk
|   +-- DamagedCheckpoint         9   files that are not the ones a checkpoint's manifest names
+-- WorkerError                  10   a worker ended for another reason
+-- ProcessFailed                10   a process that muster started ended badly; its own code, where it has told one
+-- PlanMismatch                  1   the worker got something else than the plan promised
+-- Stopped                      75   stopped on purpose, resumable
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

# How to go on by hand, behind why a run ended. Whoever goes on by itself leaves it out.
GO_ON = "; continue with --resume auto"


class ExitCode(IntEnum):
    DONE = 0
    INTERNAL = 1
    USAGE = 2
    PREFLIGHT = 3
    NO_PLAN = 4
    DATA = 5
    GPU_MEMORY = 6
    NUMERICAL = 7
    COMMUNICATION = 8
    HOST = 9
    WORKER = 10
    STOPPED = 75


class MusterError(Exception):
    """An error that muster explains itself: no traceback is shown for it."""

    exit_code = ExitCode.INTERNAL


class UsageError(MusterError):
    exit_code = ExitCode.USAGE


@dataclass(frozen=True, order=True)
class Mistake:
    """One thing that is wrong in a file.

    line and column count from 1; 0 means that the place is not known. `origin` is the file, or the option that set the
    value.
    """

    origin: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.origin}:{self.line}:{self.column}" if self.line else self.origin
        return f"{place}: {self.message}"


class _Mistakes(MusterError):
    def __init__(self, mistakes: Sequence[Mistake], hidden: int = 0):
        self.mistakes, self.hidden = sorted(mistakes), hidden
        lines = [str(mistake) for mistake in self.mistakes]
        if hidden:
            lines.append(f"and {hidden} more")
        super().__init__("\n".join(lines))


class SpecError(_Mistakes, UsageError):
    """All mistakes of one spec."""


class ContradictionError(_Mistakes, UsageError):
    """All that somebody's own configuration files and a plan disagree about."""


class DataError(_Mistakes):
    """All rows that cannot be used."""

    exit_code = ExitCode.DATA


class ConflictError(UsageError):
    """Values of a spec that cannot be planned together, each with its key path.

    Who knows the file adds the places in it (Draft in spec/file.py).
    """

    def __init__(self, problems: Sequence[tuple[tuple[str, ...], str]]):
        self.problems = list(problems)
        super().__init__("\n".join(message for _, message in self.problems))


class PreflightError(MusterError):
    """`checks` are the names of those that failed, where it is checks that say so."""

    exit_code = ExitCode.PREFLIGHT

    def __init__(self, message: str, checks: Sequence[str] = ()):
        self.checks = tuple(checks)
        super().__init__(message)


class DeviceError(PreflightError):
    """A spec asks for devices that are not there; `path` leads to the value that does."""

    def __init__(self, path: tuple[str, ...], message: str):
        self.path = path
        super().__init__(message)


class NoPlanError(MusterError):
    """Nothing fits. `remedies` are the changes that would help, for programs: {change, strategy, process_bytes}."""

    exit_code = ExitCode.NO_PLAN

    def __init__(self, message: str, remedies: Sequence[dict[str, Any]] = ()):
        self.remedies = list(remedies)
        super().__init__(message)


class GpuMemoryError(MusterError):
    exit_code = ExitCode.GPU_MEMORY


class NumericalError(MusterError):
    exit_code = ExitCode.NUMERICAL


class CommunicationError(MusterError):
    exit_code = ExitCode.COMMUNICATION


class HostError(MusterError):
    exit_code = ExitCode.HOST


class DamagedCheckpoint(HostError):
    """A checkpoint whose files are not the ones that its manifest names."""


class WorkerError(MusterError):
    exit_code = ExitCode.WORKER


class ProcessFailed(MusterError):
    """A process that muster started ended badly, with this exit code."""

    exit_code = ExitCode.WORKER

    def __init__(self, exit_code: ExitCode, reason: str):
        self.exit_code = exit_code
        super().__init__(reason)


class PlanMismatch(MusterError):
    exit_code = ExitCode.INTERNAL


class Stopped(MusterError):
    exit_code = ExitCode.STOPPED
