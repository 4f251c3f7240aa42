"""A plan for those who start processes by other means than Slurm: hosts by hand, Kubernetes, SkyPilot. Pure text.

Each is complete: it holds the spec and the configuration files, and starts what `accelerate launch` or torchrun would
start by hand. A run that is started again goes on from its newest checkpoint, as everywhere.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from launch.plan import Plan
from launch.render.configs import rendered
from launch.wording import printable

Launcher = Literal["torchrun", "kubernetes", "skypilot"]
LAUNCHERS: tuple[Launcher, ...] = get_args(Launcher)
PORT = 29500  # each has hosts of its own, where nothing else takes torch's own port
CONFIG_FOLDER = "/etc/muster"
# Catalogue names that SkyPilot has others for (sky show-gpus).
_SKY = {
    "T4-16GB": "T4", "V100-16GB": "V100", "RTX3090-24GB": "RTX3090", "RTX4090-24GB": "RTX4090", "A10-24GB": "A10",
    "RTX5090-32GB": "RTX5090", "A40-48GB": "A40", "L4-24GB": "L4", "L40S-48GB": "L40S", "A6000-48GB": "RTXA6000",
    "A100-40GB": "A100", "H100-80GB": "H100", "H200-141GB": "H200", "B200-180GB": "B200",
}  # fmt: skip


def render_for(launcher: Launcher, plan: Plan) -> str:
    """What this launcher takes."""
    return {"torchrun": on_hosts, "kubernetes": pytorch_job, "skypilot": sky_task}[launcher](plan)


def _files(plan: Plan, folder: str) -> dict[str, str]:
    """spec.yaml and the configuration files, by name. JSON is YAML, and its strings stay on their line."""
    topology = plan.topology
    given = plan.spec.model_dump(mode="json", exclude_unset=True, exclude={"slurm"})
    given["cluster"] = {
        **given.get("cluster", {}), "nodes": topology.nodes, "devices_per_node": topology.devices_per_node,
        "device": topology.device, "strategy": plan.strategy,
    }  # fmt: skip
    files = {"spec.yaml": json.dumps(given, indent=2) + "\n"}
    if _by_torchrun(plan):
        return files
    configs = rendered(plan, Path(folder, "deepspeed.json"))
    # Its first comment is about a run directory, which there is none of yet.
    configs["accelerate.yaml"] = configs["accelerate.yaml"].partition("\n")[2]
    return files | configs


def _by_torchrun(plan: Plan) -> bool:
    """Whether torchrun alone says all: an engine is what accelerate's configuration tells the workers."""
    return plan.strategy == "ddp"


def _command(plan: Plan, folder: str, run_dir: str, rank: str, head: str) -> list[str]:
    """One host's command. `folder`, `rank` and `head` are as the shell or the kubelet reads them."""
    topology, worker = plan.topology, ["-m", "training", f"{folder}/spec.yaml", "--run-dir", run_dir]
    if plan.world_size == 1 and not plan.zero_stage:
        return ["python", *worker]
    if _by_torchrun(plan):
        return [
            "torchrun", f"--nnodes={topology.nodes}", f"--nproc-per-node={topology.devices_per_node}",
            f"--node-rank={rank}", f"--master-addr={head}", f"--master-port={PORT}", *worker,
        ]  # fmt: skip
    engine = ["--deepspeed_config_file", f"{folder}/deepspeed.json"] if plan.zero_stage else []
    return [
        "accelerate", "launch", "--config_file", f"{folder}/accelerate.yaml", *engine, "--num_machines",
        str(topology.nodes), "--num_processes", str(plan.world_size), "--machine_rank", rank, "--main_process_ip", head,
        "--main_process_port", str(PORT), *worker,
    ]  # fmt: skip


# Hosts


def on_hosts(plan: Plan) -> str:
    """A shell script that is started on every host."""
    topology, name = plan.topology, f"{plan.name}.sh"
    where = f"each of the {topology.nodes} hosts" if topology.nodes > 1 else "the host"
    usage = f"sh {name} NODE_RANK HEAD_HOST" if topology.nodes > 1 else f"sh {name}"
    head = [
        "#!/bin/sh",
        f"# On {where}: {usage}" + ("    (NODE_RANK is 0 on HEAD_HOST)" if topology.nodes > 1 else ""),
        f"# {_summary(plan)}",
        "# The folder that it is started in is on storage that all hosts see; muster is installed on each of them.",
        "set -eu",
    ]
    if topology.nodes > 1:
        head.append("node_rank=${1:?which host this is, from 0} head=${2:?the name of host 0}")
    return "\n".join([*head, *_shell(plan, f"runs/{plan.name}"), ""])


def _shell(plan: Plan, run_dir: str) -> list[str]:
    lines = ["folder=$(mktemp -d)"]
    for name, text in _files(plan, "configs").items():
        # No line of JSON or of these YAML files is this word, and nothing expands in a quoted one.
        lines += [f"cat > \"$folder/{name}\" <<'MUSTER'", text.rstrip("\n"), "MUSTER"]
    place = ("$node_rank", "$head") if plan.topology.nodes > 1 else ("0", "127.0.0.1")
    words = _command(plan, "$folder", run_dir, *place)
    return [*lines, "exec " + " ".join(_word(word) for word in words)]


def _word(word: str) -> str:
    """Quoted for the shell; of ours alone the variables expand."""
    return f'"{word}"' if re.search(r"\$(?:folder|node_rank|head)\b", word) else shlex.quote(word)


