"""Exit codes, failure files and what logs explain -> how an attempt ended."""

from collections.abc import Sequence
from typing import Any

from launch.diagnosis.cause import Cause
from launch.errors import GO_ON, ExitCode
from launch.rundir import RankFiles
from launch.rundir.journal import document


def read_failures(place: RankFiles) -> list[dict[str, Any]]:
    found = []
    for path in place.failures():
        told = document(path)
        try:
            if type(told["rank"]) is int and isinstance(told["time"], int | float) and ExitCode(told["exit_code"]):
                found.append({"message": "", **told})
        except (ValueError, KeyError):  # cut short, or damaged since
            continue
    return found


def first_cause(failures: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The failure that the others follow from.

    When one rank dies the rest lose their connection, so a communication failure is a cause only where nothing else
    failed.
    """
    own = [failure for failure in failures if failure["exit_code"] != ExitCode.COMMUNICATION]
    return min(own or failures, key=lambda failure: (failure["time"], failure["rank"]), default=None)


def unexplained(failures: Sequence[dict[str, Any]], world_size: int) -> bool:
    """Whether no rank wrote down why: none at all, or only those that lost a rank which wrote nothing."""
    cause = first_cause(failures)
    return cause is None or bool(cause["exit_code"] == ExitCode.COMMUNICATION and _silent(failures, world_size))


def outcome(
    returncode: int,
    failures: Sequence[dict[str, Any]],
    world_size: int,
    *,
    stopped: bool,
    finished: bool,
    disk_full: bool = False,
    explained: Cause | None = None,
) -> tuple[ExitCode, str]:
    """How an attempt ended, from what its processes left behind. A negative return code is a signal's number.

    `explained` is what the logs say (explain.explain); it is used where no rank wrote down why it ended.
    """
    cause = first_cause(failures)
    if cause is not None and not (unexplained(failures, world_size) and explained and explained.certain):
        return _failed(cause, _silent(failures, world_size))
    if cause is None and stopped:
        return ExitCode.STOPPED, f"stopped as asked{GO_ON}"
    if cause is None and returncode == 0 and finished:
        return ExitCode.DONE, "done"
    if cause is None and disk_full:
        return ExitCode.HOST, (
            "the disk of the run directory is full; checkpoints that are complete are good."
            " Free space, then --resume auto"
        )
    if explained is not None and (explained.certain or _says_more(explained, returncode)):
        return explained.exit_code, _explained(explained)
    return _unexplained(returncode)


def _silent(failures: Sequence[dict[str, Any]], world_size: int) -> list[int]:
    return sorted(set(range(world_size)) - {failure["rank"] for failure in failures})


def _failed(cause: dict[str, Any], silent: list[int]) -> tuple[ExitCode, str]:
    """A failure that some rank wrote down; `silent` are the ranks that wrote none."""
    if cause["exit_code"] == ExitCode.COMMUNICATION and silent:
        return ExitCode.WORKER, (
            f"rank {', '.join(map(str, silent))} ended without a word and the others lost their connection:"
            f" killed, by somebody or by the kernel for want of memory (see dmesg){GO_ON}"
        )
    return ExitCode(cause["exit_code"]), f"rank {cause['rank']}: {cause['message']}"


def _says_more(explained: Cause, returncode: int) -> bool:
    """A doubtful cause still says more than a bare exit code does; that a process was killed we know from the code."""
    return explained.exit_code != ExitCode.WORKER and returncode not in (-9, 137)


def _explained(cause: Cause) -> str:
    who = [f"rank {cause.rank}"] if cause.rank is not None else []
    who += [f"on {cause.node}"] if cause.node else []
    first = cause.evidence[0]
    told = f"{' '.join(who)}: {cause.summary}" if who else cause.summary
    fix = f"\n{cause.fix}" if cause.fix else ""
    return f"{told} ({first.file}:{first.line}){fix}"


def _unexplained(returncode: int) -> tuple[ExitCode, str]:
    """No rank wrote a failure down: the return code is all there is."""
    if returncode in set(ExitCode) - {ExitCode.DONE, ExitCode.INTERNAL, ExitCode.PREFLIGHT, ExitCode.NO_PLAN}:
        code = ExitCode(returncode)
        return code, (
            f"the worker ended with exit code {returncode} ({code.name.lower()}) and could leave no failure file;"
            " see its log"
        )
    if returncode in (-9, 137):
        reason = "killed (SIGKILL): by somebody, or by the kernel for want of memory (see dmesg)"
        return ExitCode.WORKER, f"{reason}{GO_ON}"
    if returncode < 0:
        return ExitCode.WORKER, f"killed by signal {-returncode}{GO_ON}"
    return ExitCode.WORKER, f"the workers ended with exit code {returncode} and left no failure file; see their logs"
