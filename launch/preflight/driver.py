"""Driver, CUDA and the libraries that torch brings: whether they go together, and with the GPUs."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.plan.kernels import FLASH_PACKAGES
from launch.preflight.check import DRIVER, Check, on_gpus
from launch.preflight.installed_torch import ASK_SECONDS, IMPORT, NoTorch, ask_torch, nccl_wheel, there, torch_build
from launch.preflight.nvml import NoDriverError, Unread, asking, driver, judge, named, planned, read
from launch.preflight.result import Context, Finding, failed, passed, unknown, warned
from launch.versions import release

# Drivers that run any CUDA of a major version (NVIDIA, CUDA Compatibility, minor version compatibility), and those that
# came with a toolkit (CUDA Toolkit Release Notes, table 3): below the latter PTX that the toolkit made may not compile.
FLOOR = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
TOOLKIT = {
    "11.8": "520.61.05", "12.1": "530.30.02", "12.2": "535.54.03", "12.3": "545.23.06", "12.4": "550.54.14",
    "12.5": "555.42.02", "12.6": "560.28.03", "12.8": "570.26", "12.9": "575.51.03", "13.0": "580.65.06",
    "13.1": "590.44.01",
}  # fmt: skip
# The lowest CUDA that a torch which muster takes (2.11) was built for: what a driver has to run in any case.
OLDEST = "12.6"
# NVML's codes of a driver that is there and cannot be used (nvml.h, nvmlReturn_t).
MISMATCH, NO_PERMISSION, NOT_LOADED, NO_LIBRARY = 18, 4, 9, 12
BF16, FP8 = (8, 0), (8, 9)


def judge_driver(installed: str, cuda: str, newest: str) -> tuple[str, str] | None:
    """(status, what is wrong) of a driver for a CUDA version; None where nothing is. Pure.

    `newest` is the CUDA version that the driver names as its own: it decides for a toolkit that is not in the table.
    """
    floor, own = FLOOR.get(int(cuda.split(".")[0])), TOOLKIT.get(cuda)
    if floor is None:
        return "unknown", f"which driver CUDA {cuda} needs is not known here"
    if release(installed) < release(floor):
        return "fail", f"driver {installed} is older than {floor}, which CUDA {cuda} needs"
    if own and release(installed) < release(own):
        return "warn", f"driver {installed} is older than CUDA {cuda}'s own, {own}: kernels that come as PTX may fail"
    if own is None and release(newest) < release(cuda):
        return "warn", f"driver {installed} is of CUDA {newest}, older than {cuda}: kernels that come as PTX may fail"
    return None


def loaded(context: Context) -> Finding:
    """A driver that answers, new enough for torch's CUDA."""
    try:
        with driver() as nvml:
            installed, supported = str(nvml.nvmlSystemGetDriverVersion()), nvml.nvmlSystemGetCudaDriverVersion()
    except NoDriverError as error:
        return _no_driver(error)
    told = f"driver {installed}, up to CUDA {newest_of(supported)}"
    name, cuda = torch_build()
    values = {"driver": installed, "cuda_driver": supported, "torch": name, "torch_cuda": cuda}
    wrong = judge_driver(installed, cuda or OLDEST, newest_of(supported))
    if wrong is None:
        return passed(f"{told}; torch is built for CUDA {cuda}" if cuda else told, **values)
    status, why = wrong
    if status == "fail" and cuda and release(newest_of(supported)) >= release(cuda):
        # cuda-compat, as NVIDIA's images bring it, runs a newer CUDA on an older driver of a data centre GPU.
        fix = "see the check cuda-compat; a newer driver is safer"
        return warned(f"{why}; a compatibility library runs CUDA up to {newest_of(supported)} here", fix, **values)
    newest = newest_of(supported)
    older = f", or install a torch built for CUDA {newest} or lower" if release(newest) >= release(OLDEST) else ""
    fix = f"upgrade the driver{older}"
    return Finding(status=status, evidence=why, fix=fix, values=values)  # type: ignore[arg-type]


