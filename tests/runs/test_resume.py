"""kill -9 at any moment, resume, and the run is the same run."""

import json
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Workspace, kill_when, muster, read_rows
from tests.faults import held

STEPS, EPOCHS, ROWS = 22, 2, 42


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter/adapter_model.safetensors")


def largest_difference(run: Path, reference: Path) -> float:
    found, expected = adapter(run), adapter(reference)
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


def reached(run: Path, step: int) -> bool:
    path = run / "samples.jsonl"
    return path.exists() and path.read_text().count("\n") >= step


def assert_each_sample_once_an_epoch(run: Path) -> None:
    ledger = read_rows(run / "samples.jsonl")
    assert [row["step"] for row in ledger] == list(range(1, STEPS + 1))
    for epoch in range(EPOCHS):
        counts = Counter(name for row in ledger if row["epoch"] == epoch for name in row["ids"])
        assert counts == Counter({f"train-{number}": 1 for number in range(ROWS)})


@pytest.fixture(scope="module")
def dropout_spec(base_workspace: Workspace) -> Path:
    """Dropout, for the random generators; packing; and the recipe's own optimizer."""
    return base_workspace.spec("resume", lora={"dropout": 0.1}, training={"optimizer": None, "eval_steps": 4})


@pytest.fixture(scope="module")
def uninterrupted(base_workspace: Workspace, dropout_spec: Path) -> Path:
    run = base_workspace.root / "uninterrupted"
    done = muster("run", dropout_spec, "--run-dir", run)
    assert done.code == 0, done.err
    assert_each_sample_once_an_epoch(run)
    return run


def test_a_save_that_is_waited_for_changes_nothing_but_the_time(
    uninterrupted: Path, base_workspace: Workspace, dropout_spec: Path
) -> None:
    run = base_workspace.root / "waited"
    done = muster("run", dropout_spec, "--run-dir", run, "-s", "training.async_save=false")
    assert done.code == 0, done.err
    assert largest_difference(run, uninterrupted) == 0
    waited, beside = (
        [(row["step"], row["stalled_seconds"] == row["seconds"]) for row in read_rows(place / "events.jsonl")
         if row["event"] == "saved"]
        for place in (run, uninterrupted)
    )  # fmt: skip
    assert [step for step, _ in waited] == [step for step, _ in beside]
    assert [all(whole for _, whole in waited), any(whole for _, whole in beside)] == [True, False]


def test_killed_three_times_the_adapter_is_bit_for_bit_the_same(
    uninterrupted: Path, base_workspace: Workspace, dropout_spec: Path
) -> None:
    run = base_workspace.root / "killed"
    for step in sorted(random.Random(7).sample(range(5, STEPS - 1), 3)):
        argv: list[object] = ["-m", "launch", "run", dropout_spec, "--run-dir", run, "--resume", "auto"]
        hold = held(base_workspace.root / f"held-{step}", step + 3)
        assert kill_when(argv, lambda step=step: reached(run, step), variables=hold) == -signal.SIGKILL  # type: ignore[misc]
    done = muster("run", dropout_spec, "--run-dir", run, "--resume", "auto")
    assert done.code == 0, done.err
    assert "resumed from step-" in done.err
    assert adapter(run).keys() == adapter(uninterrupted).keys()
    assert largest_difference(run, uninterrupted) == 0
    assert_each_sample_once_an_epoch(run)


@pytest.fixture(scope="module")
def half_way(base_workspace: Workspace) -> Path:
    """A run of one process, without dropout, that was killed after its checkpoint of step 8."""
    run = base_workspace.root / "half-way"
    argv: list[object] = ["-m", "launch", "run", base_workspace.spec("moves"), "--run-dir", run]
    hold = held(base_workspace.root / "held", 11)
    kill_when(argv, lambda: (run / "checkpoints/step-000008").exists() and reached(run, 9), variables=hold)
    return run


@pytest.fixture(scope="module")
def straight(base_workspace: Workspace) -> Path:
    run = base_workspace.root / "straight"
    done = muster("run", base_workspace.spec("moves"), "--run-dir", run)
    assert done.code == 0, done.err
    return run


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "zero3_offload", "fsdp2"])
def test_resumed_under_another_strategy_and_world_size(
    strategy: str, half_way: Path, straight: Path, base_workspace: Workspace
) -> None:
    import shutil

    run = base_workspace.root / f"moved-{strategy}"
    shutil.copytree(half_way, run)
    done = muster(
        "run",
        base_workspace.spec("moves"),
        "--run-dir",
        run,
        "-s",
        f"cluster.strategy={strategy}",
        "-s",
        "cluster.devices_per_node=2",
    )
    assert done.code == 0, done.err
    assert "resumed from step-" in done.err
    assert largest_difference(run, straight) < 1e-5
    assert_each_sample_once_an_epoch(run)


