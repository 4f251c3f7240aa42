"""A simulated node in which nothing is wrong: its files, environment and limits, its Slurm, and the run that it is for.

Everything that a check reads is here under its own path, so that a fault is one file, variable or value of another
kind (faults.py). `{root}` is the node's folder, `{port}` a port that is taken, `{free}` one that is not, `{now}`
microseconds since the start.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from launch.cluster.answers import Gres, Node, Partition
from launch.cluster.controller import Cluster
from launch.preflight.fleet import NodeReport

CUDA, NCCL = "12.8", (2, 27, 5)
CLOCK = 1e9  # seconds since 1970, when its nodes are asked
NAME = "n0"
NOT_TRIED = "not_tried"  # among the values of a check that nothing on this machine could satisfy


class Change(NamedTuple):
    """What is of another kind than on the healthy node, by where it is."""

    files: Mapping[str, str | bytes] = MappingProxyType({})
    """Contents by path; empty ones where something is missing."""
    variables: Mapping[str, str | None] = MappingProxyType({})
    """None takes one away."""
    spec: Mapping[str, Any] = MappingProxyType({})
    """Values by key: `slurm.time`."""
    sizes: Mapping[str, str] = MappingProxyType({})
    """Mount options of a file system in memory, by its place."""
    limits: Mapping[str, int] = MappingProxyType({})
    """Soft limits of the process, such as RLIMIT_NOFILE; `cores` is how many it may use."""
    site: Mapping[str, Any] = MappingProxyType({})
    """Fields of Cluster, and of its one partition those that begin with a capital."""
    other: Mapping[str, Any] = MappingProxyType({})
    """Fields of the second node's report; what it says of itself is joined to the first one's."""
    gbps: float = 40.0
    """Gigabytes per second of the first all-reduce."""
    silent: bool = False
    """Whether the second node does not answer."""
    plan: Mapping[str, Any] = MappingProxyType({})
    """Values of the finished plan by key, as of a plan.json that somebody has changed."""


def wheel(name: str, version: str) -> dict[str, str]:
    """What importlib.metadata reads of an installed package."""
    folder = f"packages/{name.replace('-', '_')}-{version}.dist-info"
    return {f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}


def torch(architectures: str = "sm_80 sm_90", cuda: str | None = CUDA, nccl: tuple[int, ...] = NCCL) -> dict[str, str]:
    """A torch that tells of its build what preflight asks, and does nothing else."""
    tells = f"""
class version: cuda = {cuda!r}
class cuda:
    get_arch_list = staticmethod(lambda: {architectures.split()})
    class nccl: version = staticmethod(lambda: {nccl})