def newest_of(supported: int) -> str:
    """The CUDA version of NVML's number: 12040 is 12.4."""
    return f"{supported // 1000}.{supported % 1000 // 10}"


def _no_driver(error: NoDriverError) -> Finding:
    fixes = {
        MISMATCH: "the driver was upgraded under a running kernel: restart the node (or reload the nvidia modules)",
        NO_PERMISSION: "see the permissions of /dev/nvidia*, and whether the container was given the GPUs",
        NOT_LOADED: "load it (modprobe nvidia), or restart the node",
        NO_LIBRARY: "install the driver, or start the container with its GPUs (--gpus all, --nv)",
    }
    return failed(f"no driver that answers: {error.why}", fixes.get(error.code, "see nvidia-smi"), code=error.code)


def build(context: Context) -> Finding:
    name, cuda = torch_build()
    fix = "pip install torch from the index of its CUDA builds"
    if name is None:
        return failed("torch is not installed", "pip install -c constraints.txt .")
    if cuda is None:
        return failed(f"torch {name} is built for the CPU alone", fix, torch=name)
    return passed(f"torch {name} is built for CUDA {cuda}", torch=name, cuda=cuda)


@dataclass(frozen=True)
class Architectures:
    """What a torch build holds kernels for: sm_90 is binary, compute_90 is PTX for it and all that come later."""

    names: Sequence[str]

    def runs(self, capability: tuple[int, int]) -> bool:
        """CUDA's rule: a binary runs on its own major version from its minor on, PTX from its version on. With an `a`
        (sm_100a) both run on that version alone, with an `f` as a binary does."""
        for name in self.names:
            match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
            if match is None:
                continue
            built = int(match[2]), int(match[3])
            if match[4] == "a":
                runs = built == capability
            elif match[1] == "compute" and not match[4]:
                runs = built <= capability
            else:
                runs = built[0] == capability[0] and built <= capability
            if runs:
                return True
        return False


def architectures(context: Context) -> Finding:
    """torch has kernels for each GPU."""
    asked = ask_torch()
    if isinstance(asked, NoTorch):
        if asked.broken:
            return failed(f"torch cannot be imported: {asked.why}", IMPORT)
        return unknown(f"torch could not be asked for what it was built: {asked.why}", IMPORT)
    build = Architectures(asked["architectures"])
    return judge(
        read(context, _capability),
        lambda found: None if build.runs(found) else f"torch has no kernel for compute capability {_dotted(found)}",
        f"torch has kernels for them ({', '.join(build.names)})", "install a torch that is built for these GPUs",
    )  # fmt: skip


def precision(context: Context) -> Finding:
    """The GPUs have the type that the plan computes in."""
    wanted = context.plan.precision

    def wrong(found: tuple[int, int]) -> str | None:
        return f"compute capability {_dotted(found)} has no bf16" if wanted == "bf16" and found < BF16 else None

    readings = read(context, _capability)
    able = all(not isinstance(r.value, Unread) and r.value >= FP8 for r in readings)
    return judge(
        readings, wrong, f"they compute in {wanted}{', and have fp8' if able else ''}", "use training.precision: auto"
    )


def flash_attention(context: Context) -> Finding:
    """The package that the spec names is there, and made for these GPUs."""
    kernels = context.plan.spec.model.flash_attention
    module, package, majors = FLASH_PACKAGES[kernels]
    fix = f"install {package}, or use model.flash_attention: torch"
    if not there(module):
        return failed(f"{module}, which has the kernels of {kernels}, is not there", fix)

    def wrong(found: tuple[int, int]) -> str | None:
        return None if found[0] in majors else f"{kernels} has no kernel for compute capability {_dotted(found)}"

    fine = f"{module} is there, and made for them"
    return judge(read(context, _capability), wrong, fine, "use model.flash_attention: torch")


