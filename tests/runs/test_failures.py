"""Faults, injected: each ends with its exit code, its reason, and nothing lost."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT, Workspace, environment, kill_when, muster, read_rows, variables_of
from tests.faults import before_steps, held


def test_a_rank_that_is_killed_is_named_and_the_others_end(workspace: Workspace) -> None:
    run = workspace.root / "killed"

    def kill_rank_one() -> bool:
        samples = run / "samples.jsonl"
        if not (samples.exists() and samples.read_text().count("\n") >= 3):
            return False
        workers = subprocess.run(["pgrep", "-f", f"training {run}"], capture_output=True, text=True).stdout.split()
        ranks = {variables_of(int(pid)).get("RANK"): int(pid) for pid in workers}
        os.kill(ranks["1"], signal.SIGKILL)
        return True

    options = ("-s", "cluster.strategy=ddp", "-s", "cluster.devices_per_node=2", "-s", "training.epochs=20.0")
    options += ("-s", "recovery.restarts=0")
    argv: list[object] = ["-m", "launch", "run", workspace.spec(), "--run-dir", run, *options]
    assert kill_when(argv, kill_rank_one, sent=0) == 10  # within the minute that it waits
    reason = json.loads((run / "attempts/001/outcome.json").read_text())["reason"]
    assert reason.startswith("rank 1 ended without a word and the others lost their connection: killed")


def test_a_loss_that_is_not_finite_ends_with_7_and_names_the_step(workspace: Workspace) -> None:
    """A step so long that the adapter's product overflows."""
    run = workspace.root / "nan"
    spec = workspace.spec(training={"learning_rate": 1e30, "warmup_ratio": 0.0, "save_steps": 50}, data={"eval": None})
    done = muster("run", spec, "--run-dir", run)
    assert done.code == 7
    assert re.search(r"rank 0: step \d+ cannot be trained on after .*: its loss is (nan|inf)\. no checkpoint", done.err)
    assert "Traceback" not in done.err
    assert not list((run / "checkpoints").iterdir())
    failure = json.loads((run / "attempts/001/failure-rank-0.json").read_text())
    assert (failure["class"], failure["exit_code"]) == ("numerical", 7)


def test_a_broken_package_ends_the_runs_that_use_it_and_no_other(workspace: Workspace) -> None:
    """As a bitsandbytes or a DeepSpeed for another CUDA may be, on a machine where both are installed."""
    for name in ("bitsandbytes", "deepspeed"):
        package = workspace.root / "broken" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"raise RuntimeError('{name} is for another CUDA')\n")
    variables = {"PYTHONPATH": f"{workspace.root / 'broken'}:{ROOT}"}
    spec, codes = workspace.spec(training={"max_steps": 1, "epochs": None}, recovery={"restarts": 0}), {}
    uses = {
        "neither": (), "bitsandbytes": ("-s", "model.quantization=nf4"), "deepspeed": ("-s", "cluster.strategy=zero2")
    }  # fmt: skip
    for name, options in uses.items():
        done = muster("run", spec, "--run-dir", workspace.root / name, *options, **variables)
        codes[name] = done.code
        assert set(re.findall(r"(\w+) is for another CUDA", done.err)) == {name} - {"neither"}, done.err
        if name != "neither":
            told = muster("diagnose", workspace.root / name).out
            assert f"RuntimeError: {name} is for another CUDA" in told
            assert "missing" not in told
    assert codes == {"neither": 0, "bitsandbytes": 10, "deepspeed": 10}
    done = muster("evaluate", workspace.root / "neither", "--limit", 1, **variables)
    assert done.code == 0, done.err


def test_weights_that_are_not_finite_end_with_7_before_the_first_step(workspace: Workspace) -> None:
    poisoned = workspace.root / "poisoned"
    shutil.copytree(workspace.root / "base", poisoned)
    weights = load_file(poisoned / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = float("inf")
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})
    run = workspace.root / "poison"
    done = muster("run", workspace.spec(model={"variant": str(poisoned)}, data={"eval": None}), "--run-dir", run)
    assert done.code == 7
    assert "rank 0: the loaded model gives logits that are not finite: download its files again" in done.err
    assert not (run / "samples.jsonl").exists()


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
            workspace.spec(training={"epochs": 10.0, "save_total_limit": 50}),
            "--run-dir",
            run,
        ]
        assert kill_when(argv, fill, sent=0) == 9  # type: ignore[arg-type]
        ballast.unlink()
        done = muster(
            "run",
            workspace.spec(training={"epochs": 10.0, "save_total_limit": 50}),
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
    assert done.err.splitlines()[-3:] == [
        "error: the checks failed, nothing was started",
        "error: run-directory: /proc: No such file or directory. choose another place with --run-dir",
        "error: to start anyway: --accept run-directory",
    ]


def test_data_without_a_trainable_token_ends_with_5(workspace: Workspace) -> None:
    path = workspace.root / "long.jsonl"
    path.write_text(json.dumps({"question": "Why? " * 300, "documents": ["A text."], "answer": "So."}) + "\n")
    done = muster("run", workspace.spec(data={"train": "long.jsonl"}), "--run-dir", workspace.root / "long")
    assert done.code == 5
    assert f"error: rank 0: {path}:1:1: the answer lies beyond data.max_length 320: the row has " in done.err
    assert "Traceback" not in done.err


def test_a_closed_terminal_is_a_request_to_stop(workspace: Workspace) -> None:
    run, spec = workspace.root / "hangup", workspace.spec()
    argv: list[object] = ["-m", "launch", "run", spec, "--run-dir", run]
    hold = held(workspace.root / "held", 3)
    assert kill_when(argv, lambda: (run / "samples.jsonl").exists(), sent=signal.SIGHUP, variables=hold) == 75
    assert list((run / "checkpoints").glob("step-*"))


def test_a_second_ctrl_c_ends_a_run_that_comes_to_no_step(workspace: Workspace) -> None:
    run, spec = workspace.root / "twice", workspace.spec("twice")
    variables = before_steps(workspace.root / "fault", "if step == 3:\n    import time; time.sleep(10000)")
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", "run", str(spec), "--run-dir", str(run)], cwd=ROOT,
        env=environment(**variables), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def until(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 200
        while not done():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)

    with process:
        until(lambda: (run / "samples.jsonl").exists() and len(read_rows(run / "samples.jsonl")) == 2)
        process.send_signal(signal.SIGINT)
        until((run / "stop").exists)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=100)[1]
    assert process.returncode == 10, told
    assert "stopping: the run saves a checkpoint at the next step and ends; once more to kill it" in told
    assert "killed as asked, before it could save; continue with --resume auto" in told


def test_half_a_character_in_a_row_is_named(workspace: Workspace) -> None:
    path = workspace.root / "half.jsonl"
    path.write_text('{"question": "a", "documents": [], "answer": "bad \\ud800 half"}\n')
    done = muster("run", workspace.spec(data={"train": "half.jsonl"}), "--run-dir", workspace.root / "half")
    assert done.code == 5
    assert f"error: {path}:1:1: `answer` holds half of a surrogate pair" in done.err


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
