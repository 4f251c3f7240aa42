"""The charts of a report: which curves they have, with every spike, and what each says in a sentence. Pure."""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from launch.report.downsample import kept
from launch.report.kinds import GPUS, HOSTS, STEPS, Kind
from launch.report.reading import OF_BEST, Points, Reading
from launch.report.values import Unit, shown

# Points of a chart, all its curves together: two for each pixel of a wide screen, and no page of many GPUs too large.
MOST_POINTS, FEWEST_POINTS = 6000, 60
MOST_OF_ONE = 2000
# Of page.css and page.js: beyond so many, curves are told apart by their dashes.
COLOURS, DASHES = 8, 4


@dataclass(frozen=True)
class Level:
    """A horizontal line: what was forecast, or a limit."""

    name: str
    value: float


@dataclass(frozen=True)
class Curve:
    name: str
    points: Points
    """At most MOST_OF_ONE of them."""
    total: int
    """Points that there were."""
    lowest: tuple[float, float]
    """(step or seconds, value)"""
    highest: tuple[float, float]
    mean: float
    start: float
    """Seconds since 1970 that its times are told from."""
    marked: bool
    """Few points, each of them an event by itself: an evaluation."""
    look: tuple[int, int]
    """Its colour and its dash, of COLOURS and DASHES: of several runs, a run has a colour."""
    breaks: tuple[int, ...]
    """Points before which another attempt began: on the time axis nothing was between it and the one before."""


class Found(NamedTuple):
    """A curve as it was written."""

    name: str
    points: Points
    reading: Reading
    marked: bool
    look: tuple[int, int]


@dataclass(frozen=True)
class Chart:
    name: str
    """Its place in the page, such as #loss."""
    title: str
    unit: Unit
    axis: Literal["step", "time"]
    about: str
    """What it is a measure of."""
    curves: tuple[Curve, ...]
    levels: tuple[Level, ...] = ()
    logarithmic: bool = False
    """Whether a logarithmic axis is offered."""

    @property
    def says(self) -> str:
        """The text alternative: each curve's first, last, lowest and highest value."""
        told = [_said(self, curve) for curve in self.curves[:4]]
        more = len(self.curves) - len(told)
        levels = [f"{level.name}: {shown(level.value, self.unit)}" for level in self.levels]
        return " ".join([*told, *([f"And {more} more curves."] if more > 0 else []), *(f"{one}." for one in levels)])


def charts(readings: Sequence[tuple[str, Reading]]) -> tuple[Chart, ...]:
    """Of one run or of several, each with its name. A chart that would be empty is left out."""
    of_steps = [_of_steps(kind, readings) for kind in STEPS if not (kind.alone and len(readings) > 1)]
    if len(readings) > 1:
        return tuple(chart for chart in of_steps if chart is not None)
    reading = readings[0][1]
    of_time = [_of_time(kind, reading, hosts=False) for kind in GPUS]
    of_time += [_of_time(kind, reading, hosts=True) for kind in HOSTS]
    return tuple(chart for chart in [*of_steps, *of_time] if chart is not None)


def _of_steps(kind: Kind, readings: Sequence[tuple[str, Reading]]) -> Chart | None:
    named = [
        (place, run, reading, key, name) for place, (run, reading) in enumerate(readings)
        for key, name in _keys(kind, reading.curves)
    ]  # fmt: skip
    if not named:
        return None
    names = list(dict.fromkeys(name for *_, name in named))
    found: list[Found] = []
    for place, run, reading, key, name in named:
        label = name if len(readings) == 1 else run if len(names) == 1 else f"{run}: {name}"
        look = _look(len(found)) if len(readings) == 1 else (place % COLOURS, names.index(name) % DASHES)
        found.append(Found(label, reading.curves[key], reading, key.startswith("eval_"), look))
    levels = kind.levels(readings[0][1]) if len(readings) == 1 else ()
    curves = _curves(found)
    if kind.of_trouble and not any(curve.highest[1] for curve in curves):
        return None
    return Chart(
        kind.name, kind.title, kind.unit, "step", kind.about, curves, tuple(Level(*level) for level in levels),
        kind.logarithmic and all(curve.lowest[1] > 0 for curve in curves),
    )  # fmt: skip