def without_flash_package(context: Context) -> str | None:
    if reason := on_gpus(context):
        return reason
    return None if context.plan.spec.model.flash_attention in FLASH_PACKAGES else "torch's own kernels are used"


def _capability(nvml: Any, handle: Any) -> tuple[int, int]:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return int(major), int(minor)


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def nccl(context: Context) -> Finding:
    """The NCCL that torch loads is the one that was installed with it."""
    asked = ask_torch()
    if isinstance(asked, NoTorch):
        return unknown(f"torch could not be asked for its NCCL: {asked.why}", IMPORT)
    if "nccl" not in asked:
        return unknown("this torch has no NCCL", "install a CUDA build of torch")
    mapped = [path for path in asked["libraries"] if "nccl" in path]
    wheel = nccl_wheel()
    told = f"NCCL {asked['nccl']}{f' ({mapped[0]})' if mapped else ''}"
    if wheel and release(wheel) != release(asked["nccl"]):
        fix = "unset what puts another one first: LD_LIBRARY_PATH, LD_PRELOAD"
        return warned(f"{told} is loaded, the wheel beside torch is {wheel}", fix, **asked)
    return passed(told, **asked)


def compat(context: Context) -> Finding:
    """A cuda-compat library first on the path serves data centre GPUs alone, and hides the driver's own."""
    places = [place for place in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if "compat" in place]
    found = [str(path) for place in places for path in sorted(Path(place).glob("libcuda.so.*"))]
    if not found:
        return passed("the driver's own libcuda is used")
    with driver() as nvml:
        names = {
            index: str(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(index)))
            for index, _ in planned(nvml, context)
        }
    consumer = [index for index, name in names.items() if "GeForce" in name]
    if consumer:
        fix = "take it out of LD_LIBRARY_PATH, and upgrade the driver instead"
        return failed(f"cuda-compat ({found[0]}) does not serve {named(consumer)}: {names[consumer[0]]}", fix)
    fix = "take it out of LD_LIBRARY_PATH where the driver is new enough by itself"
    return warned(f"cuda-compat is first on LD_LIBRARY_PATH: {found[0]}", fix, libraries=found)


CHECKS = (
    Check(
        "driver", "driver", "no driver that answers, or one too old for torch's CUDA",
        "fails below 450.80.02 (CUDA 11), 525.60.13 (12), 580.65.06 (13), warns below the toolkit's own (NVIDIA, CUDA"
        " Compatibility; CUDA Toolkit Release Notes, table 3)", loaded, on_gpus, DRIVER,
    ),
    Check("torch-build", "driver", "a torch that is built for the CPU", "torch/version.py", build, on_gpus),
    Check(
        "architectures", "driver", "a torch without kernels for these GPUs, or one that cannot be imported",
        "a binary of the same major and no later minor version, or PTX; sm_90a runs on 9.0 alone (CUDA C++ Programming"
        " Guide, 3.1 and 5.1)",
        asking(architectures), on_gpus, ASK_SECONDS + 5,
    ),
    Check(
        "precision", "driver", "GPUs without the plan's type", "bf16 from compute capability 8.0, fp8 from 8.9",
        asking(precision), on_gpus, DRIVER,
    ),
    Check(
        "flash-attention", "driver", "a package of FlashAttention that is missing, or not made for these GPUs",
        "fa3 needs compute capability 9.x, fa4 9.x or 10.x (torch/nn/attention)", asking(flash_attention),
        without_flash_package, DRIVER,
    ),
    Check("nccl", "driver", "another NCCL than torch's own", "the wheel's version", nccl, on_gpus, ASK_SECONDS + 5),
    Check(
        "cuda-compat", "driver", "a compatibility library where it does not serve", "libcuda in LD_LIBRARY_PATH",
        asking(compat), on_gpus, DRIVER,
    ),
)  # fmt: skip
