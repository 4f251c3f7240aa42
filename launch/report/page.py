"""Runs as one HTML page that needs nothing else: the library, the values and the script are in it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment

from launch.plan.screen import plan_rows
from launch.report.curves import MOST_OF_ONE, Chart, Curve, charts, drawn
from launch.report.facts import again, against_plan, data_rows, examples, score_rows, verdict
from launch.report.library import allowed, packed, part, plotly, safe_json
from launch.report.marks import MOST_MARKS, MOST_ROWS, ORDER, Mark, foremost, marks
from launch.report.numbers import Numbers, told
from launch.report.reading import Reading
from launch.report.together import together
from launch.report.values import clock, shown
from launch.rundir.journal import scrub
from launch.versions import own_version
from launch.wording import plural, span

SAMPLED, SAMPLED_CURVES = 20, 4


@dataclass(frozen=True)
class Run:
    """One of the page's runs."""

    name: str
    reading: Reading
    numbers: Numbers


def page(runs: Sequence[Run]) -> str:
    """What comes from a run is escaped, and a policy forbids every script but those of this page."""
    library, script = plotly(), part("page.js")
    found = charts([(run.name, run.reading) for run in runs])
    events = [(run.name, run.reading.start, mark) for run in runs for mark in marks(run.reading)]
    listed = _foremost(events, MOST_ROWS)
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.globals.update(summary_of=_summary, samples_of=_samples)
    text = environment.from_string(part("page.html")).render(
        **scrub(_words(runs)), compared=together([(run.name, run.reading, run.numbers) for run in runs]),
        marks=[(name, mark) for name, _, mark in listed], more_marks=len(events) - len(listed), charts=found,
        of_steps=[chart for chart in found if chart.axis == "step"],
        of_time=[chart for chart in found if chart.axis == "time"],
        lost=[told for run in runs for told in run.reading.lost], most_points=f"{MOST_OF_ONE:,}",
        written=clock(time.time()), version=own_version(), style=part("page.css"), script=script,
        library=packed(library), hashes=allowed(script, library),
        drawn=safe_json(scrub(_drawn(found, _foremost(events, MOST_MARKS)))),
    )  # fmt: skip
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair, which JSON can hold and UTF-8 cannot


def _words(runs: Sequence[Run]) -> dict[str, Any]:
    several, views = len(runs) > 1, [_view(run) for run in runs]
    sections = [("verdict", "Verdict")]
    sections += [("numbers", "Numbers"), ("differences", "What differs")] if several else []
    sections += [("curves", "Curves"), ("events", "Events"), ("attempts", "Attempts")]
    sections += [] if several else [("plan", "Plan"), ("data", "Data"), ("evaluation", "Base and adapter")]
    names = [run.name for run in runs]
    attempts = [[*([run.name] if several else []), *row] for run in runs for row in _attempts(run.reading)]
    title = f"{len(runs)} runs: {', '.join(names)}" if several else f"{names[0]}: {views[0]['verdict']['word']}"
    return {
        "several": several, "title": title, "names": names, "runs": views, "attempts": attempts,
        "sections": [*sections, ("again", "To make it again")],
    }  # fmt: skip


def _view(run: Run) -> dict[str, Any]:
    reading = run.reading
    scores = reading.scores
    asked = scores.get("questions")
    about = f"{plural(asked, 'question')} of {scores.get('data', '')}" if isinstance(asked, int) else ""
    return {
        "name": run.name, "place": str(reading.place.root), "verdict": vars(verdict(reading, run.numbers)),
        "told": [vars(one) for one in told(reading, run.numbers)], "spec": reading.spec,
        "against": [[row.name, row.planned, row.measured, row.off] for row in against_plan(reading, run.numbers)],
        "data": data_rows(reading), "scores": score_rows(reading), "scores_of": about, "examples": examples(reading),
        "asked": len(reading.examples), "examples_from": reading.examples_from, "again": _again(reading),
    }  # fmt: skip


