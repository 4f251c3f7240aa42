"""The pulse of each rank: its last sign of life, as it has written it."""

import json
from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, ValidationError

from launch.rundir.paths import Attempt, Phase


class Pulse(BaseModel):
    """What a rank says of itself every BEAT_SECONDS: training/telemetry/pulse.py writes it, whoever watches
    the run reads it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rank: int
    node: str
    pid: int
    phase: Phase
    step: int
    marks: int
    time: float


def ended_well(pulses: Collection[Pulse], ranks: int) -> bool:
    """Whether so many ranks are there and each has done what it had to."""
    return len(pulses) == ranks and all(pulse.phase == "ended" for pulse in pulses)


def read_pulses(attempt: Attempt) -> list[Pulse]:
    """Those that can be read."""
    found = []
    for path in attempt.pulses():
        try:
            found.append(Pulse.model_validate(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, ValidationError):
            continue
    return found
