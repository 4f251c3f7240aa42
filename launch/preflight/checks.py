"""The checks that every run needs, on this machine."""

import importlib.metadata
import os
import shutil
from pathlib import Path

from launch import discover
from launch.hardware import GIB
from launch.model_files import directory_problems, find, hub_name, import_cache, is_original, problems
from launch.preflight.result import Check, Context, Result, Status
from launch.rundir import MANIFEST
from launch.versions import release
from launch.weights import weight_files
from launch.wording import amount

# Floors that the code relies on: FSDP2 and the optimizer wrappers of accelerate 1.15, ZeRO-3 with LoRA since
# DeepSpeed 0.19.5.
MINIMUM = {"torch": "2.11", "transformers": "5.17", "accelerate": "1.15", "peft": "0.20", "datasets": "4.0"}
DEEPSPEED, BITSANDBYTES, LIGER = ("deepspeed", "0.19.5"), ("bitsandbytes", "0.50"), ("liger-kernel", "0.3")


def packages(context: Context) -> Result:
    """Versions from package metadata: importing them would take seconds."""
    needed = dict(MINIMUM)
    if context.plan.zero_stage:
        needed.update([DEEPSPEED])
    if context.plan.optimizer.startswith("paged") or context.plan.spec.model.quantization != "none":
        needed.update([BITSANDBYTES])
    if context.plan.spec.training.extra.get("use_liger_kernel"):
        needed.update([LIGER])
    found, wrong = [], []
    for name, minimum in needed.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed (needs {minimum})")
            continue
        found.append(f"{name} {version}")
        if release(version) < release(minimum):
            wrong.append(f"{name} {version} is older than {minimum}")
    fix = "pip install -U " + " ".join(f"'{line.split()[0]}>={needed[line.split()[0]]}'" for line in wrong)
    return Result(
        name="packages",
        family="software",
        status="fail" if wrong else "pass",
        evidence="; ".join(wrong) or ", ".join(found),
        fix=fix if wrong else "",
    )


def devices(context: Context) -> Result:
    """The planned devices exist; more CPU processes than cores would share them."""
    topology = context.plan.topology
    if topology.device == "gpu":
        found = discover.gpus()
        status = "pass" if len(found) >= topology.devices_per_node else "fail"
        names = ", ".join(sorted({gpu.name for gpu in found})) or "none"
        evidence = f"{len(found)} GPUs ({names}), {topology.devices_per_node} planned"
        fix = "" if status == "pass" else "lower cluster.devices_per_node"
        return Result(name="devices", family="gpu", status=status, evidence=evidence, fix=fix)
    cores, processes = discover.cpu_count(), topology.devices_per_node
    evidence = f"no GPU planned; {processes} CPU process{'es' if processes > 1 else ''} on {cores} cores"
    status, fix = ("warn", "lower cluster.devices_per_node") if processes > cores else ("pass", "")
    return Result(name="devices", family="node", status=status, evidence=evidence, fix=fix)


def memory(context: Context) -> Result:
    """Free memory of every device against the plan's peak, and of the host where something is offloaded to it."""
    plan, topology = context.plan, context.plan.topology
    if topology.device == "cpu":
        return _host_memory(plan.memory.process_bytes * topology.devices_per_node, "free memory or use fewer processes")
    if plan.offload:
        adapter = 12 * plan.adapter_parameters
        element = 4 if plan.precision == "fp32" else 2
        base = element * plan.architecture.parameters if plan.strategy == "zero3_offload" else 0
        host = _host_memory(base + adapter, "free host memory, or use a strategy without offload")
        if host.status == "fail":
            return host
    found = discover.gpus()[: topology.devices_per_node]
    if len(found) < topology.devices_per_node:
        evidence = f"{len(found)} of {topology.devices_per_node} GPUs can be read"
        return Result(name="memory", family="gpu", status="unknown", evidence=evidence, fix="see nvidia-smi")
    short = [gpu for gpu in found if gpu.free_bytes < plan.memory.process_bytes]
    free = ", ".join(f"GPU {gpu.index}: {amount(gpu.free_bytes)} free" for gpu in (short or found))
    fix = "stop what else runs on these GPUs (nvidia-smi)" if short else ""
    evidence = f"{free}; the plan needs {amount(plan.memory.process_bytes)}"
    return Result(name="memory", family="gpu", status="fail" if short else "pass", evidence=evidence, fix=fix)


