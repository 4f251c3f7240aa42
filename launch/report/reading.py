"""Reads a run directory for its report. Whatever is missing, cut off or of another kind is left out."""

import bisect
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.diagnosis.report import Diagnosis, diagnosed
from launch.following import Asker, Status, status
from launch.journal import rows
from launch.plan import Plan
from launch.rundir import Evaluation, RunDir

# Beyond it a number is a mistake, and no browser draws it.
LARGEST = 1e300
# After early stopping an earlier adapter is evaluated again: its values are a curve of their own, at its step.
OF_BEST = " of the best adapter"


@dataclass
class Points:
    """One curve, in the order it was written: the step of each value (None of samples of the machine), seconds since
    1970, and the value."""

    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Begun:
    """An attempt on the clock."""

    number: int
    start: float
    end: float


@dataclass(frozen=True)
class Reading:
    """What a run directory holds."""

    place: RunDir
    status: Status
    diagnosis: Diagnosis
    plan: Plan | None
    """None where plan.json is of another version, or damaged."""
    spec: str
    """spec.yaml as it was given."""
    curves: Mapping[str, Points]
    """metrics.jsonl by key."""
    gpus: Mapping[tuple[str, str], Mapping[str, Points]]
    """resources.jsonl by node and GPU, then by key; the GPU of a host without any is empty."""
    lost: tuple[str, ...]
    """GPUs that could not be read any more at some time."""
    events: tuple[Mapping[str, Any], ...]
    begun: tuple[Begun, ...]
    scores: Mapping[str, Any]
    """report.json of the newest evaluation; empty without one."""
    examples: tuple[Mapping[str, Any], ...]
    """{question, reference, base, adapter}: what each answered, as text; None where it was not asked."""
    examples_from: str
    checks: Mapping[str, Any]
    """preflight.json."""

    @property
    def start(self) -> float:
        """When the first thing happened that has a time; 0 where nothing has."""
        firsts = [points.times[0] for points in self.curves.values() if points.times]
        firsts += [event["time"] for event in self.events[:1]] + [begun.start for begun in self.begun[:1]]
        return min(firsts, default=0.0)

    def event(self, name: str) -> Mapping[str, Any]:
        """The last one of this name; empty without any."""
        return next((event for event in reversed(self.events) if event["event"] == name), {})


def read(place: RunDir, ask: Asker) -> Reading:
    """Raises UsageError where there is no run."""
    found = diagnosed(place)
    told = [
        row for row in rows(place.events) if isinstance(row.get("event"), str) and number(row.get("time")) is not None
    ]
    events = tuple(sorted(told, key=lambda row: float(row["time"])))  # several processes write it
    curves = _curves(rows(place.metrics))
    gpus, lost = _gpus(rows(place.resources))
    scores, examples, examples_from = _answers(place)
    written = [points.times for own in (curves, *gpus.values()) for points in own.values()]
    seen = sorted({time for times in written for time in times} | {row["time"] for row in events})
    return Reading(
        place=place, status=status(place, ask), diagnosis=found, plan=_plan(place), spec=_text(place.spec),
        curves=curves, gpus=gpus, lost=lost, events=events, begun=_begun(events, seen), scores=scores,
        examples=examples, examples_from=examples_from, checks=document(place.preflight),
    )  # fmt: skip


def number(value: object) -> float | None:
    """The value where it is a number that can be drawn. JSON may hold NaN, Infinity and integers of any length."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if -LARGEST < value < LARGEST else None


def document(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _plan(place: RunDir) -> Plan | None:
    try:
        return Plan.model_validate_json(place.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _curves(found: Iterable[Mapping[str, Any]]) -> dict[str, Points]:
    curves: dict[str, Points] = {}
    for row in found:
        step, time = number(row.get("step")), number(row.get("time"))
        if step is None or time is None:
            continue
        best = number(row.get("best_step"))
        for key, value in row.items():
            # A hundred thousand rows have a million values: most are floats, and a comparison tells NaN.
            if type(value) is not float or not -LARGEST < value < LARGEST:
                value = number(value)
            if value is None or key in ("step", "time", "best_step"):
                continue
            name = key if best is None else key + OF_BEST
            points = curves.get(name)
            if points is None:
                points = curves[name] = Points()
            points.steps.append(int(step if best is None else best))
            points.times.append(time)
            points.values.append(value)
    return curves


def _gpus(found: Iterable[Mapping[str, Any]]) -> tuple[dict[tuple[str, str], dict[str, Points]], tuple[str, ...]]:
    gpus: dict[tuple[str, str], dict[str, Points]] = {}
    lost: dict[str, None] = {}
    for row in found:
        time, gpu = number(row.get("time")), row.get("gpu")
        if time is None:
            continue
        owner = (str(row.get("node", "")), "" if gpu is None else str(gpu))
        if row.get("error"):
            lost[f"{owner[0]} GPU {owner[1]}: {row['error']}"] = None
        own = gpus.setdefault(owner, {})
        for key, value in row.items():
            if key in ("time", "gpu") or (value := number(value)) is None:
                continue
            points = own.get(key)
            if points is None:
                points = own[key] = Points()
            points.times.append(time)
            points.values.append(value)
    return dict(sorted(gpus.items(), key=_in_order)), tuple(lost)


def _in_order(item: tuple[tuple[str, str], Any]) -> tuple[str, int, str]:
    (node, gpu), _ = item
    return node, int(gpu) if gpu.isdecimal() else -1, gpu


def _begun(events: Iterable[Mapping[str, Any]], seen: Sequence[float]) -> tuple[Begun, ...]:
    """By what was written: a copied directory has other times on its files. `seen` are all its times, sorted."""
    starts: dict[int, float] = {}
    for row in events:
        if row["event"] == "started" and isinstance(row.get("attempt"), int):
            starts.setdefault(row["attempt"], row["time"])
    begun = []
    for attempt, start in sorted(starts.items()):
        after = min((other for other in starts.values() if other > start), default=math.inf)
        # The last sign of it: one that was killed has no outcome, and one that waits to be requeued is over.
        begun.append(Begun(attempt, start, seen[bisect.bisect_left(seen, after) - 1]))
    return tuple(begun)


def _answers(place: RunDir) -> tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...], str]:
    """Numbers and answers of the newest evaluation; without one, the answers that were sampled while it trained."""
    done = [Evaluation(path) for path in place.evaluations.glob("[0-9]*") if path.name.isdecimal()]
    done = [one for one in done if one.report.is_file()]
    if done:
        newest = max(done, key=lambda one: int(one.root.name))
        asked = tuple(_asked(row) for row in rows(newest.answers))
        return document(newest.report), asked, f"evaluations/{newest.root.name}"
    sampled = [row for row in rows(place.answers) if number(row.get("step")) is not None]
    steps = sorted({row["step"] for row in sampled})
    if not steps:
        return {}, (), ""
    base = {str(row.get("id")): row for row in sampled if row["step"] == 0}
    last = {str(row.get("id")): row for row in sampled if row["step"] == steps[-1] and steps[-1] > 0}
    told = [{**row, "base": base.get(name), "adapter": last.get(name)} for name, row in (base | last).items()]
    return {}, tuple(_asked(row) for row in told), f"answers.jsonl, step {steps[-1]}"


def _asked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    def answer(model: str) -> str | None:
        own = row.get(model)
        return str(own["answer"]) if isinstance(own, dict) and "answer" in own else None

    return {"question": str(row.get("question", "")), "reference": str(row.get("reference", "")),
            "base": answer("base"), "adapter": answer("adapter")}  # fmt: skip
