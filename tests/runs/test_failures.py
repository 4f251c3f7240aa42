"""Faults, injected: each ends with its exit code, its reason, and nothing lost."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT, Workspace, accelerate_launch, command, environment, kill_when, muster, read_rows

TOKEN = "hf_" + "Q7" * 17
KEY = "0123456789abcdef" * 2 + "wxyzwxyz"


def test_a_complete_run_directory(workspace: Workspace) -> None:
    """Every file of the contract, with its keys."""
    run = workspace.root / "complete"
    done = muster("run", workspace.spec(training={"eval_steps": 10, "save_total_limit": 2}), "--run-dir", run)
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
        "gpu_memory_peak_bytes", "time",
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


def test_a_rank_that_is_killed_is_named_and_the_others_end(workspace: Workspace) -> None:
    run = workspace.root / "killed"

    def kill_rank_one() -> bool:
        samples = run / "samples.jsonl"
        if not (samples.exists() and samples.read_text().count("\n") >= 3):
            return False
        workers = subprocess.run(["pgrep", "-f", f"training {run}"], capture_output=True, text=True).stdout.split()
        ranks = {}
        for pid in workers:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            ranks |= {int(value.split(b"=")[1]): int(pid) for value in variables if value.startswith(b"RANK=")}
        os.kill(ranks[1], signal.SIGKILL)
        return True

    options = ("-s", "cluster.strategy=ddp", "-s", "cluster.devices_per_node=2", "-s", "training.epochs=20.0")
    began = time.monotonic()
    code = kill_when(["-m", "launch", "run", workspace.spec(), "--run-dir", run, *options], kill_rank_one, sent=0)  # type: ignore[arg-type]
    assert code == 10
    assert time.monotonic() - began < 100
    reason = json.loads((run / "attempts/001/outcome.json").read_text())["reason"]
    assert reason.startswith("rank 1 ended without a word and the others lost their connection: killed")


def test_a_loss_that_is_not_finite_ends_with_7_and_names_the_step(workspace: Workspace) -> None:
    poisoned = workspace.root / "poisoned"
    shutil.copytree(workspace.root / "base", poisoned)
    weights = load_file(poisoned / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = float("inf")
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})
    run = workspace.root / "nan"
    done = muster("run", workspace.spec(model={"variant": str(poisoned)}, data={"eval": None}), "--run-dir", run)
    assert done.code == 7
    assert "rank 0: the loss of step 1 is nan; the last checkpoint is from before it." in done.err
    assert "Traceback" not in done.err
    assert not list((run / "checkpoints").iterdir())
    failure = json.loads((run / "attempts/001/failure-rank-0.json").read_text())
    assert (failure["class"], failure["exit_code"]) == ("numerical", 7)


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
        "            def load(plan):\n"
        "                model = real(plan)\n"
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


def after_import(name: str, change: str) -> str:
    """A sitecustomize that runs `change` on a module as soon as it has been imported."""
    return (
        "import importlib.util, sys\n"
        "class Hook:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name != {name!r}:\n"
        "            return None\n"
        "        sys.meta_path.remove(self)\n"
        "        spec = importlib.util.find_spec(name)\n"
        "        execute = spec.loader.exec_module\n"
        "        def exec_module(module):\n"
        "            execute(module)\n"
        f"            {change}"
        "        spec.loader.exec_module = exec_module\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Hook())\n"
    )


def fill_up(path: Path) -> None:
    """Writes until the disk takes no more, and raises what it says then."""
    with open(path, "wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()


def test_a_full_disk_ends_with_9_and_keeps_what_was_saved(workspace: Workspace) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    disk = workspace.root / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", disk], check=True)
    run, ballast = disk / "run", disk / "ballast"
    try:

        def fill() -> bool:
            if not (run / "checkpoints/step-000004").exists():
                return False
            with pytest.raises(OSError, match="No space left"):
                fill_up(ballast)
            return True

        argv: list[object] = [
            "-m",
            "launch",
            "run",
            workspace.spec(training={"epochs": 30.0, "save_total_limit": 50}),
            "--run-dir",
            run,
        ]
        assert kill_when(argv, fill, sent=0) == 9  # type: ignore[arg-type]
        ballast.unlink()
        done = muster(
            "run",
            workspace.spec(training={"epochs": 30.0, "save_total_limit": 50}),
            "--run-dir",
            run,
            "-s",
            "training.log_steps=10",
        )
        assert done.code == 0, done.err
        assert "resumed from step-" in done.err
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_run_directory_that_cannot_be_written(workspace: Workspace) -> None:
    done = muster("run", workspace.spec(), "--run-dir", "/proc/no-run-here/run")
    assert done.code == 3
    assert done.err.splitlines()[-2:] == [
        "error: the checks failed, nothing was started",
        "error: storage: /proc: No such file or directory. choose another place with --run-dir",
    ]


def test_data_without_a_trainable_token_ends_with_5(workspace: Workspace) -> None:
    path = workspace.root / "long.jsonl"
    path.write_text(json.dumps({"question": "Why? " * 300, "documents": [], "answer": "So."}) + "\n")
    done = muster("run", workspace.spec(data={"train": "long.jsonl"}), "--run-dir", workspace.root / "long")
    assert done.code == 5
    assert f"error: rank 0: {path}:1:1: the answer lies beyond data.max_length 320: the row has " in done.err
    assert "Traceback" not in done.err


def test_two_processes_cannot_train_in_one_run_directory(workspace: Workspace) -> None:
    run, spec = workspace.root / "shared", workspace.spec(training={"epochs": 30.0})
    second: list[int] = []

    def start_another() -> bool:
        if not (run / "samples.jsonl").exists():
            return False
        done = muster("run", spec, "--run-dir", run)
        second.append(done.code)
        assert "is training in this run directory" in done.err
        return True

    assert kill_when(["-m", "launch", "run", spec, "--run-dir", run], start_another) == -signal.SIGKILL
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


def test_the_plan_of_a_dry_run_is_the_one_that_runs(workspace: Workspace) -> None:
    spec, run = workspace.spec(training={"max_steps": 1, "epochs": None}), workspace.root / "planned"
    dry = json.loads(muster("run", spec, "--run-dir", run, "--dry-run").out)
    assert not run.exists()
    assert muster("run", spec, "--run-dir", run).code == 0
    planned, ran = dry["plan"], json.loads((run / "plan.json").read_text())
    for plan in (planned, ran):  # what is free on the machine changes from second to second
        plan["topology"].pop("memory_bytes")
        plan.pop("reason")
    assert planned == ran
    assert dry["rendered"] == {path.name: path.read_text() for path in (run / "rendered").iterdir()}


def test_an_adapter_that_cannot_be_read_back_the_same_does_not_count(workspace: Workspace) -> None:
    """Something on the way to the disk changes one tensor of the adapter, and of nothing else."""
    faulty = workspace.root / "faulty"
    faulty.mkdir()
    (faulty / "sitecustomize.py").write_text(
        after_import(
            "training.checkpoint",
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
    run, spec = workspace.root / "changed", workspace.spec(data={"train": "own.jsonl"}, training={"epochs": 20.0})
    kill_when(["-m", "launch", "run", spec, "--run-dir", run], lambda: (run / "checkpoints/step-000004").exists())
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
    run, spec = workspace.root / "damaged", workspace.spec(training={"epochs": 6.0})
    kill_when(["-m", "launch", "run", spec, "--run-dir", run], lambda: (run / "checkpoints/step-000004").exists())
    for directory in (run / "checkpoints").glob("step-*"):
        (directory / "optimizer.safetensors").write_bytes(b"")
    done = muster("run", spec, "--run-dir", run, "-s", "training.log_steps=100")
    assert done.code == 0, done.err
    assert "no good one is left, so training starts at step 0" in done.err


def test_a_closed_terminal_is_a_request_to_stop(workspace: Workspace) -> None:
    run, spec = workspace.root / "hangup", workspace.spec(training={"epochs": 200.0})
    argv: list[object] = ["-m", "launch", "run", spec, "--run-dir", run]
    assert kill_when(argv, lambda: (run / "samples.jsonl").exists(), sent=signal.SIGHUP) == 75
    assert list((run / "checkpoints").glob("step-*"))


def test_half_a_character_in_a_row_is_named(workspace: Workspace) -> None:
    path = workspace.root / "half.jsonl"
    path.write_text('{"question": "a", "documents": [], "answer": "bad \\ud800 half"}\n')
    done = muster("run", workspace.spec(data={"train": "half.jsonl"}), "--run-dir", workspace.root / "half")
    assert done.code == 5
    assert f"error: {path}:1:1: `answer` holds half of a surrogate pair" in done.err


def test_qlora_with_the_recipe_s_optimizer(workspace: Workspace) -> None:
    """NF4 base and paged AdamW, which bitsandbytes runs on the CPU too."""
    options = ("-s", "model.quantization=nf4", "-s", "training.optimizer=paged_adamw_32bit")
    done = muster("run", workspace.spec(), "--run-dir", workspace.root / "nf4", *options)
    assert done.code == 0, done.err
    evaluations = [row["eval_loss"] for row in read_rows(workspace.root / "nf4/metrics.jsonl") if "eval_loss" in row]
    assert evaluations[-1] < evaluations[0]


def test_a_terminal_that_is_really_closed_ends_no_run_without_a_checkpoint(workspace: Workspace) -> None:
    """Nothing can be written to it any more, by muster or by its progress bar."""
    run, spec = workspace.root / "closed", workspace.spec(training={"epochs": 200.0})
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", "run", spec, "--run-dir", run], cwd=ROOT, env=environment(),
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    threading.Thread(target=drain, args=(ours,), daemon=True).start()
    deadline = time.monotonic() + 100
    while not (run / "samples.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 75
    assert list((run / "checkpoints").glob("step-*"))


def drain(terminal: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass
