"""Runs beside each other: what differs, and which is best."""

from pathlib import Path

from launch.report.numbers import numbers
from launch.report.reading import read
from launch.report.together import Together, together
from launch.rundir import RunDir
from launch.status.following import Asker
from tests.launch.report.written import write_run


def compared(*runs: RunDir) -> Together:
    readings = [(run.root.name, read(run, Asker())) for run in runs]
    return together([(name, reading, numbers(reading)) for name, reading in readings])


def test_only_what_differs_is_told(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", gpus=8)
    two = write_run(tmp_path / "two", training={"learning_rate": 5e-5}, lora={"rank": 16})
    rows = {name: values for name, *values in compared(one, two).differences}
    assert rows == {
        "lora.rank": ["8", "16"], "training.learning_rate": ["0.0002", "5e-05"],
        "devices": ["1 x 8 H100-80GB", "1 x 2 H100-80GB"], "plan.global_batch_size": ["128", "32"],
    }  # fmt: skip
    assert compared(one, one).differences == []


def test_a_plan_that_cannot_be_read_differs_in_nothing(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one")
    two = write_run(tmp_path / "two", training={"learning_rate": 5e-5})
    unreadable = write_run(tmp_path / "unreadable")
    unreadable.plan.write_text("{}")
    assert compared(one, unreadable).differences == []
    assert compared(one, two, unreadable).differences == [["training.learning_rate", "0.0002", "5e-05", ""]]


def test_the_best_is_marked_where_it_can_be_seen(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "one"), write_run(tmp_path / "two", steps=80), write_run(tmp_path / "three", steps=120)
    rows = {row.name: row for row in compared(*runs).rows}
    assert rows["Evaluation loss"].values == ("2.01", "2.11", "2.01")
    assert rows["Evaluation loss"].best == (0, 2)
    assert rows["Peak memory"].values == ("30.0 GiB",) * 3  # a few bytes apart
    assert rows["Peak memory"].best == ()
    assert rows["Step"].best == ()
    holds = " That ranks them only where they were evaluated on the same rows."
    assert compared(*runs).sentence == f"The lowest evaluation loss is that of one and three: 2.01; two 2.11.{holds}"
    assert compared(runs[0], runs[2]).sentence == f"All have the same evaluation loss, 2.01.{holds}"


def test_the_ranking_needs_two_evaluations(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", steps=30)
    assert compared(one, two).sentence.startswith("Fewer than two of them have an evaluation loss")
    assert "Answer F1" not in {row.name for row in compared(one, two).rows}
