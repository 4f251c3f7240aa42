"""What a run leaves in its directory, and who may go on in it."""

import json
import signal
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import Workspace, after_import, kill_when, muster, read_rows
from tests.faults import before_steps, held

TOKEN = "hf_" + "Q7" * 17


KEY = "0123456789abcdef" * 2 + "wxyzwxyz"


def test_a_complete_run_directory(workspace: Workspace) -> None:
    """Every file of the contract, with its keys."""
    run = workspace.root / "complete"
    spec = workspace.spec(training={"eval_steps": 10, "save_total_limit": 2})
    # Its sampler comes behind everything else, and it is short.
    waits = "import time\nwhile step == 22 and not trainer.run_dir.resources.exists():\n    time.sleep(0.05)"
    done = muster("run", spec, "--run-dir", run, **before_steps(workspace.root / "slow", waits))
    assert done.code == 0, done.err
    assert done.out == f"{run}/adapter\n"
    assert "Traceback" not in done.err
    expected = {
        "spec.yaml",
        "plan.json",
        "rendered",
        "preflight.json",
        "metrics.jsonl",
        "resources.jsonl",
        "events.jsonl",
        "samples.jsonl",
        "attempts",
        "checkpoints",
        "adapter",
    }
    assert expected <= {path.name for path in run.iterdir()}
    metrics = read_rows(run / "metrics.jsonl")
    evaluations = [row for row in metrics if "eval_loss" in row]
    steps = [row for row in metrics if "loss" in row]
    assert [row["step"] for row in evaluations] == [0, 10, 20, 22]
    assert [row["step"] for row in steps] == list(range(1, 23))
    assert set(steps[0]) == {
        "step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "step_seconds", "mfu",
        "data_seconds", "compute_seconds", "optimizer_seconds", "communication_seconds", "gpu_memory_peak_bytes",
        "gpu_memory_allocated_bytes", "gpu_memory_reserved_bytes", "process_memory_bytes", "skipped_steps", "time",
    }  # fmt: skip
    started = next(row for row in read_rows(run / "events.jsonl") if row["event"] == "started")
    assert steps[-1]["tokens"] == 2 * started["data"]["tokens"]
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-000020", "step-000022"]
    assert set(read_rows(run / "resources.jsonl")[0]) >= {
        "node",
        "gpu",
        "utilization",
        "memory_used_bytes",
        "power_watts",
        "temperature",
        "host_memory_used_bytes",
    }
    saves = [row for row in read_rows(run / "events.jsonl") if row["event"] == "saved"]
    assert [row["step"] for row in saves] == [4, 8, 12, 16, 20, 22]
    assert all(0 < row["stalled_seconds"] <= row["seconds"] for row in saves)
    # Of those that did not wait for the one before: here saves are tenths of a second apart.
    alone = [row for before, row in pairwise(saves) if row["time"] - row["seconds"] > before["time"]]
    assert statistics.median(row["stalled_seconds"] for row in alone or saves[:1]) < 0.05
    events = [row["event"] for row in read_rows(run / "events.jsonl")]
    assert events[0] == "started"
    assert events[-1] == "finished"
    assert json.loads((run / "attempts/001/outcome.json").read_text())["exit_code"] == 0
    again = muster("run", workspace.spec(training={"eval_steps": 10, "save_total_limit": 2}), "--run-dir", run)
    assert again.code == 0
    assert "this run is finished" in again.err


def test_secrets_reach_no_file(workspace: Workspace) -> None:
    """Something in every process prints the token, as a library's error message might."""
    leaky = workspace.root / "leaky"
    leaky.mkdir()
    (leaky / "sitecustomize.py").write_text(
        "import os, threading, time\n"
        "key, token = os.environ.get('WANDB_API_KEY'), os.environ.get('HF_TOKEN')\n"
        "def leak():\n"
        "    while True:\n"
        "        os.write(2, f'GET https://user:{key}@host/ {token}\\n'.encode())\n"
        "        time.sleep(0.05)\n"
        "threading.Thread(target=leak, daemon=True).start()\n"
    )
    run = workspace.root / "secret"
    done = muster(
        "run", workspace.spec(), "--run-dir", run, HF_TOKEN=TOKEN, WANDB_API_KEY=KEY, PYTHONPATH=f"{Path.cwd()}:{leaky}"
    )
    assert done.code == 0, done.err
    log = (run / "attempts/001/rank-0.log").read_text()
    assert "[secret]" in log
    for path in run.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert TOKEN.encode() not in content, path
            assert KEY.encode() not in content, path


def test_two_processes_cannot_train_in_one_run_directory(workspace: Workspace) -> None:
    run, spec = workspace.root / "shared", workspace.spec()
    second: list[int] = []

    def start_another() -> bool:
        if not (run / "samples.jsonl").exists():
            return False
        done = muster("run", spec, "--run-dir", run)
        second.append(done.code)
        assert "is training in this run directory" in done.err
        return True

    argv: list[object] = ["-m", "launch", "run", spec, "--run-dir", run]
    hold = held(workspace.root / "held", 3)
    assert kill_when(argv, start_another, variables=hold) == -signal.SIGKILL
    assert second == [2]


def test_early_stopping_keeps_the_best_adapter(workspace: Workspace) -> None:
    """A learning rate that makes it worse: the best evaluation is an early one."""
    run = workspace.root / "early"
    spec = workspace.spec(
        training={
            "epochs": 20.0,
            "learning_rate": 0.5,
            "eval_steps": 2,
            "early_stopping_patience": 2,
            "max_grad_norm": 100.0,
        }
    )
    done = muster("run", spec, "--run-dir", run)
    assert done.code == 0, done.err
    evaluations = [(row["eval_loss"], row["step"]) for row in read_rows(run / "metrics.jsonl") if "eval_loss" in row]
    best, step = min(row for row in evaluations if row[1] > 0)
    assert max(row["step"] for row in read_rows(run / "samples.jsonl")) < 220
    loaded = [row for row in read_rows(run / "events.jsonl") if row["event"] == "best_loaded"]
    assert [row["checkpoint"] for row in loaded] == [f"step-{step:06d}"]
    assert evaluations[-1][0] == pytest.approx(best, rel=1e-6)


