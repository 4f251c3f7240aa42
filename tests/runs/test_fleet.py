"""Nodes meet before a model is loaded: here two launchers on one machine, one process each."""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launch.local import free_port
from tests.conftest import ROOT, Finished, Workspace, environment

SKEWED = """\
import importlib.metadata
real = importlib.metadata.version
importlib.metadata.version = lambda name: "4.0.0" if name == "transformers" else real(name)
"""


def nodes(spec: Path, run: Path, *wrappers: Sequence[str], **second: str) -> list[Finished]:
    """A launcher for each node, started at once. `wrappers` are put before their commands, `second` is the environment
    of the second one."""
    port = free_port()

    def node(rank: int) -> Finished:
        argv = [
            *wrappers[rank], sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file",
            "accelerate_configs/ddp_multi_node.yaml", "--machine_rank", rank, "--main_process_ip", "127.0.0.1",
            "--main_process_port", port, "--num_processes", 2, "-m", "training", spec, "--run-dir", run,
        ]  # fmt: skip
        done = subprocess.run(
            list(map(str, argv)), cwd=ROOT, env=environment(**(second if rank else {})), capture_output=True, text=True,
            timeout=150, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(node, range(2)))


def short(workspace: Workspace) -> Path:
    return workspace.spec("short", data={"eval": None}, training={"epochs": 0.5})


def test_nodes_that_are_alike_train(workspace: Workspace) -> None:
    run = workspace.root / "run"
    first, second = nodes(short(workspace), run, (), ())
    assert (first.code, second.code) == (0, 0), first.err + second.err
    document = json.loads((run / "preflight.json").read_text())
    fleet = {check["name"]: check for check in document["checks"] if check["name"].startswith("fleet")}
    assert {name: check["status"] for name, check in fleet.items()} == dict.fromkeys(
        ("fleet-answers", "fleet-alike", "fleet-clock", "fleet-directory"), "pass"
    )
    assert fleet["fleet-answers"]["values"]["gbps"] > 0
    assert document["verdict"].startswith("Ready: 2 CPU processes on 2 nodes")
    assert not list(run.glob(".meeting-*"))


def test_a_package_of_another_version_is_named_with_its_node(workspace: Workspace) -> None:
    hook, run = workspace.root / "hook", workspace.root / "run"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(SKEWED)
    first, _ = nodes(short(workspace), run, (), (), PYTHONPATH=f"{ROOT}:{hook}")
    assert first.code != 0
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
    first, second = nodes(spec, run, (), own)
    assert first.code != 0
    assert second.code != 0
    assert f"does not see {run}/plan.json, which rank 0 writes when its checks have passed" in second.err
