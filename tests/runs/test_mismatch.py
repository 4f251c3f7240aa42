"""A worker that would train something else than was planned says so, with both values, and does not start."""

import json
from pathlib import Path

import pytest

from tests.conftest import Workspace, accelerate_launch, after_import, command, kill_when


def test_a_worker_that_is_not_what_was_planned_stops_with_1_naming_both_values(workspace: Workspace) -> None:
    """A plan for two ranks, started as one process: what `accelerate launch --cpu` does in silence."""
    run = workspace.root / "mismatch"
    options = ("-s", "cluster.strategy=ddp", "-s", "cluster.devices_per_node=2")
    kill_when(
        ["-m", "launch", "run", workspace.spec(), "--run-dir", run, *options], lambda: (run / "plan.json").exists()
    )
    done = command("-m", "training", run)
    assert done.code == 1
    lines = done.err.splitlines()
    assert "error: this worker is not what was planned:" in lines
    assert "world_size: the plan says 2, this worker has 1" in lines
    assert "engine: the plan says ddp, this worker has single" in lines


def test_a_precision_that_the_launcher_s_environment_forces_is_not_the_plan_s(workspace: Workspace) -> None:
    """What `mixed_precision: bf16` in somebody's accelerate config sets."""
    run = workspace.root / "precision"
    done = command("-m", "training", workspace.spec(), "--run-dir", run, ACCELERATE_MIXED_PRECISION="bf16")
    assert done.code == 1
    assert (
        "error: this worker is not what was planned:\nprecision: the plan says fp32, this worker has bf16" in done.err
    )
    assert not (run / "samples.jsonl").exists()


def test_the_launcher_that_starts_one_process_where_two_were_asked_for(workspace: Workspace) -> None:
    """`accelerate launch --cpu --num_processes 2`."""
    spec, run = workspace.spec(cluster={"strategy": "ddp", "devices_per_node": 2}), workspace.root / "one"
    launcher = ("-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", 2)
    done = command(*launcher, "-m", "training", spec, "--run-dir", run)
    assert done.code != 0
    assert "error: cluster.strategy: the spec says ddp, this launch is single" in done.err
    assert "devices: the spec says 2, this launch has 1" in done.err
    assert not run.exists()


def test_the_launcher_that_starts_one_process_where_the_spec_leaves_the_number_to_it(workspace: Workspace) -> None:
    run = workspace.root / "one"
    launcher = ("-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", 2)
    done = command(*launcher, "-m", "training", workspace.spec(), "--run-dir", run)
    assert done.code != 0
    assert "error: processes: accelerate was asked for 2, it started 1: --cpu makes it one." in done.err
    assert not run.exists()


def test_nothing_is_read_beside_a_plan_that_is_made(workspace: Workspace) -> None:
    run = workspace.root / "made"
    run.mkdir()
    (run / "plan.json").write_text('{"name": ')
    done = command("-m", "training", run, "-s", "training.max_steps=3")
    assert (done.code, done.err) == (
        2, f"error: {run}: its plan is made, and nothing would read -s or --run-dir; give the spec instead\n"
    )  # fmt: skip
    done = command("-m", "training", run)
    assert (done.code, done.err) == (
        2,
        f"error: {run}/plan.json: cannot be read (ValidationError); start from the spec, with --resume never to move"
        " this run aside\n",
    )


def test_zero_that_accelerate_would_train_as_ddp(workspace: Workspace) -> None:
    """A DeepSpeed config with ACCELERATE_USE_CPU."""
    run = workspace.root / "cpu"
    done = accelerate_launch("zero2", 2, workspace.spec(), "--run-dir", run, ACCELERATE_USE_CPU="1")
    assert done.code != 0
    assert "engine: this launch is zero2, but with ACCELERATE_USE_CPU set accelerate trains as plain DDP" in done.err
    assert not run.exists()


def test_deepspeed_without_a_file_is_one_message(workspace: Workspace) -> None:
    launcher = ("-m", "accelerate.commands.accelerate_cli", "launch", "--use_deepspeed", "--zero_stage", 2)
    done = command(*launcher, "--num_processes", 1, "-m", "training", workspace.spec())
    assert done.code != 0
    assert "error: accelerate was told to use DeepSpeed without a DeepSpeed file; name one as" in done.err
    assert "launch.errors.UsageError" not in done.err


