"""The page as Chromium shows it."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from launch.machine.hardware import GIB
from launch.rundir import RunDir
from launch.rundir.journal import append
from tests.conftest import muster, read_rows
from tests.launch.report.browser import Browser, needs_browser
from tests.launch.report.written import SPIKE, SPIKED, START, evaluate, metric_rows, metrics, plan_of, spec, write_run

pytestmark = needs_browser

DRAWN = """
return [...document.querySelectorAll('.chart')].map((chart) => [
  chart.id, chart.querySelectorAll('.scatterlayer .trace path.js-line, .scatterlayer .trace .point').length])
"""
TRACES = "return document.getElementById(arguments[0]).data.map((t) => ({name: t.name, x: t.x, y: t.y, axis: t.yaxis}))"


def traces(chromium: Browser, chart: str) -> dict[str, dict[str, Any]]:
    """The curves and levels of a chart by name."""
    found = chromium.run(TRACES, f"chart-{chart}")
    return {trace["name"]: trace for trace in found if trace["axis"] != "y2"}


def opened(chromium: Browser, place: RunDir) -> Browser:
    chromium.emulate(1280)
    chromium.open(place.report)
    return chromium


def test_every_chart_is_drawn_and_the_console_is_silent(chromium: Browser, night: RunDir) -> None:
    chromium.said()
    chromium.asked()
    opened(chromium, night)
    drawn = dict(chromium.run(DRAWN))
    assert set(drawn) >= {f"chart-{name}" for name in (
        "loss", "scores", "learning-rate", "gradient-norm", "throughput", "memory", "gpu-utilisation", "gpu-memory"
    )}  # fmt: skip
    assert all(drawn.values()), drawn
    assert chromium.said() == []
    assert chromium.asked() == []


def test_the_values_in_the_page_are_those_of_the_files(chromium: Browser, night: RunDir) -> None:
    opened(chromium, night)
    logged = [row for row in read_rows(night.metrics) if "loss" in row]
    evaluated = [row for row in read_rows(night.metrics) if "eval_loss" in row]
    for chart, curve, key, rows in (
        ("loss", "training", "loss", logged), ("loss", "evaluation", "eval_loss", evaluated),
        ("learning-rate", "learning rate", "learning_rate", logged),
        ("gradient-norm", "gradient norm", "grad_norm", logged),
        ("throughput", "tokens per second", "tokens_per_second", logged),
        ("step-parts", "waiting for data", "data_seconds", logged),
    ):  # fmt: skip
        found = traces(chromium, chart)[curve]
        assert found["x"] == [row["step"] for row in rows], chart
        assert found["y"] == [row[key] for row in rows], chart
    peak = traces(chromium, "memory")["peak so far"]["y"]
    assert [value * GIB for value in peak] == [row["gpu_memory_peak_bytes"] for row in logged]
    for gpu in range(8):
        own = [row["utilization"] for row in read_rows(night.resources) if row["gpu"] == gpu]
        assert traces(chromium, "gpu-utilisation")[f"GPU {gpu}"]["y"] == own


def test_the_forecasts_are_lines_of_the_plan(chromium: Browser, night: RunDir) -> None:
    opened(chromium, night)
    plan = json.loads(night.plan.read_text())
    memory, rate = traces(chromium, "memory"), traces(chromium, "throughput")
    assert [v * GIB for v in memory["forecast of what is allocated"]["y"]] == [plan["memory"]["peak_bytes"]] * 2
    assert rate["forecast"]["y"] == [plan["throughput"]["tokens_per_second"]] * 2
    assert traces(chromium, "gradient-norm")["clipped above"]["y"] == [plan["spec"]["training"]["max_grad_norm"]] * 2


def test_a_curve_that_never_changes_is_shown_between_zero_and_itself(chromium: Browser, tmp_path: Path) -> None:
    place = write_run(tmp_path / "constant", steps=10)
    rows = [{**row, "learning_rate": 2e-4} if "learning_rate" in row else row for row in read_rows(place.metrics)]
    place.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert muster("report", place.root).code == 0
    opened(chromium, place)
    low, high = chromium.run("return document.getElementById('chart-learning-rate').layout.yaxis.range")
    assert low == 0
    assert 2e-4 < high < 4e-4


def test_events_are_marked_at_their_step_and_at_their_time(chromium: Browser, night: RunDir) -> None:
    opened(chromium, night)
    marks = "return document.getElementById('chart-loss').data.filter((t) => t.yaxis === 'y2' && t.text)"
    skipped = [trace for trace in chromium.run(marks) if "skipped" in trace["text"][0]]
    assert [trace["x"] for trace in skipped] == [[SPIKE]]
    chromium.driver.find_element(By.CSS_SELECTOR, "input[value=time]").click()
    WebDriverWait(chromium.driver, 20).until(
        lambda _: chromium.run("return document.getElementById('chart-skipped').layout.xaxis.title.text") != "step"
    )
    event = next(row for row in read_rows(night.events) if row["event"] == "skipped")
    start = read_rows(night.events)[0]["time"]
    skipped = [trace for trace in chromium.run(marks) if "skipped" in trace["text"][0]]
    assert skipped[0]["x"] == [pytest.approx((event["time"] - start) / 60)]
    assert traces(chromium, "loss")["training"]["x"][0] == pytest.approx((20 + 2.1) / 60)


def test_no_line_leads_over_the_time_between_two_attempts(chromium: Browser, tmp_path: Path) -> None:
    place = write_run(tmp_path / "resumed", steps=60, finished=False)
    place.attempt(2).root.mkdir()
    plan = plan_of("2xH100-80GB", spec=spec())
    append(place.events, {"event": "started", "time": START + 4000, "attempt": 2, "steps": 120})
    for step in range(61, 81):
        append(place.metrics, {**metrics(plan, step), "time": START + 4000 + step})
    assert muster("report", place.root).code == 0
    opened(chromium, place)
    assert None not in traces(chromium, "loss")["training"]["y"]
    chromium.driver.find_element(By.CSS_SELECTOR, "input[value=time]").click()
    WebDriverWait(chromium.driver, 20).until(lambda _: None in traces(chromium, "skipped")["left out so far"]["y"])
    drawn = traces(chromium, "loss")["training"]
    assert drawn["y"].index(None) == drawn["x"].index(None) == 60
    chart = chromium.driver.find_element(By.ID, "chart-loss")
    chart.send_keys(Keys.ARROW_RIGHT * 61)
    said = chromium.driver.find_element(By.ID, "said-loss").get_attribute("textContent")
    assert said == f"training, {drawn['x'][61]:.2f} minutes: {drawn['y'][61]:.6g}"


HOSTILE = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">'\"]]>&lt;\u2028\ud800%{y}"


def test_what_comes_from_a_run_is_shown_and_never_run(chromium: Browser, tmp_path: Path) -> None:
    place = write_run(tmp_path / "hostile", steps=50)
    evaluate(place, question=HOSTILE, answer=HOSTILE)
    with open(place.spec, "a") as file:
        file.write(f"# {HOSTILE[:-6]}\n")
    append(place.events, {"event": HOSTILE[:-6], "time": 1_800_000_100.0, "step": 30, "message": HOSTILE[:-6]})
    append(place.resources, {"node": HOSTILE[:-6], "gpu": "<b>0</b>", "time": 1_800_000_050.0, "utilization": 3})
    append(place.metrics, {"step": 51, "time": 1_800_000_130.0, "eval_<script>1": 0.5, "loss": "<script>"})
    assert muster("report", place.root).code == 0
    opened(chromium, place)
    assert chromium.run("return document.title") == "night: finished"
    assert chromium.run("return document.querySelectorAll('img, .chart script, main script, main b').length") == 0
    text = chromium.run("return document.body.textContent")
    assert text.count("<script>document.title='run'</script>") >= 5
    names = chromium.run(
        "return [...document.querySelectorAll('#chart-gpu-utilisation .legendtext')].map((t) => t.textContent)"
    )
    assert any("<script>" in name and "<b>0</b>" in name for name in names), names
    assert "<script>1" in chromium.run("return document.querySelector('#scores').textContent")
    assert chromium.said() == []


def test_a_script_that_got_into_the_page_is_refused_by_its_policy(chromium: Browser, night: RunDir) -> None:
    opened(chromium, night)
    chromium.run(
        "const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s)"
    )
    chromium.run("const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i)")
    assert chromium.run("return document.title") == "night: finished"
    said = " ".join(chromium.said())
    assert said.count("Content Security Policy") >= 2, said


@pytest.mark.parametrize(("width", "touch"), [(390, True), (320, True), (1280, False)])
def test_nothing_is_wider_than_the_screen(chromium: Browser, night: RunDir, width: int, touch: bool) -> None:
    chromium.emulate(width, touch=touch)
    chromium.open(night.report)
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    widths = chromium.run(
        "return [...document.querySelectorAll('.main-svg')].map((s) => s.getBoundingClientRect().width)"
    )
    assert max(widths) <= width
    assert min(w for w in widths if w) > 250


LUMINANCE = """
const rgb = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number).map((v) => {
  v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 });
