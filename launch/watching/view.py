"""What is shown of a run: values, without where they come from or how they are drawn. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.logs.happened import WORRIES, logged, told
from launch.rundir.journal import drawable
from launch.status.following import Status

Row = dict[str, Any]
# Logged steps that are kept: more than a terminal has columns, times the steps that a column is the mean of.
KEPT = 4000
# Lines of what happened that are kept.
HAPPENINGS = 200
# Reasons for a low clock that cost speed: heat and power supply, not an idle GPU or its own power limit.
_SLOWED = re.compile(r"thermal|brake|hw|hardware", re.IGNORECASE)


@dataclass(frozen=True)
class Gpu:
    """One GPU at its last sample. What the driver did not give is None."""

    index: int
    utilization: float | None = None
    """Per cent."""
    memory: float | None = None
    """Per cent of what it has."""
    memory_bytes: float | None = None
    total_bytes: float | None = None
    temperature: float | None = None
    """Degrees Celsius."""
    watts: float | None = None
    error: str | None = None
    """A word where it cannot be read any more."""
    slowed: str | None = None
    """Why its clock is held down."""


@dataclass(frozen=True)
class Node:
    """A node at its last sample; one without GPUs has only the host's numbers."""

    name: str
    gpus: tuple[Gpu, ...]
    time: float
    cpu: float | None = None
    """Per cent of all cores."""
    host_bytes: float | None = None


@dataclass(frozen=True)
class Happening:
    text: str
    time: float | None
    worry: bool


@dataclass(frozen=True)
class View:
    """Everything that is shown. Times are seconds since 1970 by this machine's clock."""

    status: Status
    now: float
    logged: tuple[Row, ...] = ()
    """Rows of metrics.jsonl with a loss, oldest first."""
    evaluations: tuple[Row, ...] = ()
    nodes: tuple[Node, ...] = ()
    happenings: tuple[Happening, ...] = ()
    troubles: tuple[str, ...] = ()
    """What is wrong now."""
    attempts: tuple[str, ...] = ()
    """How the earlier attempts ended."""
    ranks: str = ""
    """What the ranks are doing, in words."""
    fresh: tuple[str, ...] = ()
    """Lines of what was written since the view before; none in the first one."""
    over: bool = False
    """Nothing of the run waits or runs any more."""


def grown(kept: Sequence[Row], new: Iterable[Row], most: int = KEPT) -> list[Row]:
    """Rows by step, with the new ones. A step that comes again, after a resume, takes the place of what was later."""
    result = list(kept)
    for row in new:
        while result and row["step"] <= result[-1]["step"]:
            result.pop()
        result.append(row)
    return result[-most:]


def happenings(events: Iterable[Row]) -> list[Happening]:
    return [
        Happening(line, _number(row.get("time")), row.get("event") in WORRIES) for row in events for line in told(row)
    ]


def evaluated(rows: Iterable[Row], total: int | None) -> list[Happening]:
    lines = ((row, logged(row, total)) for row in rows)
    return [Happening(line, _number(row.get("time")), False) for row, line in lines if line is not None]


def in_order(found: Iterable[Happening]) -> tuple[Happening, ...]:
    """The last ones, by time; what has none belongs where it is."""
    result, latest = [], 0.0
    for one in found:
        latest = max(latest, one.time or 0.0) if one.time is not None else latest
        result.append((one.time if one.time is not None else latest, one))
    return tuple(one for _, one in sorted(result, key=lambda pair: pair[0])[-HAPPENINGS:])


def nodes_of(samples: Iterable[Row], before: Mapping[str, Node], capacity: float | None) -> dict[str, Node]:
    """Each node's newest sample. `capacity`: bytes of a GPU as planned, for samples that do not tell."""
    latest: dict[str, dict[int, Gpu]] = {name: {gpu.index: gpu for gpu in node.gpus} for name, node in before.items()}
    result = dict(before)
    for row in samples:
        name = str(row.get("node"))
        gpus = latest.setdefault(name, {})
        if isinstance(row.get("gpu"), int):
            gpus[row["gpu"]] = _gpu(row, capacity)
        result[name] = Node(
            name, tuple(gpus[index] for index in sorted(gpus)), _number(row.get("time")) or 0.0,
            _number(row.get("host_cpu_percent")), _number(row.get("host_memory_used_bytes")),
        )  # fmt: skip
    return result


def _gpu(row: Row, capacity: float | None) -> Gpu:
    used, total = _number(row.get("memory_used_bytes")), _number(row.get("memory_total_bytes")) or capacity
    reasons = row.get("throttle_reasons")
    slowed = [str(reason) for reason in reasons if _SLOWED.search(str(reason))] if isinstance(reasons, list) else []
    return Gpu(
        index=row["gpu"], utilization=_number(row.get("utilization")),
        memory=100 * used / total if used is not None and total else None, memory_bytes=used, total_bytes=total,
        temperature=_number(row.get("temperature")), watts=_number(row.get("power_watts")),
        error=str(row["error"]) if row.get("error") else None, slowed=", ".join(slowed) or None,
    )  # fmt: skip


def gpu_troubles(nodes: Iterable[Node]) -> list[str]:
    """GPUs that cannot be read, or are held back."""
    return [
        f"{node.name} GPU {gpu.index}: {gpu.error or f'slowed down ({gpu.slowed})'}"
        for node in nodes
        for gpu in node.gpus
        if gpu.error or gpu.slowed
    ]


def sound(row: Row) -> Row:
    """A row of metrics with None in place of what is no number that can be drawn."""
    return {key: value if drawable(value) else None for key, value in row.items()}


def _number(value: Any) -> float | None:
    return float(value) if drawable(value) else None
