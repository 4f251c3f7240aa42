"""What the endpoint tells, and the newest values of metrics.jsonl."""

import json
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from launch.rundir import RunDir
from launch.rundir.journal import append, keep_rows
from launch.sampling.driver import NOTHING
from launch.sampling.exporter import Exporter
from launch.sampling.steps import Newest
from tests.launch.conftest import plan_of
from tests.launch.report.written import metrics
from tests.launch.sampling.conftest import Sampling

HOST = {"node": "n1", "time": 5.0, "host_memory_used_bytes": 7, "host_cpu_percent": 50.0}
GPU = {
    **NOTHING, **HOST, "gpu": 3, "utilization": 97, "memory_used_bytes": 1024, "sm_clock_mhz": 1755,
    "throttle_reasons": ["sw_power_cap"],
}  # fmt: skip


def told(exporter: Exporter) -> dict[tuple[str, ...], float]:
    """By name and the values of the labels in order of their names."""
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(generate_latest(exporter.registry).decode())
        for sample in family.samples
    }


def test_gpus_are_told_in_base_units(tmp_path: Path) -> None:
    exporter = Exporter(RunDir(tmp_path), "demo", "n1", "127.0.0.1", 1, first=False)
    exporter.rows = [GPU, {**NOTHING, **HOST, "gpu": 4, "error": "lost"}]
    found = told(exporter)
    assert found["muster_gpu_utilization_ratio", "3", "n1", "demo"] == 0.97
    assert found["muster_gpu_memory_used_bytes", "3", "n1", "demo"] == 1024
    assert found["muster_gpu_sm_clock_hertz", "3", "n1", "demo"] == 1.755e9
    assert found["muster_gpu_throttle", "3", "n1", "sw_power_cap", "demo"] == 1
    assert found["muster_gpu_throttle", "3", "n1", "hw_slowdown", "demo"] == 0
    assert found["muster_host_cpu_ratio", "n1", "demo"] == 0.5
    assert found["muster_sampled_timestamp_seconds", "n1", "demo"] == 5
    assert (found["muster_gpu_readable", "3", "n1", "demo"], found["muster_gpu_readable", "4", "n1", "demo"]) == (1, 0)
    assert not [name for name, *labels in found if labels[0] == "4" and name != "muster_gpu_readable"]
    assert not [name for name, *_ in found if name == "muster_step"]


def test_the_first_node_tells_of_the_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    exporter = Exporter(run, "demo", "n1", "127.0.0.1", 1, first=True)
    assert ("muster_step", "demo") not in told(exporter)
    append(run.metrics, {"step": 25, "loss": 1.5, "learning_rate": 2e-4, "grad_norm": 0.3, "tokens": 99, "mfu": None})
    found = told(exporter)
    assert found["muster_step", "demo"] == 25
    assert found["muster_learning_rate", "demo"] == 2e-4
    assert found["muster_tokens_total", "demo"] == 99
    assert ("muster_mfu_ratio", "demo") not in found


def test_every_number_of_a_step_has_a_series(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    exporter = Exporter(run, "demo", "n1", "127.0.0.1", 1, first=True)
    before = len(told(exporter))
    row = metrics(plan_of("2xH100-80GB"), 25)
    append(run.metrics, row)
    found = told(exporter)
    assert len(found) - before == len(row)
    for what in ("peak", "allocated", "reserved"):
        assert found[f"muster_gpu_memory_{what}_bytes", "demo"] == row[f"gpu_memory_{what}_bytes"]
    assert found["muster_process_memory_bytes", "demo"] == row["process_memory_bytes"]


def test_the_newest_values_are_those_of_the_last_row_that_has_them(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    newest = Newest(path)
    assert newest.read() == {}
    append(path, {"step": 1, "loss": 3.0, "best": True})
    append(path, {"step": 1, "eval_loss": 2.0})
    assert newest.read() == {"step": 1, "loss": 3.0, "eval_loss": 2.0}
    line = json.dumps({"step": 2, "loss": None}).encode()
    with open(path, "ab") as file:
        file.write(line[:9])
        file.flush()
        assert newest.read()["step"] == 1
        file.write(line[9:] + b"\n")
    assert newest.read() == {"step": 2, "eval_loss": 2.0}


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    newest = Newest(path)
    for step in range(1, 6):
        append(path, {"step": step, "loss": 1.0 * step})
    assert newest.read()["loss"] == 5.0
    keep_rows(path, lambda row: row["step"] <= 2)
    assert newest.read() == {"step": 2, "loss": 2.0}


def test_a_port_that_becomes_free_is_opened_later(sampling: Callable[..., Sampling]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = sampling("h100x8", None, "--gpus", 8, "--seconds", 1, "--port", port, "--name", "demo")
        found.until(lambda: len(found.of(7)) >= 2)
        assert found.said().count("warning: ") == 1
        events = [json.loads(line) for line in (found.file.parent / "events.jsonl").read_text().splitlines()]
        assert [(row["event"], row["kind"]) for row in events] == [("warning", "monitoring_port")]
    there = len(found.of(7))
    found.until(lambda: len(found.of(7)) >= there + 2)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    assert 'muster_gpu_memory_total_bytes{gpu="7",' in text
    assert not (found.file.parent / "events.jsonl").read_text().count("warning") > 1


def test_an_address_of_another_machine_is_one_warning(sampling: Callable[..., Sampling]) -> None:
    found = sampling(None, None, "--seconds", 1, "--port", 9400, "--host", "192.0.2.1")
    found.until(lambda: len(found.rows()) >= 2)
    assert "192.0.2.1:9400 cannot be listened on" in found.said()
    assert "set monitoring.prometheus_host to an address of this node" in found.said()
