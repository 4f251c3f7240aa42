"""GPUs: that they are the planned ones, whole, free and at full speed."""

import contextlib
import os
import pwd
import time
from pathlib import Path
from typing import Any

from launch.machine.devices import BY_BUS, ORDER, VISIBLE, in_another_order, listed, mixed
from launch.preflight.nvml import RESET, Unread, driver, gpu_check, judge, named, planned, read, usable
from launch.preflight.result import Context, Finding, failed, passed, warned
from launch.wording import amount, plural

# NVML's bits of clocks event reasons that mean a fault (nvml.h, nvmlClocksEventReasons).
FAULTS = {
    0x08: "hardware slowdown", 0x20: "software thermal slowdown", 0x40: "hardware thermal slowdown",
    0x80: "power brake",
}  # fmt: skip
# nvml.h, nvmlDeviceGpuRecoveryAction_t.
RECOVERY = {
    1: "GPU reset", 2: "node reboot", 3: "drain P2P", 4: "drain and reset", 5: "recover IMEX domain", 6: "bus reset",
    7: "system reboot",
}  # fmt: skip
LEAVING = 1.0  # seconds that the driver may need to take leave of a process
COMPUTE_MODES = {1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}
CLEAN = "see nvidia-smi -q -d ECC,ROW_REMAPPER,PAGE_RETIREMENT, drain the node and reset the GPU"


def count(context: Context) -> Finding:
    """As many as planned, all of one kind."""
    wanted = context.plan.topology.devices_per_node
    with driver() as nvml:
        found = [device.gpu for device in planned(nvml, context)]
        names = {index: _name(nvml, index) for index in found}
        there = nvml.nvmlDeviceGetCount()
    lost = {index: name.why for index, name in names.items() if isinstance(name, Unread)}
    kinds = sorted({name for name in names.values() if isinstance(name, str)})
    told = f"{len(found)} of {wanted} planned GPUs are there, the driver has {there}: {', '.join(kinds) or 'none'}"
    if lost:
        why = next(iter(lost.values()))
        return failed(f"{named(list(lost))} cannot be reached: {why}", RESET, gpus=_named(names))
    if len(found) < wanted:
        limits = os.environ.get(VISIBLE)
        seen = f" ({VISIBLE}={limits})" if limits is not None else ""
        return failed(told + seen, "lower cluster.devices_per_node, or mend the node", gpus=_named(names))
    if len(kinds) > 1:
        return warned(
            told, "ranks wait for the slowest kind: leave the others out with CUDA_VISIBLE_DEVICES", gpus=_named(names)
        )
    return passed(told, gpus=_named(names))