def _host_memory(needed: int, fix: str) -> Result:
    free = discover.host_memory()
    evidence = f"{amount(free)} of host memory free; the plan needs {amount(needed)}"
    short = free < needed
    return Result(
        name="memory", family="node", status="fail" if short else "pass", evidence=evidence, fix=fix if short else ""
    )


def model_files(context: Context) -> Result:
    """Every file that loading will open is there."""
    variant = context.plan.spec.model.variant
    missing = problems(variant)
    if missing:
        return Result(
            name="model-files",
            family="model",
            status="fail",
            evidence="; ".join(missing),
            fix="complete the model's files, or change model.variant",
        )
    directory = find(variant)
    if directory is None or directory_problems(directory):
        part = "" if directory is None else "whole "
        return Result(
            name="model-files",
            family="model",
            status="warn",
            evidence=f"{variant} is not {part}on this machine and will be downloaded",
            fix=f"download it before the job waits for it: hf download {hub_name(variant)}",
        )
    if is_original(directory):
        return _to_import(directory)
    return Result(name="model-files", family="model", status="pass", evidence=str(directory))


def _to_import(directory: Path) -> Result:
    """An original checkpoint is imported at its first use, which needs its size once more."""
    out = import_cache(directory)
    if (out / MANIFEST).is_file():
        return Result(name="model-files", family="model", status="pass", evidence=f"{directory}, imported into {out}")
    parent = next(path for path in out.parents if path.is_dir())
    needed = sum(path.stat().st_size for path in weight_files(directory, original=True))
    free = shutil.disk_usage(parent).free
    evidence = (
        f"{directory}, in the original layout, will be imported into {out}: {amount(needed)}, {amount(free)} free"
    )
    fix = f"free space, or: muster model import {directory} --out DIR, and model.variant: DIR" if free < needed else ""
    return Result(
        name="model-files", family="model", status="fail" if free < needed else "pass", evidence=evidence, fix=fix
    )


def storage(context: Context) -> Result:
    """A file can be written, synced and renamed where the run directory goes, and all checkpoints fit."""
    root = context.run.root
    parent = next(path for path in (root, *root.parents) if path.is_dir())
    if root.exists() and not root.is_dir():
        return _storage("fail", f"{root} is a file", "choose another place with --run-dir")
    try:
        _write_probe(parent / f".muster-probe-{os.getpid()}")
        free = shutil.disk_usage(parent).free
    except OSError as error:
        return _storage("fail", f"{parent}: {error.strerror or error}", "choose another place with --run-dir")
    # fp32 adapter and two moments in each of the newest checkpoints, in the best one kept beside them and in the one
    # being written, and 64 MiB of logs and tokens.
    checkpoint = 12 * context.plan.adapter_parameters
    needed = checkpoint * (context.plan.spec.training.save_total_limit + 2) + GIB // 16
    evidence = f"{parent} can be written; {amount(free)} free, {amount(needed)} needed for checkpoints"
    if free < needed:
        return _storage("fail", evidence, "free space, or choose another place with --run-dir")
    return _storage("pass", evidence)


def _storage(status: Status, evidence: str, fix: str = "") -> Result:
    return Result(name="storage", family="storage", status=status, evidence=evidence, fix=fix)


def _write_probe(probe: Path) -> None:
    """Writes, syncs, renames and removes a file. Raises OSError, and leaves nothing behind."""
    try:
        with open(probe, "wb") as file:
            file.write(b"probe")
            os.fsync(file.fileno())
        probe.rename(renamed := Path(f"{probe}-renamed"))
        renamed.unlink()
    except OSError:
        probe.unlink(missing_ok=True)
        raise


CHECKS: tuple[Check, ...] = (packages, devices, memory, model_files, storage)
