"""Events as they are marked and told."""

from pathlib import Path

import pytest

from launch.report.marks import Mark, foremost, marks
from launch.report.reading import read
from launch.rundir.journal import append
from launch.status.following import Asker
from tests.launch.report.written import START, write_run


def mark(place: int, tone: str = "calm") -> Mark:
    return Mark("saved", tone, START + place, place, "")  # type: ignore[arg-type]


def test_the_gravest_are_kept_and_the_others_spread_evenly() -> None:
    found = [mark(place, "bad" if place in (250, 900) else "calm") for place in range(1000)]
    own = foremost(found, 12)
    steps = [one.step for one in own]
    assert len(own) == 12
    assert steps == sorted(steps)  # type: ignore[type-var]
    assert {250, 900} <= set(steps)
    assert all(sum(low <= (step or 0) < low + 250 for step in steps) in (2, 3, 4) for low in (0, 250, 500, 750))
    assert foremost(found[:5], 12) == found[:5]


@pytest.mark.parametrize(
    ("event", "tone", "step", "text"),
    [
        ({"event": "oom", "reason": "micro-batch 4 -> 2", "micro_batch_size": 2}, "bad", 40,
         "micro-batch 4 -> 2; micro batch size 2"),
        ({"event": "saved", "step": 25, "seconds": 1.25, "bytes": 3 * 1024**3}, "calm", 25, "seconds 1.25; 3.0 GiB"),
        ({"event": "skipped", "step": 7, "reason": "a\nspike", "loss": None, "ids": [f"r{i}" for i in range(9)]},
         "bad", 7, "a spike; ids r0, r1, r2, r3, r4 and 4 more"),
        ({"event": "rolled_back", "step": 30, "to_step": 25, "left_out": [{"step": 30, "ids": ["a"]}]}, "bad", 30,
         "to step 25"),
        ({"event": "unheard_of", "fatal": False, "step": "x"}, "calm", 40, "fatal: no"),
    ],
)  # fmt: skip
def test_what_is_told_of_an_event(tmp_path: Path, event: dict[str, object], tone: str, step: int, text: str) -> None:
    place = write_run(tmp_path / "night", steps=60)
    append(place.events, {**event, "time": START + 20 + 2.1 * 40 + 0.5})
    found = next(one for one in marks(read(place, Asker())) if one.time == START + 20 + 2.1 * 40 + 0.5)
    assert (found.kind, found.tone, found.step) == (str(event["event"]).replace("_", " "), tone, step)
    assert found.text == text
