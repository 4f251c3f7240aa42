"""What a run tells others while it trains: its endpoint, its trackers, and that none of them can end it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT, Workspace, environment, kill_when, muster, read_rows
from tests.faults import before_steps, held

LONG = {"epochs": 200, "save_steps": 1000}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def other_address() -> str:
    """An address of this machine beside loopback's first: all of 127/8 is its own."""
    return "127.0.0.2"


def get(host: str, port: int) -> str:
    # Straight there: a proxy of the environment is for other machines.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{host}:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def opened(host: str, port: int, seconds: float = 60) -> str:
    """The first answer: the endpoint opens with the first sample, and the sampler comes behind everything else."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return get(host, port)
        except OSError:  # URLError, and a time-out amid the answer
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def samples(text: str) -> dict[str, tuple[float, dict[str, str]]]:
    return {
        sample.name: (sample.value, sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Training:
    """`muster run` in the background, ended by SIGTERM as a person ends it."""

    def __init__(self, workspace: Workspace, run: Path, **sections: Any):
        spec = workspace.spec("told", **{"training": LONG, **sections})
        self.run = run
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launch", "run", str(spec), "--run-dir", str(run)], cwd=ROOT, env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def until_step(self, step: int) -> None:
        deadline = time.monotonic() + 90
        while self.last_step() < step:
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def last_step(self) -> int:
        path = self.run / "metrics.jsonl"
        return max((row["step"] for row in read_rows(path)), default=0) if path.exists() else 0

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        finally:
            self.process.kill()
        return self.process.returncode


def sampler_of(run: Path) -> list[int]:
    """Processes that sample into this run directory."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"launch.sampling" in words and str(run).encode() in words:
            found.append(int(folder.name))
    return found


def test_a_training_is_scraped(workspace: Workspace) -> None:
    run, port = workspace.root / "scraped", free_port()
    training = Training(workspace, run, monitoring={"prometheus_port": port, "sample_seconds": 1})
    try:
        training.until_step(3)
        opened("127.0.0.1", port)
        before = training.last_step()
        found = samples(get("127.0.0.1", port))
        rows = {row["step"]: row for row in read_rows(run / "metrics.jsonl") if "loss" in row}
        with pytest.raises(urllib.error.URLError):
            get(other_address(), port)
        samplers = sampler_of(run)
    finally:
        code = training.stop()
    assert code == 75
    step, labels = found["muster_step"]
    assert step >= before
    assert labels == {"run": "told"}
    row = rows[int(step)]
    assert found["muster_loss"][0] == row["loss"]
    assert found["muster_learning_rate"][0] == row["learning_rate"]
    assert found["muster_grad_norm"][0] == row["grad_norm"]
    assert found["muster_tokens_per_second"][0] == row["tokens_per_second"]
    assert found["muster_tokens_total"][0] == row["tokens"]
    assert found["muster_host_memory_used_bytes"][0] > 0
    assert set(found["muster_host_memory_used_bytes"][1]) == {"run", "node"}
    assert len(samplers) == 1
    assert sampler_of(run) == []
    with pytest.raises(urllib.error.URLError):
        get("127.0.0.1", port)


def test_an_address_that_was_asked_for_is_listened_on(workspace: Workspace) -> None:
    port = free_port()
    monitoring = {"prometheus_port": port, "prometheus_host": "0.0.0.0", "sample_seconds": 1}
    training = Training(workspace, workspace.root / "open", monitoring=monitoring)
    try:
        training.until_step(3)
        assert "muster_step" in samples(opened(other_address(), port))
    finally:
        training.stop()


def test_a_port_that_is_taken_ends_nothing(workspace: Workspace) -> None:
    run = workspace.root / "taken"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # The sampler comes behind everything else, and this run is short.
        waits = "import time\nwhile step == 22 and '\"monitoring_port\"' not in trainer.run_dir.events.read_text():\n"
        slow = before_steps(workspace.root / "slow", waits + "    time.sleep(0.05)")
        done = muster("run", workspace.spec(monitoring={"prometheus_port": port}), "--run-dir", run, **slow)
    assert done.code == 0, done.err
    assert "monitoring-port" in done.err
    (warned,) = [row for row in read_rows(run / "events.jsonl") if row["event"] == "warning"]
    assert (warned["kind"], warned["step"]) == ("monitoring_port", None)
    assert warned["message"].startswith(f"127.0.0.1:{port} is taken by another process; ")
    assert warned["advice"] == "set monitoring.prometheus_port to a free one"
    assert warned["message"] in (run / "attempts/001/rank-0.log").read_text()