const light = (text) => { const [r, g, b] = rgb(text); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
const style = (selector) => getComputedStyle(document.querySelector(selector));
const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
const page = light(style('body').backgroundColor);
const panel = light(style('.verdict').backgroundColor);
return {
  page, text: ratio(page, light(style('body').color)), dim: ratio(page, light(style('figcaption p').color)),
  note: ratio(panel, light(style('.note').color)), verdict: ratio(panel, light(style('.verdict strong').color)),
  link: ratio(page, light(style('nav a').color)), ticks: ratio(page, light(style('.xtick text').fill)),
  curves: [...document.querySelectorAll('#chart-gpu-utilisation .js-line')]
    .map((line) => ratio(page, light(getComputedStyle(line).stroke))),
}
"""


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_can_be_read(chromium: Browser, night: RunDir, dark: bool) -> None:
    """WCAG 2.2: 4.5 to 1 for text (1.4.3), 3 to 1 for what is drawn (1.4.11)."""
    chromium.emulate(1280, dark=dark)
    chromium.open(night.report)
    found = chromium.run(LUMINANCE)
    assert (found["page"] < 0.1) is dark
    assert min(found[name] for name in ("text", "dim", "note", "verdict", "link", "ticks")) >= 4.5, found
    assert min(found["curves"]) >= 3, found


def test_a_change_of_the_scheme_is_followed(chromium: Browser, night: RunDir) -> None:
    opened(chromium, night)
    light = chromium.run("return getComputedStyle(document.querySelector('.xtick text')).fill")
    chromium.emulate(1280, dark=True)
    WebDriverWait(chromium.driver, 20).until(
        lambda _: chromium.run("return getComputedStyle(document.querySelector('.xtick text')).fill") != light
    )


def test_a_chart_is_read_with_the_keyboard(chromium: Browser, night: RunDir) -> None:
    opened(chromium, night)
    rows = [row for row in read_rows(night.metrics) if "grad_norm" in row]
    chart = chromium.driver.find_element(By.ID, "chart-gradient-norm")
    said = chromium.driver.find_element(By.ID, "said-gradient-norm")

    def told() -> str:
        return str(said.get_attribute("textContent"))

    chart.send_keys(Keys.ARROW_RIGHT * SPIKE)
    assert told() == f"gradient norm, step {SPIKE}: {SPIKED}"
    chart.send_keys(Keys.END)
    assert told() == f"gradient norm, step {rows[-1]['step']}: {rows[-1]['grad_norm']:.6g}"
    before = chromium.run("return document.getElementById('chart-gradient-norm').layout.xaxis.range")
    chart.send_keys("+")
    low, high = chromium.run("return document.getElementById('chart-gradient-norm').layout.xaxis.range")
    assert high - low == pytest.approx((before[1] - before[0]) / 2)
    chart.send_keys("0")
    assert chromium.run("return document.getElementById('chart-gradient-norm').layout.xaxis.range") == before


def test_the_keyboard_goes_from_curve_to_curve_at_the_same_place(chromium: Browser, night: RunDir) -> None:
    opened(chromium, night)
    chart = chromium.driver.find_element(By.ID, "chart-loss")
    chart.send_keys(Keys.HOME + Keys.ARROW_RIGHT * 39 + Keys.ARROW_DOWN)
    said = chromium.driver.find_element(By.ID, "said-loss").get_attribute("textContent")
    assert said == "evaluation, step 40: 2.21"


def test_what_a_screen_reader_is_told(chromium: Browser, night: RunDir) -> None:
    opened(chromium, night)
    nodes = chromium.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    told = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    assert [name for role, name in told if role == "main"] == [""]
    assert ("navigation", "Sections") in told
    assert ("figure", "Loss") in told
    charts = dict(name.split(". ", 1) for role, name in told if role == "application")
    assert charts["Gradient norm"].startswith("gradient norm: from 0.454")
    assert "highest 41.5" in charts["Gradient norm"]
    levels = chromium.run("return [...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert chromium.run("return document.documentElement.lang") == "en"
    ids = chromium.run(
        "return [...document.querySelectorAll('[id]')].filter((e) => !e.closest('svg')).map((e) => e.id)"
    )
    assert len(ids) == len(set(ids))


def test_the_page_is_printed_light_with_all_charts(chromium: Browser, night: RunDir) -> None:
    chromium.emulate(1280, dark=True)
    chromium.open(night.report)
    chromium.run("window.sizes = []; addEventListener('beforeprint', () => {"
                 " sizes.push(...[...document.querySelectorAll('.chart .main-svg')].map((s) => s.clientWidth));"
                 " sizes.color = getComputedStyle(document.querySelector('.xtick text')).fill })")  # fmt: skip
    pdf = chromium.printed()
    assert pdf[:5] == b"%PDF-"
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 4
    assert set(chromium.run("return sizes.filter((s) => s)")) == {680}
    WebDriverWait(chromium.driver, 20).until(
        lambda _: chromium.run("return document.querySelector('#chart-loss .main-svg').clientWidth") != 680
    )
    assert chromium.said() == []


def test_several_runs_are_drawn_together(chromium: Browser, night: RunDir, tmp_path: Path) -> None:
    other = write_run(tmp_path / "low", steps=80, name="low", training={"learning_rate": 5e-5})
    page = tmp_path / "both.html"
    assert muster("report", night.root, other.root, "--out", page).code == 0
    chromium.emulate(1280)
    chromium.open(page)
    found = traces(chromium, "loss")
    assert list(found) == ["night: training", "night: evaluation", "low: training", "low: evaluation"]
    assert found["low: training"]["y"] == [row["loss"] for row in read_rows(other.metrics) if "loss" in row]
    settings = chromium.run("return document.querySelector('section[aria-labelledby=differences]').textContent")
    assert "training.learning_rate" in settings
    assert "5e-05" in settings
    assert chromium.said() == []


def test_a_run_without_any_row_has_no_chart_and_no_error(chromium: Browser, tmp_path: Path) -> None:
    place = write_run(tmp_path / "young", finished=False)
    for path in (place.metrics, place.resources, place.events):
        path.unlink()
    assert muster("report", place.root).code == 0
    opened(chromium, place)
    assert chromium.run(DRAWN) == []
    assert "Nothing has been logged yet." in chromium.run("return document.body.textContent")
    assert chromium.said() == []


def test_a_spike_among_a_hundred_thousand_steps_is_drawn(chromium: Browser, tmp_path: Path) -> None:
    place = write_run(tmp_path / "long", steps=2)
    rows = metric_rows(plan_of("2xH100-80GB", spec=spec("long")), 100_000, 1000)
    place.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert muster("report", place.root).code == 0
    opened(chromium, place)
    found = traces(chromium, "gradient-norm")["gradient norm"]
    assert len(found["y"]) <= 2000
    assert found["y"][found["x"].index(SPIKE)] == SPIKED
    assert max(found["y"]) == SPIKED


def test_a_browser_that_cannot_unpack_the_library_shows_the_tables(chromium: Browser, night: RunDir) -> None:
    old = {"source": "delete window.DecompressionStream"}
    added = chromium.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", old)
    try:
        chromium.emulate(390)
        chromium.driver.get(night.report.as_uri())
        WebDriverWait(chromium.driver, 20).until(
            lambda _: "draws no charts" in chromium.run("return document.getElementById('chart-loss').textContent")
        )
        table = chromium.driver.find_element(By.CSS_SELECTOR, "#gradient-norm details")
        assert f"{SPIKED} (step {SPIKE})" in str(table.get_attribute("textContent"))
    finally:
        chromium.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
        chromium.said()
