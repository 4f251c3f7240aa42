"""Several runs beside each other: their numbers, and what they were asked differently. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.report.numbers import KINDS, Kind, Numbers
from launch.report.reading import Reading
from launch.report.values import shown
from launch.wording import span


@dataclass(frozen=True)
class Compared:
    """A number of each run."""

    name: str
    values: tuple[str, ...]
    best: tuple[int, ...]
    """Places of the best ones; none where they do not differ, or none is better."""


@dataclass(frozen=True)
class Together:
    sentence: str
    rows: tuple[Compared, ...]
    differences: list[list[str]]
    """Setting, then its value in each run."""


def together(runs: Sequence[tuple[str, Reading, Numbers]]) -> Together:
    rows = []
    for kind in KINDS:
        values = [found[kind.key] for _, _, found in runs]
        if all(value is None for value in values):
            continue
        there = [value for value in values if value is not None]
        told = ["" if value is None else span(value) if kind.key == "seconds" else shown(value, kind.unit)
                for value in values]  # fmt: skip
        rows.append(Compared(kind.name, tuple(told), _best(kind, there, told)))
    return Together(_sentence(runs), tuple(rows), differences([reading for _, reading, _ in runs]))


def _best(kind: Kind, there: Sequence[float], told: Sequence[str]) -> tuple[int, ...]:
    """By what is shown: a difference that nobody sees makes none of them the best."""
    if not kind.better or len(set(filter(None, told))) < 2:
        return ()
    best = shown((min if kind.better == "low" else max)(there), kind.unit)
    return tuple(place for place, value in enumerate(told) if value == best)


def _sentence(runs: Sequence[tuple[str, Reading, Numbers]]) -> str:
    found = [(own["eval_loss"], name) for name, _, own in runs if own["eval_loss"] is not None]
    if len(found) < 2:
        return "Fewer than two of them have an evaluation loss: there is nothing to rank them by."
    ranked = sorted(found)
    best = shown(ranked[0][0])
    first = [name for loss, name in ranked if shown(loss) == best]  # by what is shown, as in _best
    others = "".join(f"; {name} {shown(loss)}" for loss, name in ranked[len(first) :])
    holds = "That ranks them only where they were evaluated on the same rows."
    if not others:
        return f"All have the same evaluation loss, {best}. {holds}"
    return f"The lowest evaluation loss is that of {' and '.join(first)}: {best}{others}. {holds}"


def differences(readings: Sequence[Reading]) -> list[list[str]]:
    """Of the specs and the devices, among the runs whose plan can be read; another has empty cells."""
    flat = [dict(_flat(_asked(reading))) for reading in readings]
    keys = dict.fromkeys(key for one in flat for key in one)
    differing = [key for key in keys if len({one.get(key, "") for one in flat if one}) > 1]
    return [[key, *(one.get(key, "") for one in flat)] for key in differing]


def _asked(reading: Reading) -> Mapping[str, Any]:
    plan = reading.plan
    if plan is None:
        return {}
    own = ("strategy", "global_batch_size", "micro_batch_size", "gradient_accumulation_steps", "precision")
    asked = plan.spec.model_dump(mode="json", exclude={"name"})
    devices = f"{plan.topology.nodes} x {plan.topology.devices_per_node} {plan.topology.device_name}"
    return {**asked, "devices": devices, "plan": {key: getattr(plan, key) for key in own}}


def _flat(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, str(value)