def test_the_plan_of_a_dry_run_is_the_one_that_runs(workspace: Workspace) -> None:
    spec, run = workspace.spec(training={"max_steps": 1, "epochs": None}), workspace.root / "planned"
    dry = json.loads(muster("run", spec, "--run-dir", run, "--dry-run").out)
    assert not run.exists()
    assert muster("run", spec, "--run-dir", run).code == 0
    planned, ran = dry["plan"], json.loads((run / "plan.json").read_text())
    for plan in (planned, ran):  # what is free on the machine changes from second to second
        plan["topology"].pop("memory_bytes")
        plan["topology"].pop("host_bytes")
        plan.pop("reason")
    assert (planned.pop("measured"), ran.pop("measured")["length"] > 0) == (None, True)
    assert planned == ran
    assert dry["rendered"] == {path.name: path.read_text() for path in (run / "rendered").iterdir()}


def test_an_adapter_that_cannot_be_read_back_the_same_does_not_count(workspace: Workspace) -> None:
    """Something on the way to the disk changes one tensor of the adapter, and of nothing else."""
    faulty = workspace.root / "faulty"
    faulty.mkdir()
    (faulty / "sitecustomize.py").write_text(
        after_import(
            "training.checkpoint.checkpoints",
            "real = module.save_file\n"
            "            def save(tensors, path):\n"
            "                if 'adapter.partial' in str(path):\n"
            "                    name = sorted(tensors)[0]\n"
            "                    tensors = {**tensors, name: tensors[name] + 1}\n"
            "                real(tensors, path)\n"
            "            module.save_file = save\n",
        )
    )
    run, spec = workspace.root / "unread", workspace.spec(training={"max_steps": 4, "epochs": None})
    done = muster("run", spec, "--run-dir", run, PYTHONPATH=f"{Path.cwd()}:{faulty}")
    assert done.code == 10
    assert "1 tensors differ from the trained ones when read back" in done.err
    assert not (run / "adapter").exists()
    again = muster("run", spec, "--run-dir", run)
    assert again.code == 0, again.err
    assert "resumed from step-000004" in again.err
    assert (run / "adapter/tokenizer.json").exists()


def test_other_rows_or_another_base_under_the_same_path_are_another_run(workspace: Workspace) -> None:
    rows = (workspace.root / "train.jsonl").read_text().splitlines(keepends=True)
    own = workspace.root / "own.jsonl"
    own.write_text("".join(rows))
    run, spec = workspace.root / "changed", workspace.spec(data={"train": "own.jsonl"})
    argv: list[object] = ["-m", "launch", "run", spec, "--run-dir", run]
    hold = held(workspace.root / "held", 6)
    kill_when(argv, lambda: (run / "checkpoints/step-000004").exists(), variables=hold)
    own.write_text("".join(rows[:-1]))
    done = muster("run", spec, "--run-dir", run)
    assert done.code == 2
    assert "the rows of data.train, their tokens or their order changed since this checkpoint was written" in done.err


def test_a_checkpoint_of_another_spec_is_refused_with_what_differs(workspace: Workspace) -> None:
    first, second = workspace.root / "first", workspace.root / "second"
    assert muster("run", workspace.spec(), "--run-dir", first).code == 0
    checkpoint = first / "checkpoints/step-000020"
    options = ("--resume", checkpoint, "--run-dir", second)
    done = muster("run", workspace.spec(), *options, "-s", "training.learning_rate=1.0e-5", "-s", "lora.alpha=64")
    assert done.code == 2
    assert f"{checkpoint}: is a checkpoint of another spec\n" in done.err
    assert "  lora.alpha: there 32, here 64\n" in done.err
    assert "  training.learning_rate: there 0.005, here 1e-05\n" in done.err
    again = muster("run", workspace.spec(), *options, "--run-dir", workspace.root / "third")
    assert again.code == 0, again.err
    third = read_rows(workspace.root / "third/samples.jsonl")
    assert third == read_rows(first / "samples.jsonl")  # the ledger came along


def test_when_no_checkpoint_is_good_it_says_that_it_starts_anew(workspace: Workspace) -> None:
    run, spec = workspace.root / "damaged", workspace.spec()
    argv: list[object] = ["-m", "launch", "run", spec, "--run-dir", run]
    hold = held(workspace.root / "held", 6)
    kill_when(argv, lambda: (run / "checkpoints/step-000004").exists(), variables=hold)
    for directory in (run / "checkpoints").glob("step-*"):
        (directory / "optimizer.safetensors").write_bytes(b"")
    done = muster("run", spec, "--run-dir", run, "-s", "training.log_steps=100")
    assert done.code == 0, done.err
    assert "no good one is left, so training starts at step 0" in done.err


def test_qlora_with_the_recipe_s_optimizer(workspace: Workspace) -> None:
    """NF4 base and paged AdamW, which bitsandbytes runs on the CPU too."""
    options = ("-s", "model.quantization=nf4", "-s", "training.optimizer=paged_adamw_32bit")
    done = muster("run", workspace.spec(), "--run-dir", workspace.root / "nf4", *options)
    assert done.code == 0, done.err
    evaluations = [row["eval_loss"] for row in read_rows(workspace.root / "nf4/metrics.jsonl") if "eval_loss" in row]
    assert evaluations[-1] < evaluations[0]
