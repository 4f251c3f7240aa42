"""muster report on a run that has trained: nothing in the page is another number than in its files."""

import json
from pathlib import Path

import pytest

from launch.rundir import RunDir
from tests.conftest import Workspace, muster, read_rows
from tests.launch.report.browser import browser, needs_browser
from tests.runs.short_runs import trained


@pytest.fixture(scope="module")
def run(base_workspace: Workspace) -> RunDir:
    return RunDir(trained(base_workspace, "single", {"training": {"eval_samples": 2}}, "reported"))


def test_the_numbers_of_a_run_that_has_trained(run: RunDir) -> None:
    done = muster("report", run.root, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["runs"][0]
    rows = read_rows(run.metrics)
    evaluated, logged = ([row[key] for row in rows if key in row] for key in ("eval_loss", "loss"))
    numbers = found["numbers"]
    assert (numbers["eval_loss_base"], numbers["eval_loss"]) == (evaluated[0], evaluated[-1])
    assert (numbers["loss"], numbers["step"], numbers["steps"]) == (logged[-1], 4, 4)
    assert found["verdict"]["word"] == "finished"
    assert found["attempts"] == [
        {"attempt": 1, "exit_code": 0, "reason": "done", "step": 4, "seconds": found["attempts"][0]["seconds"],
         "then": []}
    ]  # fmt: skip
    measured = next(row for row in found["plan"] if row["name"].startswith("Memory of the largest batch"))
    assert measured["off"].endswith(" %")


def test_its_data_and_answers_are_in_the_page(run: RunDir) -> None:
    assert muster("report", run.root).code == 0
    page = run.report.read_text(encoding="utf-8")
    started = next(row for row in read_rows(run.events) if row["event"] == "started")
    assert f'<td data-head="Training">{started["data"]["tokens"]:,}</td>' in page
    answers = read_rows(run.answers)
    assert answers[0]["question"] in page
    assert f"answers.jsonl, step {answers[-1]['step']}" in page


@needs_browser
def test_its_losses_are_those_that_are_drawn(run: RunDir, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert muster("report", run.root, "--out", page).code == 0
    with browser() as window:
        window.open(page)
        drawn = {one.get("name"): one["y"] for one in window.run("return document.getElementById('chart-loss').data")}
        assert window.said() == []
    rows = read_rows(run.metrics)
    assert drawn["training"] == [row["loss"] for row in rows if "loss" in row]
    assert drawn["evaluation"] == [row["eval_loss"] for row in rows if "eval_loss" in row]
