"""What can be wrong with a node beside its GPUs, with its site and its neighbours, and the checks that must find it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from launch.cluster.answers import Gres
from launch.cluster.commands import SlurmError
from launch.preflight.result import Status
from launch.preflight.selftest.node import (
    CLOCK,
    NAME,
    Change,
    infiniband,
    meminfo,
    script,
    site_node,
    tokenizer,
    torch,
    wheel,
    xid,
)


class Fault(NamedTuple):
    found: Mapping[str, Status]
    """Which checks find something, and how bad it is; all others must pass or be skipped."""
    change: Change = Change()


def _fails(check: str, **change: Any) -> Fault:
    return Fault({check: "fail"}, Change(**change))


def _warns(check: str, **change: Any) -> Fault:
    return Fault({check: "warn"}, Change(**change))


SILENT = SlurmError("munge", "sinfo: Protocol authentication error", "start munge")
OLD_GPUS = [site_node(name, gres=(Gres("gpu", "v100", 8),)) for name in (NAME, "n1", "n2")]
FAULTS: dict[str, Fault] = {
    "node-healthy": Fault({}),
    # plan
    "plan-changed": _fails("batch", plan={"global_batch_size": 7}),
    "plan-tight": _warns("plan-memory", plan={"spec.cluster.memory_share": 0.1}),
    "wandb-no-login": _warns("trackers", variables={"WANDB_MODE": None}),
    # software
    "package-too-old": _fails("packages", files=wheel("accelerate", "1.2.0")),
    "bitsandbytes-other-cuda": _fails("bitsandbytes", variables={"BNB_CUDA_VERSION": "118"}),
    "nvcc-other-cuda": _fails("nvcc", files={"cuda/bin/nvcc": script("Cuda compilation tools, release 11.8")}),
    "nvcc-missing": _fails("nvcc", variables={"CUDA_HOME": "{root}/gone"}),
    # driver
    "torch-for-cpu": Fault(
        {"torch-build": "fail", "architectures": "fail",
         "nccl": "unknown", "bitsandbytes": "unknown", "nvcc": "unknown"},
        Change(torch(cuda=None))),
    "torch-newer-than-driver": _warns("driver", files={
        **torch(cuda="13.1"), "packages/bitsandbytes/libbitsandbytes_cuda131.so": "",
        "cuda/bin/nvcc": script("Cuda compilation tools, release 13.1")}),
    "torch-without-kernels": _fails("architectures", files=torch("sm_70 sm_75")),
    "torch-broken": Fault({"architectures": "fail", "nccl": "unknown"},
                          Change({"packages/torch/__init__.py": "import no_such_library"})),
    "nccl-other-loaded": _warns("nccl", files=torch(nccl=(2, 19, 3))),
    "cuda-compat": _warns("cuda-compat", files={"compat/libcuda.so.575.51.03": ""},
                          variables={"LD_LIBRARY_PATH": "{root}/compat:{LD_LIBRARY_PATH}"}),
    "flash-attention-missing": _fails("flash-attention", spec={"model.flash_attention": "fa4"}),
    "xid-79": _fails("xid", files={"dev/kmsg": xid("19")}),
    "xid-of-another-gpu": _warns("xid", files={"dev/kmsg": xid("5d")}),
    "kernel-log-empty": Fault({"xid": "unknown"}, Change({"dev/kmsg": ""})),
    # node
    "one-core": _warns("cores", limits={"cores": 1}),
    "host-memory-low": _fails("host-memory", files={"proc/meminfo": meminfo(1)}),
    "cgroup-memory-low": _fails("host-memory", files={
        "sys/fs/cgroup/memory.max": str(1 << 30), "sys/fs/cgroup/memory.current": "0"}),
    "shm-64m": _fails("shm", sizes={"/dev/shm": "size=64m"}),  # noqa: S108 - that file system itself
    "open-files-low": _warns("open-files", limits={"RLIMIT_NOFILE": 512}),
    "locked-memory-64k": _fails("locked-memory", limits={"RLIMIT_MEMLOCK": 64 << 10}),
    "monitoring-port-taken": _warns("monitoring-port", spec={"monitoring.prometheus_port": "{port}"}),
    # network
    "nccl-p2p-off": _warns("nccl-environment", variables={"NCCL_P2P_DISABLE": "1"}),
    "no-such-interface": _fails("nccl-environment", variables={"NCCL_SOCKET_IFNAME": "nosuch7"}),
    "port-taken": _fails("port", variables={"MASTER_PORT": "{port}"}),
    "name-is-loopback": _fails("host-name", files={"etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {NAME}\n"}),
    "infiniband-down": _warns("infiniband", files=infiniband("1: DOWN", adapter=1)),
    "infiniband-slow": _warns("infiniband", files=infiniband("4: ACTIVE", "100 Gb/sec (4X EDR)", 1)),
    "infiniband-all-down": _fails("infiniband", files={**infiniband("2: INIT"), **infiniband("2: INIT", adapter=1)}),
    # storage
    "run-directory-read-only": _fails("run-directory", sizes={"{root}/runs": "ro"}),
    "run-directory-is-a-file": _fails("run-directory", files={"runs/selftest": "a file"}),
    "disk-full": _fails("disk-space", sizes={"{root}/runs": "size=16m"}),
    "inodes-gone": _fails("disk-space", sizes={"{root}/runs": "size=8g,nr_inodes=20"}),
    # model and data
    "weights-missing": _fails("model-files", files={"model/model.safetensors": b""}),
    "weights-cut-short": _fails("model-files", files={"model/model.safetensors": b"\xff" * 4}),
    "tokenizer-broken": _fails("tokenizer", files={"model/tokenizer.json": "{"}),
    "tokenizer-of-another-model": _fails("tokenizer", files={"model/tokenizer.json": tokenizer(200_000)}),
    "chat-template-broken": _fails("tokenizer", files={"model/chat_template.jinja": "{% for m in messages %}"}),
    "row-broken": _fails("data", files={"rows.jsonl": '{"messages": [{"role": "user", "content": "Is'}),
    # nodes among each other
    "node-silent": _fails("fleet-answers", silent=True),
    "all-reduce-slow": _fails("fleet-answers", gbps=2.0),
    "node-other-torch": _fails("fleet-alike", other={"fingerprint": {"torch": "2.10.0"}}),
    "node-other-driver": _warns("fleet-alike", other={"fingerprint": {"driver": "535.54.03"}}),
    "clock-ahead": _warns("fleet-clock", other={"clock": CLOCK + 5}),
    "clock-far-ahead": _fails("fleet-clock", other={"clock": CLOCK + 3600}),
    "directory-not-shared": _fails("fleet-directory", other={"sees_directory": False}),
    # Slurm
    "munge-down": _fails("slurm-controller", site={"silence": SILENT}),
    "partition-drained": _fails("slurm-partition", site={"State": "DRAIN"}),
    "account-unknown": _fails("slurm-account", site={"associations": [("others", ("normal",))]}),
    "time-over-limit": _fails("slurm-time", spec={"slurm.time": "2-00:00:00"}),
    "nodes-drained": _warns("slurm-nodes", site={"nodes": [
        site_node(NAME), *(site_node(name, state="drain", reason="NVLink") for name in ("n1", "n2"))]}),
    "nodes-over-limit": _fails("slurm-nodes", site={"MaxNodes": "1"}),
    "mem-too-small": _fails("slurm-memory", spec={"slurm.mem": "1G"}),
    "gres-too-few": _fails("slurm-gres", site={"nodes": [
        site_node(NAME), *(site_node(name, gres=(Gres("gpu", "h100", 1),)) for name in ("n1", "n2"))]}),
    "gpus-of-another-kind": _warns("slurm-gpus", spec={"slurm.gpu_type": "v100"}, site={"nodes": OLD_GPUS}),
    "not-requeued": _warns("slurm-requeue", site={"PreemptMode": "CANCEL"}),
    "storage-local": _fails("slurm-shared", files={"var/lib/nfs/etab": ""}),
    "environment-missing": _fails("slurm-environment", spec={"slurm.venv": "{root}/gone"}),
    "job-refused": _fails("slurm-accepts", files={"bin/sbatch": script("sbatch: error: Invalid qos", 1)}),
    "no-pyxis": _fails("slurm-container", files={"bin/srun": script("      --mpi=type")}),
    "image-missing": _fails("slurm-container", spec={"slurm.container.image": "{root}/gone.sqsh"}),
}  # fmt: skip
