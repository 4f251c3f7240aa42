"""Processes beside our own: ones that must not outlive us, and one that must."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent() -> None:
    """This process is killed when the one that started it ends, however that happens. Linux alone has this."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def log_writer(log: Path, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """A process that appends its standard input to a log, without secrets.

    It outlives whoever writes to it, so that the last lines of a killed worker still arrive.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "launch.redact", str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
