"""Numbers as characters: curves, bars and shades, in blocks or in plain ASCII. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Glyphs:
    levels: str
    """Of a column, lowest first; the last one is full."""
    shades: str
    """Of a cell, for the per cent of SHADES."""
    lost: str
    unknown: str
    line: str
    filled: str
    left: str
    """Of a bar: done, and still to do."""
    dot: str
    """Between facts."""
    degree: str
    ascii: bool


BLOCKS = Glyphs("▁▂▃▄▅▆▇█", "·░▒▓█", "×", "?", "─", "━", "─", "·", "°", False)
ASCII = Glyphs("_.-=+*%#", ".-+*#", "x", "?", "-", "#", "-", "|", " ", True)
# Of so many columns the share that the scale is made for.
MANY, USUAL = 20, 0.95
# A cell's shade is the last one whose per cent it reaches.
SHADES = (0.0, 5.0, 30.0, 60.0, 85.0)


def shade(percent: float | None, glyphs: Glyphs) -> str:
    if percent is None:
        return glyphs.unknown
    return glyphs.shades[max(0, sum(percent >= least for least in SHADES) - 1)]


def columns(values: Sequence[float | None], width: int) -> list[float | None]:
    """So many values: means of neighbours where there are more, repeated ones where there are fewer."""
    if not values:
        return [None] * width
    result: list[float | None] = []
    for column in range(width):
        begin = column * len(values) // width
        end = max(begin + 1, (column + 1) * len(values) // width)
        part = [value for value in values[begin:end] if value is not None and math.isfinite(value)]
        result.append(sum(part) / len(part) if part else None)
    return result


def limits(values: Sequence[float | None], zero: bool = False) -> tuple[float, float] | None:
    """(least, most) of a scale; from 0 on with `zero`. None without a value.

    Without, the highest of many do not count: a loss falls from a height at which nothing of the rest could be seen.
    """
    found = sorted(value for value in values if value is not None and math.isfinite(value))
    if not found:
        return None
    if zero:
        return min(0.0, found[0]), found[-1]
    usual = found[int(USUAL * (len(found) - 1))] if len(found) >= MANY else found[-1]
    return found[0], usual if usual > found[0] else found[-1]


def curve(values: Sequence[float | None], width: int, height: int, glyphs: Glyphs, zero: bool = False) -> list[str]:
    """Rows, the highest first. Every value fills at least the lowest level, and nothing is a gap."""
    shown = columns(values, width)
    between = limits(shown, zero)
    if between is None:
        return [" " * width] * height
    least, most = between
    steps = height * len(glyphs.levels)
    high = [None if value is None else (value - least) / (most - least) if most > least else 0.5 for value in shown]
    filled = [0 if share is None else 1 + round((steps - 1) * min(1.0, share)) for share in high]
    return [
        "".join(_cell(fill - row * len(glyphs.levels), glyphs) for fill in filled) for row in reversed(range(height))
    ]


def _cell(fill: int, glyphs: Glyphs) -> str:
    return " " if fill <= 0 else glyphs.levels[min(fill, len(glyphs.levels)) - 1]