def _name(nvml: Any, index: int) -> str | Unread:
    """Asks for its temperature and memory as well: a GPU that fell off the bus may still have a name."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
        nvml.nvmlDeviceGetMemoryInfo(handle)
        return str(nvml.nvmlDeviceGetName(handle))
    except nvml.NVMLError as error:
        return Unread(str(error))


def _named(names: dict[int, str | Unread]) -> dict[str, str]:
    return {str(index): name.why if isinstance(name, Unread) else name for index, name in names.items()}


def recovery(context: Context) -> Finding:
    def action(nvml: Any, handle: Any) -> int:
        (field,) = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
        if field.nvmlReturn:
            raise nvml.NVMLError(field.nvmlReturn)
        return int(field.value.uiVal)

    return judge(
        read(context, action), lambda code: f"the driver asks for: {RECOVERY.get(code, code)}" if code else None,
        "no recovery asked for", "do what the driver asks for, and leave the node out until then",
        missing="the driver tells of no recovery for these GPUs",
    )  # fmt: skip


def ecc(context: Context) -> Finding:
    def uncorrected(nvml: Any, handle: Any) -> int:
        kinds = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
        return int(nvml.nvmlDeviceGetTotalEccErrors(handle, *kinds))

    most = context.plan.spec.preflight.uncorrected_ecc_errors
    return judge(
        read(context, uncorrected), lambda n: plural(n, "uncorrected memory error") if n > most else None,
        "no uncorrected memory errors", CLEAN, missing="these GPUs have no ECC, or it is off",
    )  # fmt: skip


def row_remap(context: Context) -> Finding:
    def rows(nvml: Any, handle: Any) -> dict[str, int]:
        names = ("corrected", "uncorrected", "pending", "failed")
        return dict(zip(names, map(int, nvml.nvmlDeviceGetRemappedRows(handle)), strict=True))

    def wrong(found: dict[str, int]) -> str | None:
        if found["failed"]:
            return "a row of memory could not be replaced"
        return "a replaced row of memory waits for a reset" if found["pending"] else None

    missing = "these GPUs retire pages instead"
    return judge(read(context, rows), wrong, "no row waits to be replaced", CLEAN, missing=missing)


def retired_pages(context: Context) -> Finding:
    def pending(nvml: Any, handle: Any) -> int:
        return int(nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle))

    return judge(
        read(context, pending), lambda waits: "a page of memory waits to be retired" if waits else None,
        "no page waits to be retired", CLEAN, missing="these GPUs replace rows instead",
    )  # fmt: skip


def throttling(context: Context) -> Finding:
    def reasons(nvml: Any, handle: Any) -> int:
        try:
            return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        except nvml.NVMLError_FunctionNotFound:  # its name before driver 535
            return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))

    def wrong(bits: int) -> str | None:
        return ", ".join(name for bit, name in FAULTS.items() if bits & bit) or None

    fix = "see its cooling and its power supply (nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER)"
    return judge(read(context, reasons), wrong, "clocks held back by nothing but idleness or the power cap", fix)


def order(context: Context) -> Finding:
    """Rank 0 computes on the GPU that CUDA counts first: where they differ, that may be another one than looked at."""
    told, names = os.environ.get(ORDER), os.environ.get(VISIBLE)
    with driver() as nvml:
        kinds = {_name(nvml, index) for index in range(nvml.nvmlDeviceGetCount())}
    if len(kinds) > 1 and in_another_order(told, names):
        fix = f"unset {ORDER}, or name the GPUs by their UUIDs in {VISIBLE} (nvidia-smi -L)"
        return warned(f"{ORDER}={told}: CUDA may count these GPUs otherwise than nvidia-smi and these checks", fix)
    return passed(
        f"counted by PCI bus, as nvidia-smi counts them ({ORDER}={BY_BUS})" if len(kinds) > 1 else "all alike"
    )


def mig(context: Context) -> Finding:
    """A process sees one slice of all that there are, and it is that slice's memory that a plan has to fit."""
    alone = context.plan.topology.devices_per_node == 1

    def slices(nvml: Any, handle: Any) -> int | None:
        """How many it is divided into; None where it is not."""
        if not nvml.nvmlDeviceGetMigMode(handle)[0]:
            return None
        return len(listed(nvml)[nvml.nvmlDeviceGetIndex(handle)].slices or ())

    def wrong(number: int | None) -> str | None:
        if number is None or (alone and number):
            return None
        if not number:
            return "MIG is on, and it is divided into no slice that could be used"
        return "divided into MIG slices, of which a process can use one"

    with driver() as nvml:
        beside = mixed(usable(nvml))
    if alone and beside:
        told = "some GPUs are divided (MIG) and some are not: CUDA may show the process another one than is planned for"
        return failed(told, f"name it by its UUID (nvidia-smi -L): {VISIBLE}=GPU-... or {VISIBLE}=MIG-...")
    fix = "turn MIG off (nvidia-smi -mig 0), or train on one slice: cluster.devices_per_node: 1"
    readings = read(context, slices)
    one = any(r.value for r in readings if not isinstance(r.value, Unread))
    fine = "divided, and one slice of it is planned for" if one else "not divided"
    return judge(readings, wrong, fine, fix, missing="these GPUs cannot be divided")


def compute_mode(context: Context) -> Finding:
    def mode(nvml: Any, handle: Any) -> int:
        return int(nvml.nvmlDeviceGetComputeMode(handle))

    readings = read(context, mode)
    modes = {r.value for r in readings if not isinstance(r.value, Unread)}
    return judge(
        readings, lambda code: f"compute mode {COMPUTE_MODES.get(code, code)}" if code else None, "shared compute mode",
        "nvidia-smi -c DEFAULT (administrators)", warning=2 not in modes,
    )  # fmt: skip


