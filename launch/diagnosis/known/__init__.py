"""Failures that are recognised by how they read: one table for log lines and for Python's exceptions.

More specific ones stand before more general ones: the first that fits is it.
"""

from launch.diagnosis.known import gpu, host, inputs, network, scheduler, software
from launch.diagnosis.known.failure import STANDINGS, Doing, Known, Standing

KNOWN: tuple[Known, ...] = (
    *scheduler.SCHEDULER,
    *gpu.HARDWARE,
    *gpu.MEMORY,
    *host.MEMORY,
    *gpu.SOFTWARE,
    *inputs.NUMBERS,
    *host.DISK,
    *software.SOFTWARE,
    *inputs.INPUTS,
    *network.MEETING,
    *network.TALKING,
    *network.LOST,
    *scheduler.SIGNALS,
    *scheduler.EXCEPTIONS,
)
BY_NAME = {known.name: known for known in KNOWN}


def recognised(text: str) -> Known | None:
    """The failure that a line, or an exception's text, tells of."""
    return next((known for known in KNOWN if known.pattern.search(text)), None)


__all__ = ["BY_NAME", "KNOWN", "STANDINGS", "Doing", "Known", "Standing", "recognised"]
