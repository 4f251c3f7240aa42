"""A plan for torchrun, Kubernetes and SkyPilot: to the letter, and inert whatever a spec holds."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, ValidationError
from jsonschema.validators import extend
from kubeflow.training.api_client import ApiClient as KubeflowClient
from kubernetes.client import ApiClient as KubernetesClient

from launch.machine.hardware import parse_gpus
from launch.machine.workers import free_port
from launch.plan import Plan
from launch.render.launchers import LAUNCHERS, dns_name, on_hosts, own_folders, pytorch_job, render_for, sky_task
from launch.spec.file import parse_spec
from tests.conftest import ROOT, SHELLCHECK, Workspace, command, environment, muster, read_rows
from tests.launch.conftest import plan_of, spec_of

GOLDEN = ROOT / "tests/golden/launchers"
PLANS = {
    "2x8-ddp": plan_of("8xH200-141GB", 2, spec_of(cluster={"nodes": 2, "strategy": "ddp"})),
    "2x8-zero3": plan_of("8xA100-80GB", 2, spec_of(cluster={"nodes": 2, "strategy": "zero3"})),
    "1x1-single": plan_of("1xH200-141GB"),
}
ENDING = {"torchrun": "sh", "kubernetes": "k8s.yaml", "skypilot": "sky.yaml"}
RENDERED = {
    f"{name}.{ENDING[launcher]}": render_for(launcher, plan) for name, plan in PLANS.items() for launcher in LAUNCHERS
}


@pytest.mark.parametrize("name", RENDERED)
def test_a_plan_to_the_letter(name: str) -> None:
    assert RENDERED[name] == (GOLDEN / name).read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(RENDERED)


@pytest.mark.parametrize("name", [name for name in RENDERED if name.endswith(".sh")])
def test_shellcheck_finds_nothing(name: str) -> None:
    done = subprocess.run([SHELLCHECK, "-"], input=RENDERED[name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_spec_inside_is_the_plan_s_and_plans_the_same() -> None:
    plan = PLANS["2x8-zero3"]
    config = next(yaml.safe_load_all(pytorch_job(plan)))
    again = plan_of(parse_gpus("8xA100-80GB", 2), 2, parse_spec(config["data"]["spec.yaml"], "spec.yaml"))
    assert again.model_dump(exclude={"spec", "reason", "candidates"}) == plan.model_dump(
        exclude={"spec", "reason", "candidates"}
    )


def pods(plan: Plan) -> dict[str, Any]:
    return list(yaml.safe_load_all(pytorch_job(plan)))[1]["spec"]["pytorchReplicaSpecs"]


def test_kubernetes_has_a_pod_for_each_node_and_each_says_its_rank() -> None:
    replicas = pods(PLANS["2x8-ddp"])
    assert {name: replica["replicas"] for name, replica in replicas.items()} == {"Master": 1, "Worker": 1}
    container = replicas["Worker"]["template"]["spec"]["containers"][0]
    assert container["command"][:5] == [
        "torchrun", "--nnodes=2", "--nproc-per-node=8", "--node-rank=$(RANK)", "--master-addr=$(MASTER_ADDR)",
    ]  # fmt: skip
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert set(pods(PLANS["1x1-single"])) == {"Master"}


def as_kubernetes_reads(client: Any, value: dict[str, Any], kind: str) -> Any:
    """Through a client's own classes and back: what they do not know is lost, and a value of another type an error."""
    answer = SimpleNamespace(data=json.dumps(value))
    return client.sanitize_for_serialization(client.deserialize(answer, kind))


@pytest.mark.parametrize("name", PLANS)
def test_kubernetes_and_its_training_operator_know_every_key(name: str) -> None:
    """By the classes that kubernetes and kubeflow-training are generated with, from their API's own schemas."""
    config, job = yaml.safe_load_all(pytorch_job(PLANS[name]))
    assert as_kubernetes_reads(KubernetesClient(), config, "V1ConfigMap") == config
    assert as_kubernetes_reads(KubeflowClient(), job, "KubeflowOrgV1PyTorchJob") == job


def test_a_key_that_kubernetes_does_not_know_is_found() -> None:
    _, job = yaml.safe_load_all(pytorch_job(PLANS["2x8-ddp"]))
    job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    assert as_kubernetes_reads(KubeflowClient(), job, "KubeflowOrgV1PyTorchJob") != job


def _any_case(validator: Any, allowed: list[str], value: object, schema: object) -> Iterator[ValidationError]:
    """SkyPilot's own keyword (sky/utils/validator.py)."""
    if str(value).lower() not in [each.lower() for each in allowed]:
        yield ValidationError(f"{value!r} is none of {allowed}")


SkyValidator = extend(Draft7Validator, {"case_insensitive_enum": _any_case})
SKYPILOT = json.loads((ROOT / "tests/golden/schemas/skypilot.json").read_text())


def sky_mistakes(task: dict[str, Any]) -> list[str]:
    """By SkyPilot's own schemas, each part by the one that it is checked by there (sky/task.py)."""
    stores = [mount for mount in task["file_mounts"].values() if isinstance(mount, dict)]
    parts = [("task", task), ("resources", task["resources"]), *(("storage", store) for store in stores)]
    return [error.message for kind, part in parts for error in SkyValidator(SKYPILOT[kind]).iter_errors(part)]


