"""A batch job's checks, each seen to fail on a cluster with one thing wrong, and to pass on one with nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.cluster.answers import Gres, Node, Partition
from launch.cluster.commands import SlurmError
from launch.cluster.controller import Cluster
from launch.cluster.job import batch_job
from launch.preflight import CHECKS, container
from launch.preflight import slurm as checks
from launch.preflight.result import Batch, Context, Finding
from launch.rundir import RunDir
from tests.launch.conftest import plan_of, spec_of


def node(name: str, **changes: Any) -> Node:
    whole = Node(name, "idle", 64, 512000, (Gres("gpu", "h100", 8),), (), "none")
    return whole._replace(**changes)


def cluster(**changes: Any) -> Cluster:
    values = {"State": "UP", "MaxTime": "1-00:00:00", "MaxNodes": "UNLIMITED", "PreemptMode": "REQUEUE"}
    partition = Partition("gpu", {**values, **changes.pop("partition", {})})
    config = {"ClusterName": "c", "SLURM_VERSION": "22.05.8", "JobRequeue": "1", **changes.pop("config", {})}
    found = Cluster(None, config, {"gpu": partition, "cpu": partition}, [node("n0"), node("n1"), node("n2")], None)
    return replace(found, **changes)


def look(check: str, found: Cluster, slurm: dict[str, Any] | None = None, nodes: int = 2, run: str = "/x") -> Finding:
    spec = spec_of(slurm=slurm or {}, cluster={"nodes": nodes})
    plan = plan_of("8xH100-80GB", nodes, spec)
    place = RunDir(Path(run))
    context = Context(plan=plan, run=place, batch=Batch(found, batch_job(plan, place, found.nodes), "#!/bin/bash\n"))
    one = next(each for each in checks.CHECKS if each.name == check)
    skipped = one.concerns(context)
    if skipped is not None:
        return Finding(status="skipped", evidence=skipped)
    assert one.run is not None
    return one.run(context)


@pytest.mark.parametrize("check", ["slurm-controller", "slurm-partition", "slurm-account", "slurm-time", "slurm-nodes",
                                   "slurm-gres", "slurm-gpus", "slurm-requeue"])  # fmt: skip
def test_a_healthy_cluster_passes(check: str) -> None:
    assert look(check, cluster()).status == "pass"


def test_each_silence_of_the_controller_is_told_with_what_to_do() -> None:
    silent = Cluster(silence=SlurmError("munge", "sinfo: Protocol authentication error", "start munge"))
    found = look("slurm-controller", silent)
    assert (found.status, found.evidence, found.fix) == ("fail", "sinfo: Protocol authentication error", "start munge")
    others = {look(check.name, silent).evidence for check in checks.CHECKS if check.name not in (
        "slurm-controller", "slurm-environment")}  # fmt: skip
    assert others == {"the controller does not answer"}


@pytest.mark.parametrize(
    ("check", "changes", "slurm", "status", "evidence"),
    [
        ("slurm-partition", {}, {"partition": "gpus"}, "fail",
         "there is no partition gpus (did you mean gpu?); there are: gpu, cpu"),
        ("slurm-partition", {"partition": {"State": "DRAIN"}}, {}, "fail", "partition gpu is DRAIN"),
        ("slurm-account", {"partition": {"AllowAccounts": "lab"}}, {"account": "mine"}, "fail",
         "partition gpu takes lab, not mine"),
        ("slurm-account", {"partition": {"AllowQos": "long"}}, {"qos": "short"}, "fail",
         "partition gpu takes long, not short"),
        ("slurm-account", {"associations": [("lab", ("long",))]}, {"account": "mine"}, "fail",
         "this user may not use account mine; allowed: lab"),
        ("slurm-account", {"associations": [("lab", ("long",))]}, {"account": "lab", "qos": "now"}, "fail",
         "this user may not use qos now; allowed: long"),
        ("slurm-account", {"associations": [("lab", ("long",))]}, {"account": "lab", "qos": "long"}, "pass",
         "account lab, qos long: the database knows both"),
        ("slurm-account", {}, {"account": "lab"}, "unknown",
         "this site has no slurmdbd that could say who may use what"),
        ("slurm-account", {}, {"reservation": "spring"}, "fail", "there is no reservation spring"),
        ("slurm-time", {}, {"time": "1-00:00:01"}, "fail",
         "1-00:00:01 is asked for, partition gpu allows 1-00:00:00"),
        ("slurm-time", {}, {"time": "0"}, "fail", "0 is asked for, partition gpu allows 1-00:00:00"),
        ("slurm-nodes", {"partition": {"MaxNodes": "2"}}, {"spares": 1}, "fail",
         "3 nodes (1 of them spares) asked for, partition gpu allows 2"),
        ("slurm-nodes", {}, {"spares": 2}, "fail",
         "4 nodes (2 of them spares) asked for with 64 CPUs and 512000M of memory each, 3 of 3 have that"
         " (nodes have 64 CPUs, 512000 MiB)"),
        ("slurm-nodes", {}, {"mem": "600G"}, "fail",
         "2 nodes asked for with 64 CPUs and 600G of memory each, 0 of 3 have that (nodes have 64 CPUs, 512000 MiB)"),
        ("slurm-nodes", {"nodes": [node("n0"), node("n1", state="drain*", reason="NVLink")]}, {}, "warn",
         "2 nodes asked for, 1 in use now: n1 drain* (NVLink)"),
        ("slurm-memory", {}, {"mem": "20G"}, "fail", "20.0 GiB on each node, the plan needs 43.5 GiB"),
        ("slurm-memory", {"nodes": []}, {}, "unknown",
         "the plan needs 43.5 GiB; what the site gives by default is not known"),
        ("slurm-memory", {}, {"mem": "0"}, "pass", "500.0 GiB on each node, the plan needs 43.5 GiB"),
        ("slurm-gres", {}, {"gpu_type": "a100"}, "fail",
         "gpu:a100:8 on 2 nodes, 0 of 3 offer it (partition gpu has gpu:h100:8)"),
        ("slurm-gres", {"nodes": [node("n0"), node("n1", gres=(Gres("gpu", "h100", 4),))]}, {}, "fail",
         "gpu:8 on 2 nodes, 1 of 2 offer it (partition gpu has gpu:h100:4; gpu:h100:8)"),
        ("slurm-gpus", {"nodes": [node("n0", gres=(Gres("gpu", "v100", 8),)), node("n1")]}, {}, "warn",
         "planned for H100-80GB, the partition has V100-16GB"),
        ("slurm-gpus", {"nodes": [node("n0", gres=(Gres("gpu", None, 8),)), node("n1")]}, {}, "unknown",
         "planned for H100-80GB; what GPU the nodes have, their GRES do not tell"),
        ("slurm-requeue", {"config": {"JobRequeue": "0", "JobSubmitPlugins": "lua"}}, {}, "warn",
         "jobs of this site are not requeued unless they ask (JobRequeue=0), and this one asks; its own rules (lua) may"
         " still refuse it"),
        ("slurm-requeue", {"partition": {"PreemptMode": "CANCEL"}}, {}, "warn",
         "partition gpu cancels what it preempts (PreemptMode=CANCEL)"),
        ("slurm-requeue", {}, {"requeue": False}, "warn",
         "slurm.requeue is false: at the time limit, or preempted, the run ends with exit code 75"),
    ],
)  # fmt: skip
def test_one_thing_wrong(
    check: str, changes: dict[str, Any], slurm: dict[str, Any], status: str, evidence: str
) -> None:
    found = look(check, cluster(**changes), slurm)
    assert (found.status, found.evidence) == (status, evidence)
    assert found.fix or status == "pass"


def test_a_run_directory_that_only_this_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.cluster import storage

    (tmp_path / "mounts").write_text(f"overlay / overlay rw 0 0\nserver:/a {tmp_path} nfs rw 0 0\n")
    monkeypatch.setattr(storage, "MOUNTS", tmp_path / "mounts")
    there = {"venv": str(tmp_path)}
    found = look("slurm-shared", cluster(), there, run="/var/runs/demo")
    assert found.status == "fail"
    assert found.evidence.startswith(
        "of this machine alone, as far as it can tell: the run directory /var/runs/demo is on overlay (/)"
    )
    assert "the Python environment" not in found.evidence


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    found = look("slurm-environment", cluster(), {"venv": str(tmp_path)})
    assert (found.status, found.evidence) == ("fail", f"{tmp_path}/bin/python is not there or cannot be run")


def test_elsewhere_they_are_skipped_with_the_reason() -> None:
    context = Context(plan=plan_of(), run=RunDir(Path("/x")))
    ours = [check for check in CHECKS if check.family == "slurm"]
    assert len(ours) == len(checks.CHECKS) + len(container.CHECKS)
    assert {check.concerns(context) for check in ours} == {"not a batch job: muster submit looks"}
