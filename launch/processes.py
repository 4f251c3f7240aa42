"""Processes that must not outlive the one that started them."""

import ctypes
import signal


def die_with_parent() -> None:
    """Linux: this process is killed when the one that started it ends, however that happens (prctl PR_SET_PDEATHSIG = 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