@pytest.mark.parametrize("name", PLANS)
def test_skypilot_takes_the_task(name: str) -> None:
    task = yaml.safe_load(sky_task(PLANS[name]))
    assert sky_mistakes(task) == []
    task["file_mounts"]["/runs"]["mode"] = "APPEND"
    unknown, value = sky_mistakes({**task, "nodes": 2})
    assert "'nodes' was unexpected" in unknown
    assert value.startswith("'APPEND' is none of ['MOUNT', ")


def test_a_run_s_name_as_kubernetes_takes_it() -> None:
    names = ("Qwen-14B_security.v2", "a" * 80, "x..")
    assert [dns_name(name) for name in names] == ["qwen-14b-security-v2", "a" * 50, "x"]


def test_folders_of_this_machine_that_a_launcher_must_bring_along() -> None:
    data = {"train": "/data/a/train.jsonl", "eval": "/data/a/b/eval.jsonl"}
    spec = spec_of(data=data, lora={"adapter": "/models/adapter"})
    assert own_folders(plan_of("8xA100-80GB", 1, spec)) == ["/data/a", "/models/adapter"]
    assert own_folders(plan_of("8xA100-80GB", 1, spec_of(data={"train": "owner/name"}))) == []


@pytest.mark.parametrize("name", ["torchrun", "kubernetes", "skypilot"])
def test_the_command(name: str) -> None:
    spec = ROOT / "examples/qwen-14b-2x8gpu-slurm.yaml"
    done = muster("plan", spec, "--gpus", "8xA100-80GB", "--render", name)
    assert done.code == 0, done.err
    first = {"torchrun": "#!/bin/sh", "kubernetes": "# kubectl apply -f", "skypilot": "# sky launch"}[name]
    assert done.out.startswith(first)
    wrong = muster("plan", spec, "--gpus", "8xA100-80GB", "--render", "ray")
    assert (wrong.code, wrong.err.splitlines()[-1]) == (
        2, "error: --render ray: allowed: torchrun, kubernetes, skypilot",
    )  # fmt: skip


# Whatever a spec holds

ANY = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1)
NASTY = st.one_of(
    st.sampled_from(["$(touch pwned)", "`touch pwned`", "'\nMUSTER\ntouch pwned", "---\nkind: Pod", "$(RANK)"]), ANY
)
STUB = '#!/bin/sh\nfor word; do case "$word" in *spec.yaml) cat "$word" > "$RECORD/spec";; esac; done\n'


@given(source=NASTY.map(lambda text: f"/data/{text}/x.jsonl"), column=NASTY)
def test_every_text_of_a_spec_is_inert(tmp_path_factory: pytest.TempPathFactory, source: str, column: str) -> None:
    spec = spec_of(data={"train": source, "columns": {"question": column}})
    plan = plan_of("8xA100-80GB", 1, spec)
    root = tmp_path_factory.mktemp("inert")
    for program in ("torchrun", "accelerate", "python"):
        (root / program).write_text(STUB)
        (root / program).chmod(0o755)
    kept = {"PATH": f"{root}:{os.environ['PATH']}", "RECORD": str(root), "TMPDIR": str(root)}
    done = subprocess.run(["sh", "-c", on_hosts(plan)], cwd=root, env=kept, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (root / "pwned").exists()
    data = json.loads((root / "spec").read_text())["data"]
    assert (data["train"], data["columns"]["question"]) == (source, column)
    config, job = yaml.safe_load_all(pytorch_job(plan))
    assert json.loads(config["data"]["spec.yaml"])["data"]["train"] == source
    assert (config["kind"], job["kind"]) == ("ConfigMap", "PyTorchJob")
    task = yaml.safe_load(sky_task(plan))
    assert str(PurePosixPath(source).parent) in task["file_mounts"]
    (root / "spec").unlink()
    done = subprocess.run(["sh", "-c", task["run"]], cwd=root, env=kept, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((root / "spec").read_text())["data"]["train"] == source
    assert not (root / "pwned").exists()


# It trains


def test_two_hosts_started_by_hand_train_as_one(workspace: Workspace, tmp_path: Path) -> None:
    """The two hosts are processes of this machine, which find each other by its address."""
    spec = workspace.spec(cluster={"nodes": 2, "devices_per_node": 1, "device": "cpu", "strategy": "ddp"})
    done = command("-m", "launch", "plan", spec, "-s", "training.epochs=1", "--render", "torchrun")
    assert done.code == 0, done.err
    (tmp_path / "run.sh").write_text(done.out.replace("--master-port=29500", f"--master-port={free_port()}"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = environment(PATH=path, ACCELERATE_USE_CPU="1")
    hosts = [
        subprocess.Popen(["sh", "run.sh", str(rank), "127.0.0.1"], cwd=tmp_path, env=variables, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    try:
        ended = [(host.communicate(timeout=200)[1].decode(), host.returncode) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [code for _, code in ended] == [0, 0], ended
    run = tmp_path / "runs/run"
    verified = [row for row in read_rows(run / "events.jsonl") if row["event"] == "verified"]
    assert [(row["world_size"], row["engine"]) for row in verified] == [(2, "ddp")]
    assert (run / "adapter/adapter_model.safetensors").exists()
