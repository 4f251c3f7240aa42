"""Signs of life of a run: of whoever holds it, and of each of its ranks. Nothing is locked to find out."""

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from launch.claim import held_by
from launch.rundir import BEAT_SECONDS, Attempt, RunDir
from launch.status.hangs import Seen, furthest_behind
from launch.wording import named, plural

# So long after the last beat nobody is taken to be there: beats come every second, and a file server may be slow.
ALIVE_SECONDS = 20 * BEAT_SECONDS
# A rank that misses so many beats is told of; the run itself waits much longer before it acts.
SILENT_SECONDS = 10 * BEAT_SECONDS
# Clocks of nodes may differ by so much (preflight's fleet-clock fails beyond it).
CLOCKS_APART = 30.0
# Ranks stand still when nobody moves for so long, or for so many times what a step takes.
STILL_SECONDS, STILL_STEPS = 30.0, 5.0


def holder(run: RunDir) -> str | None:
    """Who trains here, as the lock files name them, without trying the locks; None where nobody is seen."""
    for path in (run.claimed, run.lock):
        if (text := _process(path)) is not None:
            return text
    number = run.last_attempt()
    return f"attempt {number}" if number and _beats(run.attempt(number)) else None


def _process(path: Path) -> str | None:
    """The process of this machine that a lock file names, while it lives."""
    try:
        text, written = path.read_text(encoding="utf-8").strip(), path.stat().st_mtime
    except OSError:
        return None
    match = re.fullmatch(held_by(r"(\d+)", r"(\S+)"), text)
    if match is None or match[2] != os.uname().nodename:
        return None
    try:
        process = psutil.Process(int(match[1]))
        lives = process.status() != psutil.STATUS_ZOMBIE
        return text if lives and process.create_time() <= written + 1 else None  # else another has its number
    except psutil.Error:
        return None


def _beats(attempt: Attempt) -> bool:
    """Whether somebody of an attempt that has not ended was there a moment ago."""
    newest = max((_written(path) for path in [attempt.supervisor, *attempt.pulses()]), default=0.0)
    return newest > time.time() - ALIVE_SECONDS and _written(attempt.outcome) < newest


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


# Pure from here on.


def ranks_told(seen: Mapping[int, Seen], world_size: int | None) -> str:
    """What the ranks are doing, in words."""
    if not seen:
        return ""
    phases = sorted({one.pulse.phase for one in seen.values()})
    begun = (
        plural(len(seen), "rank") if not world_size or len(seen) >= world_size else f"{len(seen)} of {world_size} ranks"
    )
    return f"{begun} {' and '.join(phases)}"


def rank_troubles(seen: Mapping[int, Seen], now: float, clock: float, step_seconds: float | None) -> list[str]:
    """Ranks that show no life, or that nobody goes on. `now` is of the clock of `seen`, `clock` since 1970."""
    seen = {rank: one for rank, one in seen.items() if one.pulse.phase != "ended"}
    silent = _silent(seen, now, clock)
    if silent:
        longest = max(silent.values())
        where = named(sorted({seen[rank].pulse.node for rank in silent}))
        return [f"{_ranks(silent)} on {where}: no sign of life for {longest:.0f} s"]
    still = min((now - one.moved for one in seen.values()), default=0.0)
    limit = max(STILL_SECONDS, STILL_STEPS * (step_seconds or 0.0))
    if still <= limit or any(one.pulse.phase == "starting" for one in seen.values()):
        return []
    behind = furthest_behind(seen)
    text = f"no rank has gone on for {still:.0f} s"
    if behind:
        where = named(sorted({seen[rank].pulse.node for rank in behind}))
        text += f"; the others wait for {_ranks(behind)} on {where}"
    return [text]


def _silent(seen: Mapping[int, Seen], now: float, clock: float) -> dict[int, float]:
    """Seconds without a beat, of ranks that missed several. One that was silent already when we began to look is behind
    the others' time, or, where all are, behind ours."""
    newest = max((one.pulse.time for one in seen.values()), default=clock)
    reference = clock if clock - newest > CLOCKS_APART else newest
    found = {}
    for rank, one in seen.items():
        quiet = max(now - one.lived, reference - one.pulse.time, 0.0)
        if quiet > SILENT_SECONDS:
            found[rank] = quiet
    return found


def _ranks(numbers: Iterable[int]) -> str:
    some = sorted(numbers)
    if len(some) == 1:
        return f"rank {some[0]}"
    shown = ", ".join(map(str, some[:5]))
    return f"ranks {shown} and {len(some) - 5} more" if len(some) > 5 else f"ranks {shown}"
