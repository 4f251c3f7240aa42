"""A run's directory: the name of every file in it, and how they are written and read."""

from launch.rundir.paths import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BEAT_SECONDS,
    BY_A_PERSON,
    BY_A_WARNING,
    MANIFEST,
    PROGRESS,
    Attempt,
    Phase,
    RankFiles,
    RunDir,
)

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "BEAT_SECONDS",
    "BY_A_PERSON",
    "BY_A_WARNING",
    "MANIFEST",
    "PROGRESS",
    "Attempt",
    "Phase",
    "RankFiles",
    "RunDir",
]