"""
    return {"packages/torch/__init__.py": tells, "packages/torch/version.py": f"cuda = {cuda!r}\n"}


def infiniband(state: str, rate: str = "400 Gb/sec (4X NDR)", adapter: int = 0) -> dict[str, str]:
    """One InfiniBand port, as the kernel shows it."""
    folder = f"sys/class/infiniband/mlx5_{adapter}/ports/1"
    return {f"{folder}/state": state, f"{folder}/rate": rate, f"{folder}/link_layer": "InfiniBand"}


def xid(bus: str) -> str:
    """What the driver writes of a GPU that has fallen off the bus, just now."""
    return f"3,1,{{now}},-;NVRM: Xid (PCI:0000:{bus}:00): 79, pid=1, GPU has fallen off the bus.\n"


def script(prints: str, code: int = 0) -> str:
    return f"#!/bin/sh\necho '{prints}' {'>&2' if code else ''}\nexit {code}\n"


def meminfo(gib: int) -> str:
    return f"MemTotal: {gib << 20} kB\nMemAvailable: {gib << 20} kB\n"


def tokenizer(tokens: int) -> str:
    parts = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    model = {"type": "BPE", "vocab": {f"t{number}": number for number in range(tokens)}, "merges": []}
    return json.dumps({"version": "1.0", "added_tokens": [], **dict.fromkeys(parts), "model": model})


CONFIG = {"model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
          "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 480,
          "max_position_embeddings": 512}  # fmt: skip
EMPTY_WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # a safetensors file without a tensor
ROW = {"messages": [{"role": "user", "content": "Is port 22 open?"}, {"role": "assistant", "content": "It is."}]}

FILES: dict[str, str | bytes] = {
    **wheel("torch", "2.11.0"), **wheel("transformers", "5.23.0"), **wheel("accelerate", "1.15.0"),
    **wheel("peft", "0.20.0"), **wheel("datasets", "4.4.0"), **wheel("deepspeed", "0.19.8"),
    **wheel("bitsandbytes", "0.50.2"), **wheel("nvidia-nccl-cu12", ".".join(map(str, NCCL))), **torch(),
    "packages/bitsandbytes/libbitsandbytes_cuda128.so": "",
    "packages/flash_attn_interface.py": "", "packages/flash_attn/__init__.py": "", "packages/wandb/__init__.py": "",
    "cuda/bin/nvcc": script(f"Cuda compilation tools, release {CUDA}, V{CUDA}.61"),
    "bin/sbatch": script("sbatch: Job 7 to start"), "bin/srun": script("      --container-image=[USER@]IMAGE"),
    "environment/bin/python": script("Python 3.12.3"), "image.sqsh": "an image",
    "model/config.json": json.dumps(CONFIG), "model/model.safetensors": EMPTY_WEIGHTS,
    "model/tokenizer.json": tokenizer(2), "model/chat_template.jinja": "{{ messages }}",
    "rows.jsonl": json.dumps(ROW) + "\n", "home/empty": "",
    "proc/meminfo": meminfo(512), "dev/kmsg": "6,1,{now},-;a kernel that has nothing to say\n",
    "sys/class/nothing": "", "sys/fs/cgroup/nothing": "",
    **infiniband("4: ACTIVE"), **infiniband("4: ACTIVE", adapter=1),
    "etc/hosts": f"127.0.0.1 localhost\n192.0.2.10 {NAME}\n", "var/lib/nfs/etab": "/\t*(rw)\n",
}  # fmt: skip
# What lies over the machine's own: all else is found by a variable or by the spec.
HIDDEN = ("proc/meminfo", "dev/kmsg", "sys/class", "sys/fs/cgroup", "etc/hosts", "var/lib")
SIZES = {"/dev/shm": "size=8g", "{root}/runs": "size=8g"}  # noqa: S108 - that file system itself
VARIABLES = {
    "PATH": "{root}/bin:/usr/bin:/bin", "PYTHONPATH": "{root}/packages", "HOME": "{root}/home",
    "CUDA_HOME": "{root}/cuda", "DS_BUILD_FUSED_ADAM": "1", "CUDA_VISIBLE_DEVICES": "0,1", "WANDB_MODE": "offline",
}  # fmt: skip
# Variables of the machine around us that checks read.
CLEARED = ("NCCL_", "GLOO_", "MASTER_", "WANDB_", "DS_BUILD_", "CUDA_", "HF_", "TRANSFORMERS_", "BNB_", "NETRC", "RANK",
           "SLURM", "SBATCH_")  # fmt: skip
LIMITS = {"RLIMIT_NOFILE": 1024, "RLIMIT_MEMLOCK": -1, "cores": 2}

SPEC: dict[str, Any] = {
    "name": "selftest",
    "model.variant": "{root}/model", "model.quantization": "nf4",
    "model.attention": "varlen", "model.flash_attention": "fa3",
    "data.train": "{root}/rows.jsonl", "data.max_length": 512,
    "training.micro_batch_size": 1, "training.report_to": ["wandb"],
    "cluster.nodes": 2, "cluster.strategy": "zero2",
    "slurm.mem": "256G", "slurm.cpus_per_task": 16, "slurm.gpu_type": "h100", "slurm.account": "lab",
    "slurm.container.image": "{root}/image.sqsh", "slurm.container.runtime": "pyxis",
    "preflight.cores_per_rank": 1, "preflight.open_files": 1024, "preflight.allreduce_gbps": 20.0,
    "monitoring.prometheus_port": "{free}", "monitoring.prometheus_host": "127.0.0.1",
}  # fmt: skip


def site_node(name: str, **changes: Any) -> Node:
    return Node(name, "idle", 64, 512 << 10, (Gres("gpu", "h100", 8),), (), "none")._replace(**changes)


SITE = {
    "config": {"ClusterName": "selftest", "SLURM_VERSION": "25.05", "JobRequeue": "1"},
    "nodes": [site_node(NAME), site_node("n1"), site_node("n2")],
    "associations": [("lab", ("normal",))],
    "State": "UP", "MaxTime": "1-00:00:00", "PreemptMode": "REQUEUE",
}  # fmt: skip
REPORT = {"torch": "2.11.0", "NCCL": "2.27.5", "GPUs": "2 x NVIDIA H100 80GB HBM3", "driver": "580.82.07"}


def site(changes: Mapping[str, Any]) -> Cluster:
    """The Slurm that the run is submitted to: one partition, `gpu`."""
    told = {**SITE, **changes}
    values = {key: value for key, value in told.items() if key[0].isupper()}
    fields = {key: value for key, value in told.items() if key[0].islower()}
    return Cluster(partitions={"gpu": Partition("gpu", values)}, **fields)


def reports(changes: Mapping[str, Any]) -> list[NodeReport]:
    """What the two nodes of the run say of themselves."""
    first = NodeReport(node=NAME, fingerprint=REPORT, clock=CLOCK, sees_directory=True)
    fields = {**first.model_dump(), "node": "n1", **changes}
    return [first, NodeReport.model_validate({**fields, "fingerprint": REPORT | changes.get("fingerprint", {})})]