def _again(reading: Reading) -> list[list[str]]:
    """What another run needs to be the same one."""
    plan, rows = reading.plan, list[list[str]]()
    if plan is not None:
        rows += [[name, value] for name, value in plan_rows(plan).items()]
        rows.append(["seed", str(plan.spec.training.seed)])
    rows += again(reading)
    return [*rows, ["command", f"muster run {reading.place.spec}"]]


def _attempts(reading: Reading) -> list[list[str]]:
    begun = {one.number: one for one in reading.begun}
    rows = []
    for one in reading.diagnosis.tried:
        at = begun.get(one.number)
        seconds = one.seconds if one.seconds is not None else at.end - at.start if at else None
        running = one is reading.diagnosis.tried[-1] and reading.diagnosis.status == "running"
        ended = one.exit_code.name.lower().replace("_", " ") if one.exit_code is not None else ""
        rows.append(
            [
                str(one.number), clock(at.start) if at else "", span(seconds) if seconds is not None else "",
                "" if one.step is None else f"{one.step:,}", ended or ("running" if running else "no outcome"),
                one.reason, "; ".join(one.then),
            ]
        )  # fmt: skip
    return rows


def _foremost(events: Sequence[tuple[str, float, Mark]], most: int) -> list[tuple[str, float, Mark]]:
    chosen = {id(mark) for mark in foremost([mark for _, _, mark in events], most)}
    return [event for event in events if id(event[2]) in chosen]


def _drawn(found: Sequence[Chart], events: Sequence[tuple[str, float, Mark]]) -> Mapping[str, Any]:
    names = {name for name, _, _ in events}
    seconds = [
        points.times[-1] - curve.start for chart in found for curve in chart.curves for points in [curve.points]
    ] + [mark.time - start for _, start, mark in events]
    return {
        "clock": _clock_unit(max(seconds, default=0)), "tones": list(reversed(ORDER)),
        "charts": [drawn(chart) for chart in found],
        "marks": [
            {
                "kind": f"{name}: {mark.kind}" if len(names) > 1 else mark.kind, "tone": mark.tone, "step": mark.step,
                "seconds": round(mark.time - start, 3), "text": mark.text, "clock": mark.clock,
            }
            for name, start, mark in events
        ],
    }  # fmt: skip


def _clock_unit(seconds: float) -> tuple[str, int]:
    """The largest unit of which there are two, as `span` has it."""
    units = (("days", 86400), ("hours", 3600), ("minutes", 60))
    return next(((name, length) for name, length in units if seconds >= 2 * length), ("seconds", 1))


def _summary(chart: Chart) -> list[list[str]]:
    """A curve a row: the text alternative of a chart of any number of curves."""
    along = "step {:,.0f}" if chart.axis == "step" else "{:,.0f} s"

    def at(place: tuple[float, float]) -> str:
        return f"{shown(place[1], chart.unit)} ({along.format(place[0])})"

    return [
        [curve.name, f"{curve.total:,}", at(curve.lowest), at(curve.highest), shown(curve.mean, chart.unit),
         shown(curve.points.values[-1], chart.unit)]
        for curve in chart.curves
    ]  # fmt: skip


def _samples(chart: Chart) -> list[tuple[str, list[list[str]]]]:
    """Values at some places of the first curves, spread evenly."""
    return [(curve.name, _sampled(chart, curve)) for curve in chart.curves[:SAMPLED_CURVES]]


def _sampled(chart: Chart, curve: Curve) -> list[list[str]]:
    points, count = curve.points, len(curve.points.values)
    places = sorted({place * (count - 1) // max(1, SAMPLED - 1) for place in range(SAMPLED)} if count > 1 else {0})
    at = [f"{step:,}" for step in points.steps] or [f"{moment - curve.start:,.0f}" for moment in points.times]
    return [[at[place], shown(points.values[place], chart.unit)] for place in places]