# A library that decides otherwise in silence, put in where its module is imported.
SILENT_CHANGES = {
    "attention: the plan says sdpa, this worker has eager": (
        "real = module.load\n"
        "            def load(*given):\n"
        "                model = real(*given)\n"
        "                model.base_model.model.config._attn_implementation = 'eager'\n"
        "                return model\n"
        "            module.load = load\n"
    ),
    "micro_batch_size: the plan says 2, this worker has 1": (
        "real = module.AdapterTrainer.__init__\n"
        "            def init(self, *given):\n"
        "                real(self, *given)\n"
        "                self.batches.micro_batch_size = 1\n"
        "            module.AdapterTrainer.__init__ = init\n"
    ),
    "gradient_accumulation_steps: the plan says 2, this worker has 1": (
        "real = module.training_arguments\n"
        "            def arguments(*given, **named):\n"
        "                made = real(*given, **named)\n"
        "                made.gradient_accumulation_steps = 1\n"
        "                return made\n"
        "            module.training_arguments = arguments\n"
    ),
}


@pytest.mark.parametrize("told", SILENT_CHANGES)
def test_what_a_library_changes_in_silence_is_told_with_both_values(told: str, workspace: Workspace) -> None:
    faulty = workspace.root / "faulty"
    faulty.mkdir()
    (faulty / "sitecustomize.py").write_text(after_import("training.train", SILENT_CHANGES[told]))
    run = workspace.root / "changed"
    done = command("-m", "training", workspace.spec(), "--run-dir", run, PYTHONPATH=f"{Path.cwd()}:{faulty}")
    assert done.code == 1, done.err
    assert told in done.err
    assert not (run / "samples.jsonl").exists()


def test_a_deepspeed_file_that_contradicts_the_spec_is_refused_with_both_values(
    workspace: Workspace, tmp_path: Path
) -> None:
    config = json.loads(Path("ds_configs/zero2.json").read_text())
    config["train_micro_batch_size_per_gpu"] = 16
    (tmp_path / "zero2.json").write_text(json.dumps(config))
    text = (
        Path("accelerate_configs/zero2.yaml").read_text().replace("ds_configs/zero2.json", str(tmp_path / "zero2.json"))
    )
    (tmp_path / "zero2.yaml").write_text(text)
    launcher = ("-m", "accelerate.commands.accelerate_cli", "launch", "--main_process_port", 0, "--num_processes", 1)
    done = command(
        *launcher,
        "--config_file",
        tmp_path / "zero2.yaml",
        "-m",
        "training",
        workspace.spec(),
        "--run-dir",
        workspace.root / "contradiction",
    )
    assert done.code != 0
    assert (
        f"error: {tmp_path}/zero2.json: train_micro_batch_size_per_gpu: the file says 16, the plan says 2" in done.err
    )


def test_a_spec_for_another_strategy_is_refused_by_a_launch_by_hand(workspace: Workspace) -> None:
    done = accelerate_launch(
        "ddp",
        2,
        workspace.spec(cluster={"strategy": "zero3", "devices_per_node": 2}),
        "--run-dir",
        workspace.root / "other",
    )
    assert done.code != 0
    assert "error: cluster.strategy: the spec says zero3, this launch is ddp" in done.err


def test_one_process_is_the_fallback_of_any_spec_and_keeps_its_global_batch(workspace: Workspace) -> None:
    spec = workspace.spec(
        cluster={"strategy": "zero3", "devices_per_node": 2},
        training={"global_batch_size": None, "gradient_accumulation_steps": 2, "max_steps": 2, "epochs": None},
    )
    done = command("-m", "training", spec, "--run-dir", workspace.root / "fallback")
    assert done.code == 0, done.err
    plan = json.loads((workspace.root / "fallback/plan.json").read_text())
    assert (plan["strategy"], plan["world_size"], plan["global_batch_size"], plan["gradient_accumulation_steps"]) == (
        "single",
        1,
        8,
        4,
    )
