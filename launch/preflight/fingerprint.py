"""What has to be the same on every node of a run, read on this one."""

import contextlib
import os
import platform
import resource
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from launch.machine import discover
from launch.preflight.installed_torch import nccl_wheel, torch_build
from launch.preflight.nvml import NoDriverError, driver

PACKAGES = (
    "torch", "transformers", "accelerate", "peft", "deepspeed", "bitsandbytes", "datasets", "tokenizers", "safetensors",
    "triton", "numpy", "liger-kernel", "muster-lora",
)  # fmt: skip


def fingerprint() -> dict[str, str]:
    """By name, as text. What cannot be read is `unreadable`: it differs from what can."""
    found = {"Python": platform.python_version(), "kernel": platform.release()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    found["torch CUDA"] = torch_build()[1] or "none"
    found["NCCL"] = nccl_wheel() or "none"
    found |= _gpus()
    found["InfiniBand"] = _infiniband()
    for name, limit in (("open files", resource.RLIMIT_NOFILE), ("locked memory", resource.RLIMIT_MEMLOCK)):
        soft = resource.getrlimit(limit)[0]
        found[name] = "no limit" if soft == resource.RLIM_INFINITY else str(soft)
    # What changes how NCCL and gloo talk has to be the same on both ends.
    found["network variables"] = " ".join(
        f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(("NCCL_", "GLOO_"))
    )
    return found


def _infiniband() -> str:
    """Its ports by state and rate: one that trained at half its rate is as fast as all others of its own node."""
    ports = Counter(f"{_text(port / 'state')} at {_text(port / 'rate')}" for port in discover.infiniband())
    return ", ".join(f"{number} x {kind}" for kind, number in sorted(ports.items())) or "none"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return "unreadable"


def _gpus() -> dict[str, str]:
    try:
        with driver() as nvml:
            count = nvml.nvmlDeviceGetCount()
            names = Counter(_read(nvml, index, nvml.nvmlDeviceGetName) for index in range(count))
            bios = sorted({_read(nvml, index, nvml.nvmlDeviceGetVbiosVersion) for index in range(count)})
            return {
                "driver": str(nvml.nvmlSystemGetDriverVersion()), "VBIOS": ", ".join(bios),
                "GPUs": ", ".join(f"{number} x {name}" for name, number in sorted(names.items())) or "none",
            }  # fmt: skip
    except NoDriverError:
        return {"driver": "none", "GPUs": "none"}


def _read(nvml: Any, index: int, value: Any) -> str:
    try:
        return str(value(nvml.nvmlDeviceGetHandleByIndex(index)))
    except nvml.NVMLError:
        return "unreadable"
