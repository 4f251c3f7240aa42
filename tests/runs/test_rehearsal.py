"""The largest batch is tried before the first step, measured beside the forecast, and leaves no trace."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.memory import forecast
from launch.memory.host import CPU_PROCESS
from launch.plan import Plan
from tests.conftest import Workspace, after_import, losses, muster, read_rows


@pytest.fixture
def long_row(workspace: Workspace) -> Workspace:
    """Rows of which one, somewhere, is much longer than the others."""
    rows = [json.loads(line) for line in (workspace.root / "train.jsonl").read_text().splitlines()]
    rows[29]["documents"][0]["text"] = "cipher " * 220
    (workspace.root / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workspace


def rehearsed(run: Path) -> dict[str, Any]:
    return next(row for row in read_rows(run / "events.jsonl") if row["event"] == "rehearsed")


def run_with(change: str, workspace: Workspace, spec: Path, run: Path, *options: str) -> Any:
    """`muster run` in whose workers a module has been changed as soon as it was imported."""
    module, _, statement = change.partition(": ")
    hook = workspace.root / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(after_import(module, statement.removesuffix("\n") + "\n"))
    return muster("run", spec, "--run-dir", run, *options, PYTHONPATH=str(hook))


def test_the_longest_sequences_are_tried_before_the_first_step(long_row: Workspace) -> None:
    spec, run = long_row.spec(data={"train": "long.jsonl", "max_length": 400}), long_row.root / "run"
    done = muster("run", spec, "--run-dir", run)
    assert done.code == 0, done.err
    order = [row["event"] for row in read_rows(run / "events.jsonl")]
    assert order.index("started") < order.index("verified") < order.index("rehearsed") < order.index("saved")
    found = rehearsed(run)
    assert 220 < found["length"] < 400  # that row's; the others have fewer than 200 tokens
    assert (found["peak_bytes"], found["reserved_bytes"]) == (None, None)  # torch counts them on a GPU alone
    plan = json.loads((run / "plan.json").read_text())
    assert plan["measured"] == {key: found[key] for key in plan["measured"]}
    assert found["error"] == pytest.approx(found["forecast_bytes"] / found["process_bytes"] - 1, abs=1e-4)


@pytest.mark.parametrize("strategy", ["single", "ddp", "zero1", "zero2", "zero3_offload", "fsdp2"])
def test_it_changes_nothing(strategy: str, workspace: Workspace) -> None:
    """The adapter is that of a run whose rehearsal was taken out, to the last bit: with dropout, which draws numbers,
    and the recipe's optimizer."""
    spec = workspace.spec(lora={"dropout": 0.3}, training={"optimizer": None, "epochs": 1})
    processes = 1 if strategy == "single" else 2
    options = ("-s", f"cluster.strategy={strategy}", "-s", f"cluster.devices_per_node={processes}")
    runs = [workspace.root / name for name in ("with", "without")]
    assert muster("run", spec, "--run-dir", runs[0], *options).code == 0
    nothing = (
        "training.loop.rehearsal: module.rehearse = lambda trainer: module.Measured(length=1, seconds=0,"
        " peak_bytes=None, reserved_bytes=None, process_bytes=1, forecast_bytes=1)"
    )
    done = run_with(nothing, workspace, spec, runs[1], *options)
    assert done.code == 0, done.err
    assert (rehearsed(runs[0])["length"] > 1, rehearsed(runs[1])["length"]) == (True, 1)
    assert losses(runs[0]) == losses(runs[1])
    adapters = [(run / "adapter/adapter_model.safetensors").read_bytes() for run in runs]
    assert adapters[0] == adapters[1]


