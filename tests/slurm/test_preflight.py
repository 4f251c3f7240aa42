"""`muster preflight` inside a job of two nodes: a fault of one of them is told with its name."""

import importlib.metadata
import json
import re
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launch.preflight.probe import FIRST_PORT, PORTS
from tests.conftest import ROOT, Workspace
from tests.slurm.cluster import Cluster


def preflight(cluster: Cluster, workspace: Workspace, *faults: str, nodes: int = 2, **limits: Any) -> dict[str, Any]:
    """preflight --json of a job on some nodes. `faults` are lines of shell that the batch script runs before it."""
    cluster_section = {"nodes": nodes, "devices_per_node": 1, "device": "cpu", "strategy": "ddp"}
    spec = workspace.spec(
        "checked",
        cluster=cluster_section,
        data={"eval": None},
        training={"global_batch_size": 2 * nodes},
        preflight={"answer_seconds": 40.0, **limits},
    )
    run = workspace.root / "shared" / "run"
    run.parent.mkdir(exist_ok=True)
    told = workspace.root / "told.json"
    command = [sys.executable, "-m", "launch", "preflight", str(spec), "--run-dir", str(run), "--json"]
    script = "\n".join(["#!/bin/bash", *faults, f"{shlex.join(command)} > {shlex.quote(str(told))}"])
    job = cluster.submit(
        script + "\n",
        f"--nodes={nodes}",
        "--ntasks-per-node=1",
        "--no-kill",
        f"--chdir={ROOT}",
        env={"PYTHONPATH": str(ROOT)},
    )
    cluster.wait(job, seconds=250)
    assert told.stat().st_size, cluster.output(job)
    document: dict[str, Any] = json.loads(told.read_text())
    return document


def found(document: dict[str, Any], name: str) -> tuple[str, str | None, str]:
    check = next(check for check in document["checks"] if check["name"] == name)
    return check["status"], check["node"], check["evidence"]


def test_two_nodes_that_are_fit(cluster: Cluster, workspace: Workspace) -> None:
    document = preflight(cluster, workspace)
    assert document["verdict"].startswith("Ready: 2 CPU processes on 2 nodes"), document
    for name in ("fleet-answers", "fleet-alike", "fleet-clock", "fleet-directory"):
        assert found(document, name)[0] == "pass"
    assert "all ranks met; all-reduce at " in found(document, "fleet-answers")[2]


def test_a_link_that_is_cut(cluster: Cluster, workspace: Workspace) -> None:
    """The node is cut off once the job has begun, before it is asked."""
    marker = workspace.root / "cut"
    cluster_job = [f"touch {shlex.quote(str(marker))}", f"while [ -e {shlex.quote(str(marker))} ]; do sleep 0.2; done"]
    _when(marker, lambda: cluster.cut("n1"))
    document = preflight(cluster, workspace, *cluster_job)
    cluster.restore("n1")
    status, node, evidence = found(document, "fleet-answers")
    assert (status, node) == ("fail", "n1")
    assert evidence.startswith(("n1 does not answer: ", "n1 has not answered within 40 s"))
    assert document["verdict"].startswith("Not ready: node n1: fleet-answers: n1 ")


def test_a_node_that_is_dead(cluster: Cluster, workspace: Workspace) -> None:
    marker = workspace.root / "dead"
    waits = [f"touch {shlex.quote(str(marker))}", f"while [ -e {shlex.quote(str(marker))} ]; do sleep 0.2; done"]
    _when(marker, lambda: cluster.kill_node("n1"))
    document = preflight(cluster, workspace, *waits)
    assert found(document, "fleet-answers")[:2] == ("fail", "n1")


def test_a_package_of_another_version(cluster: Cluster, workspace: Workspace) -> None:
    files = importlib.metadata.files("peft") or []
    metadata = next(Path(str(path.locate())) for path in files if path.name == "METADATA")
    cluster.replace_file("n1", metadata, "Metadata-Version: 2.1\nName: peft\nVersion: 0.19.0\n")
    document = preflight(cluster, workspace)
    status, _, evidence = found(document, "fleet-alike")
    assert status == "fail"
    assert f"n1: peft 0.19.0 (others {importlib.metadata.version('peft')})" in evidence
    assert document["verdict"].startswith("Not ready: ")


def test_a_directory_that_is_not_shared(cluster: Cluster, workspace: Workspace) -> None:
    (workspace.root / "shared").mkdir()
    cluster.hide_directory("n1", workspace.root / "shared")
    status, _, evidence = found(preflight(cluster, workspace), "fleet-directory")
    assert (status, evidence) == ("fail", "n1: does not see the run directory")


def _when(marker: Path, act: Any) -> None:
    """Acts once the batch script has made the file, and lets it go on."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not marker.exists():
            if time.monotonic() > deadline:
                return
            time.sleep(0.1)
        act()
        marker.unlink()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize("limit", [1e6])
def test_a_network_that_is_too_slow(cluster: Cluster, workspace: Workspace, limit: float) -> None:
    status, _, evidence = found(preflight(cluster, workspace, allreduce_gbps=limit), "fleet-answers")
    assert status == "fail"
    assert f"{limit:g} GB/s asked for" in evidence


@pytest.mark.chaos
def test_a_node_whose_link_is_slow_is_found_by_pairs(cluster: Cluster, workspace: Workspace) -> None:
    """All ranks together are slow; that it is because of one node is seen when nodes exchange two by two."""
    cluster.slow_down("n1", megabits=20)
    document = preflight(cluster, workspace, nodes=3, allreduce_gbps=0.02)
    status, node, evidence = found(document, "fleet-answers")
    assert (status, node) == ("fail", "n1")
    assert re.search(r"; n1 exchanges 0\.00 GB/s with n0, n2, the others [\d.]+ GB/s$", evidence), evidence
    assert document["verdict"].startswith("Not ready: node n1: fleet-answers: all ranks met; all-reduce at 0.00 GB/s")


@pytest.mark.chaos
def test_a_node_behind_a_firewall_is_found_by_pairs(cluster: Cluster, workspace: Workspace) -> None:
    """It answers what it is asked, for Slurm reaches it; the others it does not reach."""
    cluster.block_ports("n2", FIRST_PORT, FIRST_PORT + PORTS - 1)
    status, node, evidence = found(preflight(cluster, workspace, nodes=3, allreduce_seconds=8.0), "fleet-answers")
    assert (status, node) == ("fail", "n2")
    assert evidence == "n2 exchanges with none of n0, n1, which exchange with one another"


@pytest.mark.chaos
def test_three_links_that_are_alike_have_no_culprit(cluster: Cluster, workspace: Workspace) -> None:
    for name in cluster.names:
        cluster.slow_down(name, megabits=20)
    status, node, evidence = found(preflight(cluster, workspace, nodes=3, allreduce_gbps=0.02), "fleet-answers")
    assert (status, node) == ("fail", None)
    assert evidence.endswith("0.02 GB/s asked for")
