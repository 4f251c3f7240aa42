"""What happened to a run, as it is marked on the axes and listed below them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launch.evaluation import chosen
from launch.report.reading import Points, Reading
from launch.report.values import clock, plain
from launch.rundir.journal import drawable
from launch.wording import amount, printable

Tone = Literal["bad", "warn", "calm"]
TONES: Mapping[str, Tone] = {
    **dict.fromkeys(("oom", "failed", "skipped", "rolled_back", "node_excluded", "checkpoint_refused"), "bad"),
    **dict.fromkeys(
        ("warning", "learning_rate_lowered", "restarted", "supervisor_killed", "requeued", "forecast_off",
         "grace_short", "stopped"), "warn",
    ),
}  # fmt: skip
ORDER: tuple[Tone, ...] = ("bad", "warn", "calm")
# So many lines can be told apart in a chart, and so many rows read.
MOST_MARKS, MOST_ROWS, MOST_TEXT = 200, 400, 600
# Told by a mark's place and kind, or by tables of their own.
UNTOLD = ("event", "time", "step", "attempt", "job", "job_id")


@dataclass(frozen=True)
class Mark:
    kind: str
    tone: Tone
    time: float
    step: int | None
    """Where it happened; of what has no step of its own, the last one that was logged before it."""
    text: str

    @property
    def clock(self) -> str:
        return clock(self.time)


def marks(reading: Reading) -> list[Mark]:
    """All events, in their order."""
    logged = reading.curves.get("loss", Points())
    return [_mark(event, logged) for event in reading.events]


def foremost(found: Sequence[Mark], most: int) -> list[Mark]:
    """At most `most`, in their order: the gravest first, and where one kind is too many, some spread evenly over it."""
    places: list[int] = []
    for tone in ORDER:
        own = [place for place, mark in enumerate(found) if mark.tone == tone]
        places += [own[place] for place in chosen(len(own), most - len(places))]
    return [found[place] for place in sorted(places)]


def _mark(event: Mapping[str, Any], logged: Points) -> Mark:
    kind, time = str(event["event"]), event["time"]
    own = event.get("step")
    return Mark(
        printable(kind.replace("_", " ")), TONES.get(kind, "calm"), time,
        int(own) if own is not None and drawable(own) else _before(logged, time), _text(event),
    )  # fmt: skip


def _before(logged: Points, time: float) -> int | None:
    """Searched by halves: the rows are in their order."""
    low, high = 0, len(logged.times)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if logged.times[middle] <= time else (low, middle)
    return logged.steps[low - 1] if low else (0 if logged.steps else None)


def _text(event: Mapping[str, Any]) -> str:
    parts = [_part(key, value) for key, value in event.items() if key not in UNTOLD]
    text = printable("; ".join(filter(None, parts)))
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} ..."


def _part(key: str, value: Any) -> str:
    name = key.replace("_", " ")
    if isinstance(value, bool):
        return f"{name}: {'yes' if value else 'no'}"
    if drawable(value):
        size = key.split("_")[-1] == "bytes"
        return f"{name.removesuffix('bytes')}{amount(round(value))}".strip() if size else f"{name} {plain(value)}"
    if isinstance(value, str):
        return " ".join(value.split()) if key in ("message", "reason", "advice") else f"{name} {value}"
    if isinstance(value, list) and value and all(isinstance(one, str | int) for one in value):
        more = f" and {len(value) - 5} more" if len(value) > 5 else ""
        return f"{name} {', '.join(map(str, value[:5]))}{more}"
    return ""  # statistics, which have tables of their own
