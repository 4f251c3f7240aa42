"""A Python exception -> its exit code, a paragraph for a person, and what a rank leaves of it."""

import errno
import time
import traceback
from typing import Any

from launch.diagnosis.known import recognised
from launch.diagnosis.known.gpu import SMALLER
from launch.diagnosis.known.host import ROOM
from launch.diagnosis.known.network import PEER
from launch.diagnosis.known.software import HIDES
from launch.errors import ExitCode, MusterError, PreflightError

# What helps against a class of failures, where nothing more is known.
ADVICE = {ExitCode.GPU_MEMORY: SMALLER, ExitCode.COMMUNICATION: PEER, ExitCode.HOST: ROOM}
# The disk is full, its quota is used up, it was mounted read-only; there is no memory. An error of them may say so in
# another language.
_HOST_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM)


def classify(error: BaseException) -> tuple[ExitCode, str]:
    """The exit code and one paragraph for a person. No module of the error's library is imported for it."""
    if isinstance(error, MusterError):
        return error.exit_code, str(error)
    error = _meant(error)
    code, advice = _told(error)
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return code, f"{text}\n{advice}" if advice else text


def failure(rank: int, error: BaseException) -> dict[str, Any]:
    """What a rank leaves of the error that ended it."""
    code, message = classify(error)
    checks = {"checks": list(error.checks)} if isinstance(error, PreflightError) else {}
    return {
        **checks, "rank": rank, "class": code.name.lower(), "exit_code": int(code),
        "error": type(_meant(error)).__name__, "message": message, "time": time.time(),
        "traceback": "".join(traceback.format_exception(error)),
    }  # fmt: skip


def _meant(error: BaseException) -> BaseException:
    """The one behind an error that hides it."""
    while isinstance(error, ImportError) and str(error).startswith(HIDES) and error.__cause__:
        error = error.__cause__
    return error


def _told(error: BaseException) -> tuple[ExitCode, str]:
    """Its class, and what to do. An error of a subclass reads like one of the class, as a traceback would not."""
    for kind in type(error).__mro__[:-2]:
        known = recognised(f"{kind.__name__}: {error}" if str(error) else kind.__name__)
        if known is not None and known.name != "exception":
            return known.code, known.fix
    if isinstance(error, OSError) and error.errno in _HOST_ERRNOS:
        return ExitCode.HOST, ROOM
    return ExitCode.WORKER, ""