def foreign_processes(context: Context) -> Finding:
    """Processes that hold memory. One that has just been killed is listed for a moment more: it is asked for twice."""

    def processes(nvml: Any, handle: Any) -> list[str]:
        try:
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLLibraryMismatchError:  # a driver before 510
            running = nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)
        told = [(p, _whose(nvml, p.pid)) for p in running]
        return [f"process {p.pid} of {whose} holds {amount(int(p.usedGpuMemory or 0))}" for p, whose in told if whose]

    readings = read(context, processes, own=True)
    if any(r.value for r in readings if not isinstance(r.value, Unread)):
        time.sleep(LEAVING)
        readings = read(context, processes, own=True)
    fix = "ask its owner, or end it; if it needs its memory, plan for GPUs that are free"
    return judge(readings, lambda found: ", ".join(found) or None, "nobody else is on them", fix, warning=True)


def _whose(nvml: Any, pid: int) -> str | None:
    """Its user, or its name where its user cannot be seen, as in a container; None for one that has ended."""
    with contextlib.suppress(OSError, KeyError):
        return pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name
    try:
        return str(nvml.nvmlSystemGetProcessName(pid))
    except nvml.NVMLError_NotFound:
        return None
    except nvml.NVMLError:
        return "an owner that cannot be seen from here"


def memory(context: Context) -> Finding:
    """Free memory. That of a process which has just ended is free a moment later: it is asked for twice."""
    needed = context.plan.memory.process_bytes

    def free(nvml: Any, handle: Any) -> int:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).free)

    readings = read(context, free, own=True)
    if any(r.value < needed for r in readings if not isinstance(r.value, Unread)):
        time.sleep(LEAVING)
        readings = read(context, free, own=True)
    return judge(
        readings, lambda there: f"{amount(there)} free" if there < needed else None,
        f"at least the {amount(needed)} that the plan needs are free",
        f"stop what else runs there (nvidia-smi): the plan needs {amount(needed)} on each",
    )  # fmt: skip


def persistence(context: Context) -> Finding:
    def mode(nvml: Any, handle: Any) -> int:
        return int(nvml.nvmlDeviceGetPersistenceMode(handle))

    fix = "starts take seconds longer; an administrator may start nvidia-persistenced"
    return judge(
        read(context, mode), lambda on: None if on else "persistence is off", "persistence on", fix, warning=True
    )


CHECKS = (
    gpu_check("gpu-count", "fewer GPUs than planned, or of several kinds", "cluster.devices_per_node", count),
    gpu_check("gpu-memory", "too little free memory on a GPU", "the plan's process_bytes", memory),
    gpu_check(
        "gpu-foreign-processes", "somebody else's process on a GPU", "any that is alive (/proc)", foreign_processes
    ),
    gpu_check("gpu-recovery", "a GPU that the driver wants reset", "NVML's recovery action, other than none", recovery),
    gpu_check(
        "gpu-ecc", "memory errors that were not corrected since the driver was loaded",
        "more than preflight.uncorrected_ecc_errors", ecc,
    ),
    gpu_check(
        "gpu-row-remap", "a broken row of memory (Ampere and later)",
        "pending or failed (NVIDIA GPU Memory Error Management)", row_remap,
    ),
    gpu_check(
        "gpu-retired-pages", "a broken page of memory (before Ampere)",
        "pending (NVIDIA Dynamic Page Retirement)", retired_pages,
    ),
    gpu_check(
        "gpu-throttling", "a GPU that is slowed down by heat or by its power supply",
        "hardware or thermal slowdown, power brake (nvml.h, clocks event reasons)", throttling,
    ),
    gpu_check(
        "gpu-mig", "GPUs that are divided into slices",
        "MIG on: several GPUs planned, no slice, or whole ones beside it (NVIDIA MIG User Guide)", mig,
    ),
    gpu_check(
        "gpu-order", "GPUs of several kinds that CUDA counts in another order than these checks",
        "CUDA_DEVICE_ORDER other than PCI_BUS_ID (CUDA C++ Programming Guide, CUDA Environment Variables)", order,
    ),
    gpu_check(
        "gpu-compute-mode", "GPUs that take one process or none", "prohibited fails, exclusive warns", compute_mode
    ),
    gpu_check("gpu-persistence", "a driver that is unloaded between processes", "persistence mode off", persistence),
)  # fmt: skip
