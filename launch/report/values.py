"""How the numbers of a report read. Pure."""

import time
from dataclasses import dataclass

from launch.wording import amount, span

GIB = 1024**3


@dataclass(frozen=True)
class Unit:
    name: str
    per: int = 1
    """So many of what is written are one of what is drawn."""
    suffix: str = ""
    ticks: str = ""
    """d3's format of the axis."""
    zero: bool = True
    """Whether the axis begins at 0: where shares of a whole are compared."""


PLAIN = Unit("plain", zero=False)
BYTES = Unit("bytes", GIB, " GiB")
RATE = Unit("bytes per second", GIB, " GiB/s")
SECONDS = Unit("seconds", suffix=" s")
TOKENS = Unit("tokens per second", suffix=" tokens/s", ticks=",~r")
SHARE = Unit("share", ticks=".1~%")
PERCENT = Unit("percent", suffix=" %")
WATTS = Unit("watts", suffix=" W")
CELSIUS = Unit("celsius", suffix=" °C", zero=False)
MEGAHERTZ = Unit("megahertz", suffix=" MHz", zero=False)


def shown(value: float, unit: Unit = PLAIN) -> str:
    """A value with its unit, in as many digits as tell something."""
    if unit is BYTES:
        return amount(round(value))
    if unit is RATE:
        return f"{amount(round(value))}/s"
    if unit is SHARE:
        return f"{100 * value:.1f} %"
    if unit is TOKENS:
        return f"{value:,.0f} tokens/s" if abs(value) >= 10 else f"{value:.3g} tokens/s"
    return f"{plain(value)}{unit.suffix}"


def plain(value: float) -> str:
    """Five digits: losses are compared in the fourth."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 10000 else f"{value:.5g}"


def clock(seconds: float) -> str:
    """A time since 1970, the same wherever it is read."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return ""


def off(planned: float | None, measured: float | None) -> str:
    """How far a forecast was from what came: above 0 where it was too large."""
    if not planned or not measured:
        return ""
    return f"{100 * (planned / measured - 1):+.1f} %"


def lasting(seconds: float | None) -> str:
    return "" if seconds is None else span(seconds)