def test_from_zero3_on_two_ranks_to_one_process(straight: Path, base_workspace: Workspace) -> None:
    run, spec = base_workspace.root / "from-zero3", base_workspace.spec("moves")
    argv: list[object] = [
        "-m",
        "launch",
        "run",
        spec,
        "--run-dir",
        run,
        "-s",
        "cluster.strategy=zero3",
        "-s",
        "cluster.devices_per_node=2",
    ]
    hold = held(base_workspace.root / "held-zero3", 11)
    kill_when(argv, lambda: (run / "checkpoints/step-000008").exists() and reached(run, 9), variables=hold)
    done = muster("run", spec, "--run-dir", run)
    assert done.code == 0, done.err
    assert "resumed from step-" in done.err
    assert largest_difference(run, straight) < 1e-5


def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_used(
    straight: Path, base_workspace: Workspace
) -> None:
    run, spec = base_workspace.root / "damaged", base_workspace.spec("moves")
    argv: list[object] = ["-m", "launch", "run", spec, "--run-dir", run]
    hold = held(base_workspace.root / "held-damaged", 14)
    kill_when(argv, lambda: (run / "checkpoints/step-000012").exists(), variables=hold)
    newest = run / "checkpoints/step-000012/optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    done = muster("run", spec, "--run-dir", run)
    assert done.code == 0, done.err
    refused = [row["reason"] for row in read_rows(run / "events.jsonl") if row["event"] == "checkpoint_refused"]
    assert len(refused) == 1
    assert refused[0].startswith("step-000012: optimizer.safetensors has ")
    assert "refused step-000012" in done.err
    assert "resumed from step-000008" in done.err
    assert largest_difference(run, straight) == 0
    assert (run / "checkpoints/step-000012.set-aside/optimizer.safetensors").exists()


def test_a_stop_saves_and_ends_with_75_and_loses_nothing(straight: Path, base_workspace: Workspace) -> None:
    run, spec = base_workspace.root / "stopped", base_workspace.spec("moves")
    argv: list[object] = [
        "-m",
        "launch",
        "run",
        spec,
        "--run-dir",
        run,
        "-s",
        "cluster.strategy=ddp",
        "-s",
        "cluster.devices_per_node=2",
    ]
    hold = held(base_workspace.root / "held-stopped", 8)
    assert kill_when(argv, lambda: reached(run, 5), sent=signal.SIGTERM, variables=hold) == 75
    stopped = next(row for row in read_rows(run / "events.jsonl") if row["event"] == "stopped")
    assert (run / f"checkpoints/step-{stopped['step']:06d}").is_dir()
    assert json.loads((run / "attempts/001/outcome.json").read_text())["exit_code"] == 75
    done = muster("run", spec, "--run-dir", run, "-s", "cluster.strategy=ddp", "-s", "cluster.devices_per_node=2")
    assert done.code == 0, done.err
    assert f"resumed from step-{stopped['step']:06d}" in done.err
    assert largest_difference(run, straight) < 1e-5
    assert_each_sample_once_an_epoch(run)


def test_early_stopping_counts_on_after_a_resume(base_workspace: Workspace) -> None:
    """Patience 3 and ever worse evaluations: it stops at the same one, whether or not it was killed before."""
    changes = {
        "learning_rate": 0.5,
        "max_grad_norm": 100.0,
        "eval_steps": 2,
        "save_steps": 2,
        "early_stopping_patience": 3,
    }
    spec = base_workspace.spec("patience", training={"epochs": 20.0, **changes})
    runs = {name: base_workspace.root / f"patience-{name}" for name in ("straight", "killed")}
    assert muster("run", spec, "--run-dir", runs["straight"]).code == 0
    argv: list[object] = ["-m", "launch", "run", spec, "--run-dir", runs["killed"]]
    hold = held(base_workspace.root / "held-patience", 6)
    kill_when(argv, lambda: (runs["killed"] / "checkpoints/step-000004").exists(), variables=hold)
    assert muster("run", spec, "--run-dir", runs["killed"]).code == 0
    steps = {
        name: [row["step"] for row in read_rows(run / "metrics.jsonl") if "eval_loss" in row]
        for name, run in runs.items()
    }
    assert steps["killed"] == steps["straight"]
    assert largest_difference(runs["killed"], runs["straight"]) == 0
