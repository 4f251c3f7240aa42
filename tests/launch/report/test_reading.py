"""Run directories as they are found: whole, cut off, of another version, or with values that are no numbers."""

import json
from pathlib import Path

import pytest

from launch.errors import UsageError
from launch.report.reading import OF_BEST, Points, Reading, read
from launch.rundir import RunDir
from launch.rundir.journal import append, write_json
from launch.status.following import Asker
from tests.launch.report.written import SPIKE, SPIKED, START, evaluate, write_run


def reading(place: RunDir) -> Reading:
    return read(place, Asker())


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return write_run(tmp_path / "night", steps=60)


def test_every_logged_value_is_read_with_its_step_and_time(run: RunDir) -> None:
    written = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    own = [row for row in written if "grad_norm" in row]
    found = reading(run).curves["grad_norm"]
    assert found == Points([r["step"] for r in own], [r["time"] for r in own], [r["grad_norm"] for r in own])
    assert found.values[SPIKE - 1] == SPIKED
    assert reading(run).curves["eval_loss"].steps == [0, 40]


def test_each_gpu_has_its_own_samples(run: RunDir) -> None:
    written = [json.loads(line) for line in run.resources.read_text().splitlines()]
    found = reading(run).gpus
    assert list(found) == [("n0", "0"), ("n0", "1")]
    for gpu in (0, 1):
        own = [row["utilization"] for row in written if row["gpu"] == gpu]
        assert found["n0", str(gpu)]["utilization"].values == own


def test_gpus_are_in_the_order_of_their_numbers(run: RunDir) -> None:
    for gpu in (10, 2):
        append(run.resources, {"node": "n0", "gpu": gpu, "time": START, "utilization": 1})
    assert [gpu for _, gpu in reading(run).gpus] == ["0", "1", "2", "10"]


def test_a_gpu_that_was_lost_is_named_once(run: RunDir) -> None:
    for second in (1, 2):
        append(run.resources, {"node": "n0", "gpu": 1, "time": START + second, "error": "lost"})
    assert reading(run).lost == ("n0 GPU 1: lost",)


def test_what_is_no_number_is_left_out_and_the_rest_of_its_row_kept(run: RunDir) -> None:
    bad = ("NaN", "Infinity", '"<script>"', "null", "true", "1e999", "9" * 400, "[1]")
    with open(run.metrics, "a") as file:
        for step, value in enumerate(bad, 61):
            file.write(f'{{"step": {step}, "time": {START + 200 + step}, "loss": {value}, "grad_norm": 0.5}}\n')
        file.write('{"step": "70", "time": 1, "loss": 1.0}\n{"step": 71, "loss": 1.0}\n[1, 2]\n{"step": 72, "ti')
    found = reading(run).curves
    assert found["loss"].steps == list(range(1, 61))
    assert found["grad_norm"].steps == list(range(1, 61 + len(bad)))


def test_rows_of_different_keys_keep_their_order(run: RunDir) -> None:
    for step in range(61, 101):
        own = {"step": step, "time": START + 200 + step, "loss": step / 100}
        append(run.metrics, own if step % 3 else {**own, "extra": 1.0})
        append(run.resources, {"node": "n0", "gpu": 0, "time": START + 200 + step, "utilization": step,
                               **({} if step % 3 else {"extra": 1})})  # fmt: skip
    found = reading(run)
    assert found.curves["loss"].steps == list(range(1, 101))
    assert found.curves["loss"].values[60:] == [step / 100 for step in range(61, 101)]
    assert found.gpus["n0", "0"]["utilization"].values[-40:] == list(range(61, 101))
    assert found.curves["epoch"].times == sorted(found.curves["epoch"].times)


def test_the_best_adapter_is_evaluated_at_its_own_step(run: RunDir) -> None:
    append(run.metrics, {"step": 60, "best_step": 40, "eval_loss": 1.5, "time": START + 200})
    found = reading(run).curves
    assert found["eval_loss"].steps == [0, 40]
    assert found["eval_loss" + OF_BEST] == Points([40], [START + 200], [1.5])


def test_an_attempt_that_left_no_outcome_ends_with_its_last_sign_of_life(run: RunDir) -> None:
    run.attempt(1).outcome.unlink()
    run.attempt(2).root.mkdir()
    append(run.events, {"event": "started", "time": START + 5000, "attempt": 2, "steps": 60})
    append(run.events, {"event": "resumed", "time": START + 5007, "step": 50})
    first, second = reading(run).begun
    assert (first.start, first.end) == (START, START + 20 + 2.1 * 60)
    assert (second.start, second.end) == (START + 5000, START + 5007)


def test_a_directory_with_a_plan_alone(tmp_path: Path) -> None:
    place = RunDir(tmp_path)
    write_json(place.plan, {"of": "another version"})
    found = reading(place)
    assert (found.plan, found.curves, found.gpus, found.begun, found.start) == (None, {}, {}, (), 0.0)
    assert found.status.state == "prepared"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory"):
        reading(RunDir(tmp_path))


def test_the_newest_evaluation_has_numbers_and_answers(run: RunDir) -> None:
    evaluate(run)
    found = reading(run)
    assert found.scores["adapter"]["answer_f1"] == 0.72
    assert found.examples == ({"question": "Which port does SSH use?", "reference": "Port 22 [d1].",
                               "base": "It is 80.", "adapter": "Port 22 [d1]."},)  # fmt: skip
    assert found.examples_from == "evaluations/001"


def test_a_run_has_the_numbers_of_its_own_adapter(run: RunDir) -> None:
    """Neither those of a checkpoint that was looked at later, nor of an evaluation that asked nothing, nor of a report
    that is cut short; and still so when the run has been moved."""
    evaluate(run, number="001", of="adapter", adapter={"answer_f1": 0.5})
    evaluate(run, number="002", of="adapter")
    evaluate(run, number="003", of="adapter", questions=0, adapter={"answer_f1": None})
    evaluate(run, number="004", of="checkpoints/step-000080", adapter={"answer_f1": 0.1})
    evaluate(run, number="005")
    (run.evaluations / "005/report.json").write_text("{")
    moved = RunDir(run.root.rename(run.root.with_name("elsewhere")))
    found = reading(moved)
    assert (found.scores["adapter"]["answer_f1"], found.examples_from) == (0.72, "evaluations/002")


def test_without_an_evaluation_the_answers_while_it_trained_stand_for_it(run: RunDir) -> None:
    for step, answer in ((0, "no idea"), (40, "port 23"), (60, "port 22")):
        append(run.answers, {"step": step, "id": "e1", "question": "Which?", "reference": "22", "answer": answer})
    append(run.answers, {"step": 0, "id": "e2", "question": "Who?", "reference": "me", "answer": "you"})
    found = reading(run)
    assert [(one["base"], one["adapter"]) for one in found.examples] == [("no idea", "port 22"), ("you", None)]
    assert found.examples_from == "answers.jsonl, step 60"
