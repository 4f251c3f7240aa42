"""Packages: new enough, whole, and fit for the CUDA that torch was built for."""

import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from launch.plan.compatibility import ZERO
from launch.preflight.check import Check, on_gpus
from launch.preflight.installed_torch import torch_build
from launch.preflight.result import Context, Finding, failed, passed, unknown
from launch.versions import release

# Floors that the code relies on, and pyproject.toml names: FSDP2 and the optimizer wrappers of accelerate 1.15, ZeRO as
# launch/plan/compatibility.py says.
MINIMUM = {"torch": "2.11", "transformers": "5.17", "accelerate": "1.15", "peft": "0.20", "datasets": "4.0"}
DEEPSPEED, BITSANDBYTES, LIGER = ("deepspeed", ZERO["deepspeed"]), ("bitsandbytes", "0.50"), ("liger-kernel", "0.3")


def needed(context: Context) -> dict[str, str]:
    """The least version of each package that this run imports."""
    floors = dict(MINIMUM)
    floors.update(each for each in (DEEPSPEED, BITSANDBYTES) if each[0] not in context.plan.unused)
    if context.plan.spec.training.extra.get("use_liger_kernel"):
        floors.update([LIGER])
    return floors


def packages(context: Context) -> Finding:
    """Versions from package metadata: importing them would take seconds."""
    found, wrong, upgrades = {}, [], []
    for name, minimum in needed(context).items():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed (needs {minimum})")
            upgrades.append(f"'{name}>={minimum}'")
            continue
        if release(found[name]) < release(minimum):
            wrong.append(f"{name} {found[name]} is older than {minimum}")
            upgrades.append(f"'{name}>={minimum}'")
    if wrong:
        return failed("; ".join(wrong), f"pip install -U {' '.join(upgrades)}", versions=found)
    return passed(", ".join(f"{name} {number}" for name, number in found.items()), versions=found)


def bitsandbytes(context: Context) -> Finding:
    """Its kernels for torch's CUDA are among its files; without them it fails at the first packed weight."""
    _, cuda = torch_build()
    if cuda is None:
        return unknown("which CUDA torch was built for cannot be read", "see the check torch-build")
    try:
        folder = Path(str(distribution("bitsandbytes").locate_file("bitsandbytes")))
    except PackageNotFoundError:
        return failed("bitsandbytes is not installed", f"pip install 'bitsandbytes>={BITSANDBYTES[1]}'")
    # BNB_CUDA_VERSION is its own way to choose another one.
    wanted = os.environ.get("BNB_CUDA_VERSION") or cuda.replace(".", "")
    there = sorted(path.stem.removeprefix("libbitsandbytes_cuda") for path in folder.glob("libbitsandbytes_cuda*.so"))
    if wanted in there:
        return passed(f"it has kernels for CUDA {cuda}", cuda=cuda, kernels=there)
    # It then takes the nearest one of the same major version (bitsandbytes/cextension.py).
    if [kernel for kernel in there if kernel[:2] == wanted[:2]]:
        return passed(f"it has kernels for CUDA {wanted[:2]}", cuda=cuda, kernels=there)
    fix = "pip install -U bitsandbytes, or a torch built for one of them; unset BNB_CUDA_VERSION where it is set"
    asked = f"BNB_CUDA_VERSION={wanted}" if os.environ.get("BNB_CUDA_VERSION") else f"CUDA {cuda}"
    return failed(f"it has no kernels for {asked}, only for {', '.join(there) or 'none'}", fix, kernels=there)


def without_bitsandbytes(context: Context) -> str | None:
    if reason := on_gpus(context):
        return reason
    return "nothing in this run uses bitsandbytes" if "bitsandbytes" in context.plan.unused else None


def compiler(context: Context) -> Finding:
    """nvcc of torch's own CUDA major version, which DeepSpeed compares before it compiles an op."""
    _, cuda = torch_build()
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = str(Path(home, "bin/nvcc")) if home else shutil.which("nvcc")
    fix = f"install the CUDA toolkit {cuda or ''} and set CUDA_HOME, or unset {_compiled()}"
    if nvcc is None or not os.access(nvcc, os.X_OK):
        return failed(f"nvcc is not there{f' (CUDA_HOME={home})' if home else ''}", fix)
    done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"release (\d+\.\d+)", done.stdout)
    if match is None or cuda is None:
        return unknown(f"{nvcc}: its version, or torch's CUDA, cannot be read", fix)
    if match[1].split(".")[0] != cuda.split(".")[0]:
        return failed(f"{nvcc} is CUDA {match[1]}, torch is built for {cuda}", fix, nvcc=match[1], torch=cuda)
    return passed(f"{nvcc} is CUDA {match[1]}, torch is built for {cuda}", nvcc=match[1], torch=cuda)


def _compiled() -> str:
    """DeepSpeed's switches that make it compile ops ahead of time; its ZeRO stages, as muster uses them, need none."""
    return ", ".join(
        sorted(name for name, value in os.environ.items() if name.startswith("DS_BUILD_") and value == "1")
    )


def without_ops(context: Context) -> str | None:
    if context.plan.zero_stage and context.gpus and _compiled():
        return None
    return "no DeepSpeed op is compiled: ZeRO as rendered here uses torch's optimizers"


CHECKS = (
    Check("packages", "software", "a package that is missing or too old", "the floors of pyproject.toml", packages),
    Check(
        "bitsandbytes", "software", "bitsandbytes without kernels for torch's CUDA",
        "a library of the same major version (bitsandbytes/cextension.py)", bitsandbytes, without_bitsandbytes,
    ),
    Check(
        "nvcc", "software", "a compiler of another CUDA than torch's, where DeepSpeed will compile",
        "the same major version (deepspeed/ops/op_builder)", compiler, without_ops, 10.0,
    ),
)  # fmt: skip
