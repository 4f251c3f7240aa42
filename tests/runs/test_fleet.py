"""Nodes meet before a model is loaded: here two launchers on one machine, one process each."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.machine.workers import free_port
from tests.conftest import ROOT, Workspace, environment

SKEWED = """\
import importlib.metadata
real = importlib.metadata.version
importlib.metadata.version = lambda name: "4.0.0" if name == "transformers" else real(name)
"""


def node(
    rank: int, port: int, spec: Path, run: Path, wrapper: Sequence[str] = (), **more: str
) -> "subprocess.Popen[str]":
    """The launcher of one of two nodes. `wrapper` is put before its command, `more` added to its environment."""
    argv = [
        *wrapper, sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file",
        "accelerate_configs/ddp_multi_node.yaml", "--machine_rank", rank, "--main_process_ip", "127.0.0.1",
        "--main_process_port", port, "--num_processes", 2, "-m", "training", spec, "--run-dir", run,
    ]  # fmt: skip
    return subprocess.Popen(
        list(map(str, argv)), cwd=ROOT, env=environment(**more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def both(spec: Path, run: Path, **second: str) -> tuple[int, int]:
    """The exit codes of both nodes' launchers, started at once."""
    port = free_port()
    started = [node(0, port, spec, run), node(1, port, spec, run, **second)]
    try:
        for process in started:
            process.communicate(timeout=150)
        return started[0].returncode, started[1].returncode
    finally:
        for process in started:
            process.kill()


def short(workspace: Workspace) -> Path:
    return workspace.spec("short", data={"eval": None}, training={"epochs": 0.5})


def test_nodes_that_are_alike_train(workspace: Workspace) -> None:
    run = workspace.root / "run"
    assert both(short(workspace), run) == (0, 0)
    document = json.loads((run / "preflight.json").read_text())
    fleet = {check["name"]: check for check in document["checks"] if check["name"].startswith("fleet")}
    assert {name: check["status"] for name, check in fleet.items()} == dict.fromkeys(
        ("fleet-answers", "fleet-alike", "fleet-clock", "fleet-directory"), "pass"
    ), fleet
    assert fleet["fleet-answers"]["values"]["gbps"] > 0
    assert document["verdict"].startswith("Ready: 2 CPU processes on 2 nodes")
    assert not list(run.glob(".meeting-*"))


def test_a_package_of_another_version_is_named_with_its_node(workspace: Workspace) -> None:
    hook, run = workspace.root / "hook", workspace.root / "run"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(SKEWED)
    assert both(short(workspace), run, PYTHONPATH=f"{ROOT}:{hook}")[0] != 0
    outcome = json.loads((run / "attempts/001/outcome.json").read_text())
    assert outcome["exit_code"] == 3
    assert "fleet-alike: " in outcome["reason"]
    assert "#1: transformers 4.0.0 (others " in outcome["reason"]
    assert not (run / "samples.jsonl").exists()


def test_a_run_directory_that_a_node_does_not_share(workspace: Workspace) -> None:
    """The second node has an empty file system of its own where the first one's run directory is."""
    run = workspace.root / "disk" / "run"
    run.parent.mkdir()
    own = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs tmpfs "{run.parent}" && exec "$@"', "sh"]
    spec = workspace.spec("apart", data={"eval": None}, preflight={"allreduce_seconds": 6.0})
    port = free_port()
    first, second = node(0, port, spec, run), node(1, port, spec, run, own)
    try:
        _, told = second.communicate(timeout=150)
        assert second.returncode != 0
        assert f"does not see {run}/plan.json, which rank 0 writes when its checks have passed" in told
    finally:  # which still waits for the other one
        first.terminate()
        first.communicate(timeout=60)
