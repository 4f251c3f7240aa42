"""Reads a run directory for its report. Whatever is missing, cut off or of another kind is left out."""

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from launch.diagnosis.report import Diagnosis, diagnosed
from launch.evaluation.directory import Evaluation
from launch.plan import Plan
from launch.rundir import PROGRESS, RunDir
from launch.rundir.journal import document, drawable, rows, scrub
from launch.status.following import Asker, Status, status

# After early stopping an earlier adapter is evaluated again: its values are a curve of their own, at its step.
OF_BEST = " of the best adapter"
BLOCK = 10_000
# Where a row's values stand, not values.
PLACES = ("step", "best_step", "time", "node", "gpu", "error")

Row = Mapping[str, Any]


@dataclass
class Points:
    """One curve, in the order of its times: the step of each value (none of samples of the machine), seconds since
    1970, and the value."""

    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def sort(self) -> None:
        """Rows were taken layout by layout. Of a sorted list, sorting is one look."""
        if self.times != sorted(self.times):
            order = sorted(range(len(self.times)), key=self.times.__getitem__)
            self.steps = [self.steps[place] for place in order] if self.steps else []
            self.times, self.values = ([own[place] for place in order] for own in (self.times, self.values))


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
    progress: Mapping[str, Any]
    """What the newest checkpoint says of the weights and the data that it was trained on."""

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
    """Raises UsageError where there is no run. Secrets are taken out of all texts."""
    found = diagnosed(place)
    told = [row for row in rows(place.events) if isinstance(row.get("event"), str) and drawable(row.get("time"))]
    events = tuple(scrub(sorted(told, key=lambda row: float(row["time"]))))  # several processes write it
    curves = _curves(rows(place.metrics))
    gpus, lost = _gpus(rows(place.resources))
    scores, examples, examples_from = _answers(place)
    written = [max((points.times for points in own.values()), key=len) for own in (curves, *gpus.values()) if own]
    seen = sorted({time for times in written for time in times} | {row["time"] for row in events})
    return Reading(
        place=place, status=status(place, ask), diagnosis=found, plan=_plan(place), spec=scrub(_text(place.spec)),
        curves=curves, gpus=gpus, lost=lost, events=events, begun=_begun(events, seen), scores=scrub(scores),
        examples=tuple(scrub(examples)), examples_from=examples_from, checks=scrub(document(place.preflight)),
        progress=next((document(path / PROGRESS) for path in place.complete_checkpoints()), {}),
    )  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _plan(place: RunDir) -> Plan | None:
    try:
        return Plan.model_validate(scrub(document(place.plan)))
    except ValueError:
        return None


def _curves(found: Iterable[Row]) -> dict[str, Points]:
    curves: dict[str, Points] = {}
    for block in _blocks(found):
        for columns in _columns(block):
            # After early stopping an earlier adapter is evaluated again: at its step, not at the last one.
            again = "best_step" in columns
            _add(curves, columns, "best_step" if again else "step", OF_BEST if again else "")
    for points in curves.values():
        points.sort()
    return curves


def _gpus(found: Iterable[Row]) -> tuple[dict[tuple[str, str], dict[str, Points]], tuple[str, ...]]:
    gpus: dict[tuple[str, str], dict[str, Points]] = {}
    lost: dict[str, None] = {}
    for block in _blocks(found):
        own: dict[tuple[str, str], list[Row]] = {}
        for row in block:
            gpu = row.get("gpu")
            own.setdefault((str(row.get("node", "")), "" if gpu is None else str(gpu)), []).append(row)
            if row.get("error"):
                lost[f"{row.get('node', '')} GPU {gpu}: {row['error']}"] = None
        for owner, some in own.items():
            for columns in _columns(some):
                _add(gpus.setdefault(owner, {}), columns, None, "")
    for points in (points for own_curves in gpus.values() for points in own_curves.values()):
        points.sort()
    return dict(sorted(gpus.items(), key=_in_order)), tuple(lost)


def _blocks(found: Iterable[Row]) -> Iterator[list[Row]]:
    """All rows at once would take a gigabyte."""
    rest = iter(found)
    while block := list(islice(rest, BLOCK)):
        yield block


def _columns(block: Iterable[Row]) -> Iterator[dict[str, Sequence[Any]]]:
    """The rows of each layout, by key. A column at a time is eight times as fast as a value at a time."""
    layouts: dict[tuple[str, ...], list[Row]] = {}
    for row in block:
        layouts.setdefault(tuple(row), []).append(row)
    for layout, some in layouts.items():
        yield dict(zip(layout, zip(*(row.values() for row in some), strict=True), strict=True))


def _add(curves: dict[str, Points], columns: Mapping[str, Sequence[Any]], step: str | None, of: str) -> None:
    """Each column to its curve, by its time and its step; nothing of rows that lack one of these."""
    at = [columns.get(key) for key in ("time", step) if key]
    if None in at:
        return
    for key, column in columns.items():
        if key in PLACES:
            continue
        own = [column, *filter(None, at)]
        if not all(map(_all_drawable, own)):
            own = list(zip(*(row for row in zip(*own, strict=True) if all(map(drawable, row))), strict=True))
        if own:
            points = curves.setdefault(key + of, Points())
            points.values += own[0]
            points.times += own[1]
            points.steps += map(int, own[2]) if step else ()


def _all_drawable(column: Sequence[Any]) -> bool:
    """False, too, of some columns of which each value is: those are looked at one by one."""
    try:
        return {float, int}.issuperset(map(type, column)) and math.isfinite(sum(column))
    except OverflowError:
        return False


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
    """Numbers and answers of the newest evaluation of what the run has trained in the end, one with answers before one
    without; where there is none, the answers that were sampled while it trained."""
    done = [Evaluation(path) for path in place.evaluations.glob("[0-9]*") if path.name.isdecimal()]
    read = [(one, document(one.report)) for one in done if one.report.is_file()]
    # By its last part: the run may have been moved since. A checkpoint's is called after its step.
    own = [(one, scores) for one, scores in read if Path(str(scores.get("adapter_path"))).name == place.adapter.name]
    if own:
        best, numbers = max(own, key=lambda pair: (bool(pair[1].get("questions")), int(pair[0].root.name)))
        return numbers, tuple(_asked(row) for row in rows(best.answers)), f"evaluations/{best.root.name}"
    sampled = [row for row in rows(place.answers) if drawable(row.get("step"))]
    steps = sorted({row["step"] for row in sampled})
    if not steps:
        return {}, (), ""
    base = {str(row.get("id")): row for row in sampled if row["step"] == 0}
    last = {str(row.get("id")): row for row in sampled if row["step"] == steps[-1] and steps[-1] > 0}
    told = [{**row, "base": base.get(name), "adapter": last.get(name)} for name, row in {**base, **last}.items()]
    return {}, tuple(_asked(row) for row in told), f"answers.jsonl, step {steps[-1]}"


def _asked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    def answer(model: str) -> str | None:
        own = row.get(model)
        return str(own["answer"]) if isinstance(own, dict) and "answer" in own else None

    return {"question": str(row.get("question", "")), "reference": str(row.get("reference", "")),
            "base": answer("base"), "adapter": answer("adapter")}  # fmt: skip