@pytest.mark.parametrize("strategy", ["single", "fsdp2"])
def test_questions_are_answered_at_their_longest(strategy: str, workspace: Workspace) -> None:
    """As long as question and answer may be together, in two tokens; fsdp2 gathers weights for each, one at a time."""
    rows = read_rows(workspace.root / "eval.jsonl")
    rows[3]["documents"][0]["text"] = "cipher " * 220
    (workspace.root / "long-eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"eval_samples": 9, "eval_max_new_tokens": 40, "max_steps": 2, "epochs": None}
    cluster = {"strategy": strategy, "devices_per_node": 1 if strategy == "single" else 2}
    spec = workspace.spec(data={"eval": "long-eval.jsonl", "max_length": 400}, training=training, cluster=cluster)
    run = workspace.root / f"answers-{strategy}"
    done = muster("run", spec, "--run-dir", run)
    assert done.code == 0, done.err
    found = rehearsed(run)
    assert 220 < found["evaluation_length"] < found["answer_length"] < found["evaluation_length"] + 40
    plan = Plan.model_validate_json((run / "plan.json").read_text())
    assert plan.setting.answer_tokens == 440
    there = replace(plan.setting, max_length=found["length"], answer_tokens=found["answer_length"])
    assert found["forecast_bytes"] >= CPU_PROCESS + forecast(plan.architecture, there).phases["answers"]


def test_rows_to_evaluate_on_may_be_the_longest(workspace: Workspace) -> None:
    """An evaluation keeps no activations: the forecast for it is not that of a training step as long."""
    rows = read_rows(workspace.root / "eval.jsonl")
    rows[3]["documents"][0]["text"] = "cipher " * 220
    (workspace.root / "long-eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec, run = workspace.spec(data={"eval": "long-eval.jsonl", "max_length": 400}), workspace.root / "eval-run"
    done = muster("run", spec, "--run-dir", run)
    assert done.code == 0, done.err
    found = rehearsed(run)
    assert found["length"] < 200 < found["evaluation_length"] < 400
    plan = Plan.model_validate_json((run / "plan.json").read_text())
    steps = {
        length: forecast(plan.architecture, replace(plan.setting, max_length=length)).phases
        for length in (found["length"], found["evaluation_length"])
    }
    short, long = steps.values()
    assert found["forecast_bytes"] == CPU_PROCESS + max(*short.values(), long["evaluation"])


def test_a_forecast_that_is_far_off_is_an_event(workspace: Workspace) -> None:
    run = workspace.root / "off"
    done = run_with("training.loop.rehearsal: module.resident_peak = lambda: 1 << 30", workspace, workspace.spec(), run)
    assert done.code == 0, done.err
    event = next(row for row in read_rows(run / "events.jsonl") if row["event"] == "forecast_off")
    assert event["process_bytes"] == 1 << 30
    assert event["error"] < -0.1 == -event["tolerance"]
    assert "the largest batch took 1.0 GiB, the forecast for it was " in done.err


def test_a_largest_batch_that_does_not_fit_ends_with_6_before_a_step(long_row: Workspace) -> None:
    """A model that runs out of memory on the long row alone, as a GPU would at hour three."""
    data, recovery = {"train": "long.jsonl", "max_length": 400}, {"restarts": 0}
    spec, run = long_row.spec(data=data, recovery=recovery), long_row.root / "run"
    short = (
        "transformers.models.qwen2.modeling_qwen2: import torch; forward = module.Qwen2Model.forward\n"
        "            def limited(self, input_ids=None, **rest):\n"
        "                if input_ids.shape[1] > 220 and self.training:\n"
        "                    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB')\n"
        "                return forward(self, input_ids=input_ids, **rest)\n"
        "            module.Qwen2Model.forward = limited\n"
    )
    done = run_with(short, long_row, spec, run)
    assert done.code == 6, done.err
    assert "the largest batch to train on, 2 sequences of 3" in done.err
    assert "does not fit, and no step was trained: CUDA out of memory. Tried to allocate 9.00 GiB." in done.err
    assert "Traceback" not in done.err
    assert not (run / "samples.jsonl").exists()
    assert json.loads((run / "attempts/001/outcome.json").read_text())["class"] == "gpu_memory"