def test_a_sampler_that_dies_ends_nothing(workspace: Workspace) -> None:
    run = workspace.root / "without"
    training = Training(workspace, run)
    try:
        training.until_step(2)
        (sampler,) = sampler_of(run)
        os.kill(sampler, signal.SIGKILL)
        training.until_step(training.last_step() + 3)
    finally:
        code = training.stop()
    assert code == 75
    assert "warning: the sampling of resources ended with -9" in (run / "attempts/001/rank-0.log").read_text()


def test_two_processes_of_a_node_have_one_sampler(workspace: Workspace) -> None:
    run = workspace.root / "two"
    training = Training(workspace, run, cluster={"devices_per_node": 2})
    try:
        training.until_step(2)
        assert len(sampler_of(run)) == 1
    finally:
        training.stop()


# Trackers


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(tag)]


def test_tensorboard_gets_what_metrics_jsonl_gets_also_after_a_kill(workspace: Workspace) -> None:
    """One process tells it, and a resumed run goes on in the same folder without a step told twice."""
    run = workspace.root / "boarded"
    spec = workspace.spec(training={"report_to": ["tensorboard"]}, cluster={"devices_per_node": 2})
    elsewhere = workspace.root / "cwd"
    elsewhere.mkdir()
    argv = ["-m", "launch", "run", spec, "--run-dir", run]
    kill_when(argv, lambda: _logged(run) >= 7, variables=held(workspace.root / "held", 10))
    done = muster("run", spec, "--run-dir", run, cwd=elsewhere)
    assert done.code == 0, done.err
    rows = read_rows(run / "metrics.jsonl")
    for tag, key in (
        ("train/loss", "loss"),
        ("train/learning_rate", "learning_rate"),
        ("train/grad_norm", "grad_norm"),
        ("train/tokens_per_second", "tokens_per_second"),
        ("train/compute_seconds", "compute_seconds"),
    ):
        logged = scalars(run / "tensorboard", tag)
        expected = [(row["step"], row[key]) for row in rows if key in row]
        assert [step for step, _ in logged] == [step for step, _ in expected]
        assert [value for _, value in logged] == pytest.approx([value for _, value in expected], rel=1e-6)
    evaluations = [(row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row]
    assert scalars(run / "tensorboard", "eval/loss") == [
        (step, pytest.approx(value, rel=1e-6)) for step, value in evaluations
    ]
    events = list((run / "tensorboard").glob("events.*"))
    assert len(events) == 2  # one for each attempt, by one rank of two
    assert list(elsewhere.iterdir()) == []


def _logged(run: Path) -> int:
    path = run / "metrics.jsonl"
    if not path.exists() or not list((run / "checkpoints").glob("step-*")):
        return 0
    return max((row["step"] for row in map(json.loads, path.read_text().splitlines())), default=0)


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_trained(workspace: Workspace) -> None:
    import importlib.util

    missing = [name for name in ("mlflow", "wandb") if importlib.util.find_spec(name) is None]
    assert missing, "both are installed here: there is nothing to miss"
    run = workspace.root / "missing"
    done = muster("run", workspace.spec(training={"report_to": missing}), "--run-dir", run)
    assert done.code == 3
    assert f"pip install {' '.join(missing)}" in done.err
    assert not (run / "metrics.jsonl").exists()


def test_a_tracker_that_fails_ends_nothing(workspace: Workspace) -> None:
    """Its folder cannot be made. The training goes on without it, and says so once."""
    run, taken = workspace.root / "untold", workspace.root / "a-file"
    taken.write_text("no folder")
    spec = workspace.spec(training={"report_to": ["tensorboard"]})
    done = muster("run", spec, "--run-dir", run, TENSORBOARD_LOGGING_DIR=str(taken / "logs"))
    assert done.code == 0, done.err
    (warned,) = [row for row in read_rows(run / "events.jsonl") if row["event"] == "warning"]
    assert warned["kind"] == "tracker"
    assert "TensorBoard" in warned["message"]
    assert "NotADirectoryError" in warned["message"]
    assert "metrics.jsonl" in warned["advice"]
    assert read_rows(run / "metrics.jsonl")[-1]["step"] == 22
