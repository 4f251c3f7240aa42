"""Exceptions, failure files and exit codes -> the first cause."""

import errno
import json
import time
import traceback
from collections.abc import Sequence
from typing import Any

from launch.errors import ExitCode, MusterError
from launch.rundir import Attempt, Evaluation

_COMMUNICATION_TYPES = {
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "DistError",
    "RendezvousError",
    "ConnectionResetError",
    "BrokenPipeError",
}
# How gloo and NCCL say that a peer is gone, in plain RuntimeErrors.
_COMMUNICATION_WORDS = (
    "connection closed by peer",
    "connection reset by peer",
    "nccl error",
    "gloo",
    "timed out waiting",
    "broken pipe",
    "connectfullmesh",
    "watchdog caught collective operation timeout",
)
# torch's allocator, the driver, and cuBLAS when it finds no room for its workspace.
_GPU_MEMORY_WORDS = ("cuda out of memory", "cuda error: out of memory", "cublas_status_alloc_failed")
# The disk is full, its quota is used up, it was mounted read-only; there is no memory.
_HOST_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM)
ADVICE = {
    ExitCode.GPU_MEMORY: (
        "Use a smaller training.micro_batch_size with training.global_batch_size kept,"
        " training.gradient_checkpointing: true, or model.quantization: nf4"
    ),
    ExitCode.COMMUNICATION: "Another rank ended or cannot be reached; its own log says why",
    ExitCode.HOST: "Free memory or disk, then --resume auto",
}


def classify(error: BaseException) -> tuple[ExitCode, str]:
    """The exit code and one paragraph for a person. No module of the error's library is imported for it."""
    if isinstance(error, MusterError):
        return error.exit_code, str(error)
    code = _code(error)
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    advice = ADVICE.get(code)
    return code, f"{text}\n{advice}" if advice else text


def failure(rank: int, error: BaseException) -> dict[str, Any]:
    """What a rank leaves of the error that ended it."""
    code, message = classify(error)
    return {
        "rank": rank, "class": code.name.lower(), "exit_code": int(code), "error": type(error).__name__,
        "message": message, "time": time.time(), "traceback": "".join(traceback.format_exception(error)),
    }  # fmt: skip


def _code(error: BaseException) -> ExitCode:
    kind, words = type(error).__name__, str(error).lower()
    if kind == "OutOfMemoryError" or any(phrase in words for phrase in _GPU_MEMORY_WORDS):
        return ExitCode.GPU_MEMORY
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _HOST_ERRNOS):
        return ExitCode.HOST
    if "no space left on device" in words or "defaultcpuallocator: can't allocate" in words:
        return ExitCode.HOST
    if isinstance(error, FloatingPointError):
        return ExitCode.NUMERICAL
    if kind in _COMMUNICATION_TYPES or (
        isinstance(error, RuntimeError) and any(word in words for word in _COMMUNICATION_WORDS)
    ):
        return ExitCode.COMMUNICATION
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.STOPPED
    return ExitCode.WORKER


def read_failures(attempt: Attempt | Evaluation) -> list[dict[str, Any]]:
    found = []
    for path in attempt.failures():
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return found


def first_cause(failures: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The failure that the others follow from.

    When one rank dies the rest lose their connection, so a communication failure is a cause only where nothing else
    failed.
    """
    own = [failure for failure in failures if failure["exit_code"] != ExitCode.COMMUNICATION]
    return min(own or failures, key=lambda failure: (failure["time"], failure["rank"]), default=None)


def outcome(
    returncode: int,
    failures: Sequence[dict[str, Any]],
    world_size: int,
    *,
    stopped: bool,
    finished: bool,
    disk_full: bool = False,
) -> tuple[ExitCode, str]:
    """How an attempt ended, from what its processes left behind. A negative return code is a signal's number."""
    cause = first_cause(failures)
    if cause is not None:
        return _failed(cause, sorted(set(range(world_size)) - {failure["rank"] for failure in failures}))
    if stopped:
        return ExitCode.STOPPED, "stopped as asked; continue with --resume auto"
    if returncode == 0 and finished:
        return ExitCode.DONE, "done"
    if disk_full:
        return ExitCode.HOST, (
            "the disk of the run directory is full; checkpoints that are complete are good."
            " Free space, then --resume auto"
        )
    return _unexplained(returncode)


def _failed(cause: dict[str, Any], silent: list[int]) -> tuple[ExitCode, str]:
    """A failure that some rank wrote down; `silent` are the ranks that wrote none."""
    if cause["exit_code"] == ExitCode.COMMUNICATION and silent:
        return ExitCode.WORKER, (
            f"rank {', '.join(map(str, silent))} ended without a word and the others lost their connection:"
            " killed, by somebody or by the kernel for want of memory (see dmesg); continue with --resume auto"
        )
    return ExitCode(cause["exit_code"]), f"rank {cause['rank']}: {cause['message']}"


def _unexplained(returncode: int) -> tuple[ExitCode, str]:
    """No rank wrote a failure down: the return code is all there is."""
    if returncode in set(ExitCode) - {ExitCode.DONE, ExitCode.INTERNAL, ExitCode.PREFLIGHT, ExitCode.NO_PLAN}:
        code = ExitCode(returncode)
        return code, (
            f"the worker ended with exit code {returncode} ({code.name.lower()}) and could leave no failure file;"
            " see its log"
        )
    if returncode in (-9, 137):
        return ExitCode.WORKER, (
            "killed (SIGKILL): by somebody, or by the kernel for want of memory (see dmesg);"
            " continue with --resume auto"
        )
    if returncode < 0:
        return ExitCode.WORKER, f"killed by signal {-returncode}; continue with --resume auto"
    return ExitCode.WORKER, f"the workers ended with exit code {returncode} and left no failure file; see their logs"
