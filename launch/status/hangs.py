"""Ranks that stand still. What is seen of them is kept with our own clock: theirs may be off."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from launch.rundir import Phase
from launch.rundir.pulses import Pulse
from launch.spec import RecoverySpec

# What a rank goes through in each step has no order: a run trains, saves, evaluates and trains again.
_BEFORE_TRAINING: tuple[Phase, ...] = ("starting", "meeting", "rehearsing")
# A process that shows no life for this share of recovery.hang_seconds is stopped, gone, or on a node that is cut off.
SILENT_SHARE = 1 / 3


@dataclass
class Seen:
    """One rank: its last pulse, and when, by our clock, its mark and its beat were last seen to change."""

    pulse: Pulse
    moved: float
    lived: float


@dataclass(frozen=True)
class Hang:
    """Nobody goes on. `ranks` are those that the others wait for; empty where all are at one place."""

    ranks: tuple[int, ...]
    nodes: tuple[str, ...]
    why: str


class Watch:
    """Looks at the pulses of one attempt, again and again. Times are seconds of any one clock."""

    def __init__(self, limits: RecoverySpec, now: float):
        self.limits, self.began = limits, now
        self.seen: dict[int, Seen] = {}

    def look(self, pulses: Iterable[Pulse], now: float) -> Hang | None:
        """What hangs, if anything does."""
        for pulse in pulses:
            known = self.seen.get(pulse.rank)
            if known is None:
                self.seen[pulse.rank] = Seen(pulse, now, now)
                continue
            if pulse.marks != known.pulse.marks:
                known.moved = now
            if pulse.time != known.pulse.time:
                known.lived = now
            known.pulse = pulse
        return stalled(self.seen, self.limits, self.began, now)


def stalled(seen: Mapping[int, Seen], limits: RecoverySpec, began: float, now: float) -> Hang | None:
    """A rank that shows no life while another does, or no rank that has gone on for too long."""
    if not seen:
        return _overdue(limits, now - began)
    last = max(one.moved for one in seen.values())
    seen = {rank: one for rank, one in seen.items() if one.pulse.phase != "ended"}
    if not seen:
        limit = limits.hang_seconds
        why = f"all ranks have ended, and whatever started them has not for {limit:g} s"
        return Hang((), (), why) if now - last > limit else None
    silence = limits.hang_seconds * SILENT_SHARE
    silent = [rank for rank, one in seen.items() if now - one.lived > silence]
    if silent and len(silent) < len(seen):
        return _hang(seen, silent, f"shows no life for {silence:g} s: stopped, killed, or its node is cut off")
    starting = any(one.pulse.phase == "starting" for one in seen.values())
    limit = limits.start_seconds if starting else limits.hang_seconds
    if now - last <= limit:
        return None
    if silent:
        return _hang(seen, silent, f"shows no life for {limit:g} s: all processes are stopped or cut off")
    behind = furthest_behind(seen)
    phase = next(iter(seen.values())).pulse.phase if not behind else seen[behind[0]].pulse.phase
    if behind:
        return _hang(seen, behind, f"is behind the others, {phase}, and nobody has gone on for {limit:g} s")
    step = max(one.pulse.step for one in seen.values())
    return Hang((), (), f"no rank has gone on for {limit:g} s; all are {phase} after step {step}: see their stacks")


def _overdue(limits: RecoverySpec, seconds: float) -> Hang | None:
    if seconds <= limits.start_seconds:
        return None
    return Hang((), (), f"no worker has begun within {limits.start_seconds:g} s (recovery.start_seconds)")


def furthest_behind(seen: Mapping[int, Seen]) -> list[int]:
    """The ranks that the others wait for: at an earlier step or phase than most. None where all are at one place."""

    def place(one: Seen) -> tuple[int, int, int]:
        phase = one.pulse.phase
        order = get_args(Phase).index(phase) if phase in _BEFORE_TRAINING else len(_BEFORE_TRAINING)
        return order, one.pulse.step, one.pulse.marks

    places = {rank: place(one) for rank, one in seen.items()}
    least, most = min(places.values()), max(places.values())
    return [] if least == most else sorted(rank for rank, at in places.items() if at == least)


def _hang(seen: Mapping[int, Seen], ranks: Iterable[int], why: str) -> Hang:
    some = tuple(sorted(ranks))
    return Hang(some, tuple(sorted({seen[rank].pulse.node for rank in some})), why)
