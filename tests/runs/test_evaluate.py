"""muster evaluate on real runs: the losses of training, on one process or several, from a run or an adapter alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT, Workspace, environment, muster, read_rows
from tests.runs.short_runs import evaluations, trained

FEW = ("--limit", 3, "--max-new-tokens", 6)


@pytest.fixture(scope="module")
def run(base_workspace: Workspace) -> Path:
    return trained(base_workspace, "single", {}, "evaluated")


@pytest.fixture(scope="module")
def report(run: Path) -> Any:
    done = muster("evaluate", run, *FEW, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_losses_are_those_of_training(run: Path, report: Any) -> None:
    before, after = evaluations(run)
    assert (report["base"]["loss"], report["adapter"]["loss"]) == pytest.approx((before, after), rel=1e-6)
    assert report["adapter"]["perplexity"] < report["base"]["perplexity"]
    assert (report["samples"], report["questions"], report["unanswerable"]) == (9, 3, 0)


def test_what_it_leaves_behind(run: Path, report: Any) -> None:
    place = run / "evaluations/001"
    assert {path.name for path in place.iterdir()} == {"job.json", "report.json", "answers.jsonl", "rank-0.log"}
    assert json.loads((place / "report.json").read_text()) == report
    rows = read_rows(place / "answers.jsonl")
    assert [row["id"] for row in rows] == ["eval-0", "eval-3", "eval-6"]
    for row in rows:
        assert row["oracles"] == row["documents"] == [row["reference"].rsplit("[", 1)[1].rstrip("].")]
        assert {"answer", "f1", "rouge_l", "cited", "invented", "declined", "complete"} < set(row["base"])
    mean = sum(row["adapter"]["f1"] for row in rows) / 3
    assert report["adapter"]["answer_f1"] == pytest.approx(mean)


def test_an_adapter_by_itself_on_two_processes(run: Path, report: Any, tmp_path: Path) -> None:
    """As somebody else has it: PEFT's two files, whose base is named in them."""
    adapter = tmp_path / "theirs"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_bytes((run / "adapter" / name).read_bytes())
    rows = run.parent / "eval.jsonl"
    done = muster("evaluate", adapter, "--data", rows, "--devices", 2, *FEW, "--out", tmp_path / "out", cwd=ROOT)
    assert done.code == 0, done.err
    other = json.loads((tmp_path / "out/report.json").read_text())
    for model in ("base", "adapter"):
        assert {**other[model], "loss": 0, "perplexity": 0} == {**report[model], "loss": 0, "perplexity": 0}
        assert other[model]["loss"] == pytest.approx(report[model]["loss"], rel=1e-5)
    assert (other["base_model"], other["adapter_path"]) == (report["base_model"], str(adapter))
    assert "held-out loss" in done.out
    assert "unanswerable: declined" in done.out
    assert done.out.count("question ") >= 3  # examples


def test_a_loss_that_is_not_finite_ends_with_7(run: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "broken"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_bytes((run / "adapter/adapter_config.json").read_bytes())
    tensors = load_file(run / "adapter/adapter_model.safetensors")
    save_file(
        {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()},
        adapter / "adapter_model.safetensors",
    )
    done = muster("evaluate", adapter, "--data", run.parent / "eval.jsonl", "--limit", 0, "--out", tmp_path / "out")
    assert done.code == 7
    assert "error: the held-out loss of the adapter is nan: its weights are broken" in done.err
    assert "Traceback" not in done.err


def test_an_adapter_of_another_model(run: Path, wide: Workspace, tmp_path: Path) -> None:
    """PEFT would leave out what has no place, with a warning in a log."""
    adapter = tmp_path / "theirs"
    adapter.mkdir()
    config = json.loads((run / "adapter/adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(wide.root / "base")  # its MLP is wider
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes((run / "adapter/adapter_model.safetensors").read_bytes())
    done = muster("evaluate", adapter, "--data", run.parent / "eval.jsonl", "--limit", 0, "--out", tmp_path / "out")
    assert done.code == 2
    assert f"error: {adapter}: is not an adapter of this base: " in done.err


def test_rows_that_cannot_be_used(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Who?", "documents": ["Root."], "answer": "Root."}\nnot JSON\n')
    for _ in range(2):  # what a failed one left is no obstacle
        done = muster("evaluate", run, "--data", rows, *FEW, "--out", tmp_path / "out")
        assert done.code == 5
        assert f"error: {rows}:2:1: " in done.err
        assert "Traceback" not in done.err


def test_rows_that_were_trained_on_are_not_held_out(run: Path) -> None:
    done = muster("evaluate", run, "--data", run.parent / "train.jsonl", "--limit", 0)
    assert done.code == 5
    assert "which is trained on [leakage]" in done.err


def test_rows_that_were_trained_on_may_be_longer_than_those_that_are_judged(run: Path, tmp_path: Path) -> None:
    """They are read for leaks alone."""
    rows = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Root."}]
    rows.write_text(json.dumps({"messages": turns}) + "\n")
    short = ("--max-length", 64, "--limit", 0, "--json")
    refused = muster("evaluate", run, *short)
    assert (refused.code, "eval.jsonl:1:1: " in refused.err) == (5, True), refused.err
    assert "train.jsonl" not in refused.err
    done = muster("evaluate", run, "--data", rows, *short)
    assert done.code == 0, done.err
    assert json.loads(done.out)["samples"] == 1


def test_rows_that_are_left_out_are_told_and_kept(run: Path, tmp_path: Path) -> None:
    """By an adapter alone, of which nobody knows what it was trained on: that is told too."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text((run.parent / "eval.jsonl").read_text() + "not JSON\n")
    plan = json.loads((run / "plan.json").read_text())
    plan["spec"]["data"] |= {"on_bad_row": "quarantine", "train": str(tmp_path / "gone.jsonl")}
    other = tmp_path / "run"
    other.mkdir()
    (other / "plan.json").write_text(json.dumps(plan))
    (other / "adapter").symlink_to(run / "adapter")
    done = muster("evaluate", other, "--data", rows, "--limit", 0)
    assert done.code == 0, done.err
    told = " ".join(done.err.split())
    assert "evaluation: 10 rows, " in told
    assert "1 row left out (see quarantine.jsonl of the results)" in told
    assert f"warning: {tmp_path}/gone.jsonl, which it was trained on, is not here" in told
    assert "evaluated-single: 9 rows, " in done.out
    (kept,) = read_rows(other / "evaluations/001/quarantine.jsonl")
    assert "not JSON" in json.dumps(kept)


def test_a_process_that_is_killed(run: Path, tmp_path: Path) -> None:
    """The other one is ended, and nobody waits."""
    out = tmp_path / "out"
    evaluate = subprocess.Popen(
        [sys.executable, "-m", "launch", "evaluate", run, "--devices", "2", "--out", out],
        cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        workers = _workers(out, 2)
        os.kill(workers[1], signal.SIGTERM)  # not the signal by which the other one is ended
        _, told = evaluate.communicate(timeout=60)
    finally:
        evaluate.kill()
    assert evaluate.returncode == 10
    assert told.splitlines()[-1] == (
        f"error: process 1 of the evaluation was killed by signal 15 and left no reason; its log: {out}/rank-1.log"
    )
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def _workers(out: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = subprocess.run(["pgrep", "-f", f"training.evaluation {out}"], capture_output=True, text=True)
        if len(found.stdout.split()) == count:
            return sorted(map(int, found.stdout.split()))
        time.sleep(0.1)
    raise AssertionError("the processes never began")