def _summary(plan: Plan) -> str:
    topology = plan.topology
    size = f"{topology.nodes} x {topology.devices_per_node} {topology.device_name}"
    return printable(f"{plan.name}: {plan.strategy} on {size}, {plan.global_batch_size} sequences a step")


# Kubernetes


def pytorch_job(plan: Plan) -> str:
    """A ConfigMap with the files, and a PyTorchJob of Kubeflow's Trainer v1 (kubeflow.org/v1)."""
    name = dns_name(plan.name)
    config = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": _files(plan, CONFIG_FOLDER),
    }  # fmt: skip
    replica = {"restartPolicy": "OnFailure", "template": {"spec": _pod(plan, name)}}
    replicas = {"Master": {"replicas": 1, **replica}}
    if plan.topology.nodes > 1:
        replicas["Worker"] = {"replicas": plan.topology.nodes - 1, **replica}
    job = {
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": name},
        "spec": {"runPolicy": {"backoffLimit": 3, "cleanPodPolicy": "Running"}, "pytorchReplicaSpecs": replicas},
    }  # fmt: skip
    head = [
        f"# kubectl apply -f {name}.yaml",
        f"# {_summary(plan)}",
        "# Change the image to one with muster in it, and the claim `muster` to a volume that all nodes may write",
        "# (ReadWriteMany): /runs is on it, and the spec's own files stand in it under their paths.",
    ]
    return "\n".join([*head, *(f"---\n{_yaml(part)}" for part in (config, job))])


def _pod(plan: Plan, name: str) -> dict[str, Any]:
    topology = plan.topology
    # The operator names the host of rank 0 and each pod's rank; the kubelet puts them into the arguments.
    command = _command(plan, CONFIG_FOLDER, f"/runs/{plan.name}", "$(RANK)", "$(MASTER_ADDR)")
    shm = int(plan.spec.preflight.shm_gib_per_rank * topology.devices_per_node) or 1
    # Quantities are strings (Kubernetes API reference, Quantity).
    resources = {"memory": f"{-(-plan.memory.host_bytes // 1024**3)}Gi"}
    resources["cpu"] = str(topology.devices_per_node * plan.spec.preflight.cores_per_rank)
    if topology.device == "gpu":
        resources["nvidia.com/gpu"] = str(topology.devices_per_node)
    mounts = [
        {"name": "config", "mountPath": CONFIG_FOLDER},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - that file system itself
        {"name": "storage", "mountPath": "/runs", "subPath": "runs"},
        *({"name": "storage", "mountPath": folder, "subPath": folder.lstrip("/"), "readOnly": True}
          for folder in own_folders(plan)),
    ]  # fmt: skip
    container = {
        "name": "pytorch", "image": "muster:latest", "command": command,
        "resources": {"limits": resources, "requests": dict(resources)}, "volumeMounts": mounts,
    }  # fmt: skip
    volumes = [
        {"name": "config", "configMap": {"name": name}},
        # A container has 64 MiB of it, NCCL's processes want a GiB each.
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm}Gi"}},
        {"name": "storage", "persistentVolumeClaim": {"claimName": "muster"}},
    ]
    return {"containers": [container], "volumes": volumes}


def own_folders(plan: Plan) -> list[str]:
    """Folders of this machine that the spec names: those of data files, of a local model and of an adapter to go on
    from. None lies in another."""
    spec = plan.spec
    files = [Path(source).parent for source in (spec.data.train, spec.data.eval) if source and source.startswith("/")]
    folders = [Path(place) for place in (spec.model.variant, spec.lora.adapter) if place and place.startswith("/")]
    found = sorted({*files, *folders})
    return [str(each) for each in found if not any(each != other and each.is_relative_to(other) for other in found)]


def dns_name(name: str) -> str:
    """A run's name as Kubernetes and clouds take one (RFC 1123): lower case, digits, dashes, at most 50 characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:50].strip("-")


# SkyPilot


def sky_task(plan: Plan) -> str:
    """A task of SkyPilot: `sky launch FILE`."""
    topology, name = plan.topology, dns_name(plan.name)
    resources: dict[str, Any] = {"cpus": f"{topology.devices_per_node * plan.spec.preflight.cores_per_rank}+"}
    if topology.device == "gpu":
        resources["accelerators"] = (
            f"{_SKY.get(topology.device_name, topology.device_name)}:{topology.devices_per_node}"
        )
    shell = ["set -eu"]
    if topology.nodes > 1:
        shell += ["node_rank=$SKYPILOT_NODE_RANK", 'head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)']
    shell += _shell(plan, f"/runs/{plan.name}")
    task: dict[str, Any] = {
        "name": name, "resources": resources, "num_nodes": topology.nodes,
        "file_mounts": {
            # All nodes see it, and it outlives them. A mode that only appends cannot rename a checkpoint.
            "/runs": {"name": f"muster-{name}", "mode": "MOUNT_CACHED"},
            **{folder: folder for folder in own_folders(plan)},
        },
        "setup": "pip install muster-lora\n", "run": "\n".join(shell) + "\n",
    }  # fmt: skip
    return "\n".join([f"# sky launch {name}.yaml", f"# {_summary(plan)}", _yaml(task)])


class _Blocks(yaml.SafeDumper):
    """Texts of several lines as blocks, so that they can be read; nothing as a reference to something above."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - as yaml declares it
        return True


# Line breaks of YAML 1.1 that PyYAML writes as they are within single quotes, where they are read back as spaces.
_BREAKS = re.compile("[\x85\u2028\u2029]")


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _BREAKS.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Blocks.add_representer(str, _text)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=1000)