def _look(place: int) -> tuple[int, int]:
    return place % COLOURS, place // COLOURS % DASHES


def _keys(kind: Kind, curves: Mapping[str, Points]) -> Iterable[tuple[str, str]]:
    """The kind's keys that were written, each with the curve's name."""
    for key, name in kind.keys.items():
        if key.endswith("*"):  # every score there is but those that have a chart
            others = {key for other in STEPS if other is not kind for key in other.keys}
            told = sorted(one for one in curves if one.startswith(key[:-1]) and one.removesuffix(OF_BEST) not in others)
            yield from ((one, one.removeprefix("eval_").replace("_", " ")) for one in told)
            continue
        for one, label in ((key, name), (key + OF_BEST, f"{name}{OF_BEST}")):
            if one in curves:
                yield one, label


def _of_time(kind: Kind, reading: Reading, hosts: bool) -> Chart | None:
    found, seen = list[Found](), set[str]()
    nodes = {node for node, _ in reading.gpus}
    for (node, gpu), own in reading.gpus.items():
        if (hosts and node in seen) or (not hosts and not gpu):
            continue
        seen.add(node)  # each GPU's rows tell the host's numbers again
        for key, name in kind.keys.items():
            if key not in own:
                continue
            where = node if hosts else f"GPU {gpu}" if len(nodes) == 1 else f"{node} GPU {gpu}"
            found.append(Found(f"{where} {name}".strip(), own[key], reading, False, _look(len(found))))
    if not found:
        return None
    levels = tuple(Level(*level) for level in kind.levels(reading))
    return Chart(kind.name, kind.title, kind.unit, "time", kind.about, _curves(found), levels)


def _curves(found: Sequence[Found]) -> tuple[Curve, ...]:
    most = max(FEWEST_POINTS, min(MOST_OF_ONE, MOST_POINTS // len(found)))
    return tuple(_curve(one, most) for one in found)


def _curve(one: Found, most: int) -> Curve:
    points, values = one.points, one.points.values
    start = one.reading.start
    along: Sequence[float] = points.steps or [time - start for time in points.times]
    low, high = (values.index(pick(values)) for pick in (min, max))
    places = kept(values, most)
    fewer = Points(
        [points.steps[place] for place in places] if points.steps else [],
        [points.times[place] for place in places],
        [values[place] for place in places],
    )
    return Curve(
        one.name, fewer, len(values), (along[low], values[low]), (along[high], values[high]),
        sum(values) / len(values), start, one.marked and len(values) <= most, one.look,
        _breaks(fewer.times, one.reading),
    )  # fmt: skip


def _breaks(times: Sequence[float], reading: Reading) -> tuple[int, ...]:
    found = (bisect.bisect_left(times, begun.start) for begun in reading.begun[1:])
    return tuple(sorted({place for place in found if 0 < place < len(times)}))


def _said(chart: Chart, curve: Curve) -> str:
    first, last = (shown(curve.points.values[place], chart.unit) for place in (0, -1))
    if curve.total == 1:
        return f"{curve.name}: {first}."
    low, high = (shown(value, chart.unit) for _, value in (curve.lowest, curve.highest))
    return f"{curve.name}: from {first} to {last}, lowest {low}, highest {high}."


def drawn(chart: Chart) -> dict[str, Any]:
    """What the browser draws. Values as they were written; bytes in GiB, which divides exactly."""
    by = chart.unit.per
    return {
        "name": chart.name, "title": chart.title, "axis": chart.axis, "suffix": chart.unit.suffix,
        "format": chart.unit.ticks, "zero": chart.unit.zero,
        "levels": [{"name": level.name, "value": level.value / by} for level in chart.levels],
        "curves": [
            {
                "name": curve.name, "steps": curve.points.steps, "marked": curve.marked,
                "tone": curve.look[0], "dash": curve.look[1], "breaks": curve.breaks,
                "seconds": [round(time - curve.start, 3) for time in curve.points.times],
                "values": curve.points.values if by == 1 else [value / by for value in curve.points.values],
            }
            for curve in chart.curves
        ],
    }  # fmt: skip
