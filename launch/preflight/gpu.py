"""GPUs: that they are the planned ones, whole, free, at full speed, and can reach one another."""

import contextlib
import os
import pwd
import time
from collections.abc import Callable
from ctypes import byref
from pathlib import Path
from typing import Any

from launch.preflight.check import DRIVER, Check, on_gpus, on_several_gpus
from launch.preflight.nvml import RESET, Unread, asking, driver, judge, named, planned, read
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
# nvml.h; pynvml's own constant of the first is a tuple.
P2P_READ, P2P_STATUS_OK, FABRIC_COMPLETED = 0, 0, 3
CLEAN = "see nvidia-smi -q -d ECC,ROW_REMAPPER,PAGE_RETIREMENT, drain the node and reset the GPU"


def count(context: Context) -> Finding:
    """As many as planned, all of one kind."""
    wanted = context.plan.topology.devices_per_node
    with driver() as nvml:
        found = planned(nvml, context)
        names = {index: _name(nvml, index) for index in found}
        there = nvml.nvmlDeviceGetCount()
    lost = {index: name.why for index, name in names.items() if isinstance(name, Unread)}
    kinds = sorted({name for name in names.values() if isinstance(name, str)})
    told = f"{len(found)} of {wanted} planned GPUs are there, the driver has {there}: {', '.join(kinds) or 'none'}"
    if lost:
        why = next(iter(lost.values()))
        return failed(f"{named(list(lost))} cannot be reached: {why}", RESET, gpus=_named(names))
    if len(found) < wanted:
        limits = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = f" (CUDA_VISIBLE_DEVICES={limits})" if limits is not None else ""
        return failed(told + seen, "lower cluster.devices_per_node, or mend the node", gpus=_named(names))
    if len(kinds) > 1:
        return warned(told, "ranks wait for the slowest kind: leave the others out with CUDA_VISIBLE_DEVICES")
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


def pcie(context: Context) -> Finding:
    def widths(nvml: Any, handle: Any) -> list[int]:
        current = int(nvml.nvmlDeviceGetCurrPcieLinkWidth(handle))
        return [current, int(nvml.nvmlDeviceGetMaxPcieLinkWidth(handle))]

    return judge(
        read(context, widths), lambda w: f"{w[0]} of {w[1]} PCIe lanes" if w[0] < w[1] else None,
        "all PCIe lanes", "reseat the card or its riser", missing="these GPUs have no PCIe link of their own",
    )  # fmt: skip


def nvlink(context: Context) -> Finding:
    """Links that are down on some GPUs and up on others of the same kind.

    Links that lead nowhere are down on healthy machines: of V100s on smaller boards, of cards without a bridge.
    """

    def down(nvml: Any, handle: Any) -> dict[str, Any]:
        """Its kind, and the numbers of links that are up and down; those that it does not have are left out."""
        up: dict[int, bool] = {}
        for link in range(nvml.NVML_NVLINK_MAX_LINKS):
            with contextlib.suppress(nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
                up[link] = bool(nvml.nvmlDeviceGetNvLinkState(handle, link))
        if not up:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        links = {state: [link for link, is_up in up.items() if is_up is state] for state in (True, False)}
        return {"kind": nvml.nvmlDeviceGetName(handle), "up": links[True], "down": links[False]}

    readings = read(context, down)
    found = [r.value for r in readings if not isinstance(r.value, Unread)]
    most = {kind: max(len(f["up"]) for f in found if f["kind"] == kind) for kind in {f["kind"] for f in found}}

    def wrong(links: dict[str, Any]) -> str | None:
        if len(links["up"]) == most[links["kind"]]:
            return None
        told = ", ".join(map(str, links["down"]))
        return f"NVLink {told} down, {len(links['up'])} up where others have {most[links['kind']]}"

    fine = "as many NVLinks up on each" if any(most.values()) else "no NVLink is wired"
    fix = "restart the fabric manager, or reset the GPUs"
    return judge(readings, wrong, fine, fix, missing="these GPUs have no NVLink")


def peers(context: Context) -> Finding:
    """Whether each pair of GPUs reads the other's memory as all the other pairs do; on two sockets some cannot."""

    def able(nvml: Any, handle: Any) -> list[int]:
        """The GPUs whose memory this one reads, itself among them."""
        nvml.nvmlDeviceGetUUID(handle)  # raises where this one is lost: below only the other one can be
        found = []
        for index in planned(nvml, context):
            try:
                other = nvml.nvmlDeviceGetHandleByIndex(index)
                own = nvml.nvmlDeviceGetIndex(handle) == index
                if own or nvml.nvmlDeviceGetP2PStatus(handle, other, P2P_READ) == P2P_STATUS_OK:
                    found.append(index)
            except nvml.NVMLError_GpuIsLost:
                continue
        return found

    readings = read(context, able)
    indices = {r.index for r in readings}
    alone = all(len(r.value) <= 1 for r in readings if not isinstance(r.value, Unread))

    def wrong(reached: list[int]) -> str | None:
        cut = [] if alone else sorted(indices - set(reached))
        return f"cannot reach the memory of {named(cut)}, as other pairs can" if cut else None

    fine = "exchange through the host's memory, all alike" if alone else "each reaches the others' memory"
    fix = "usual across two sockets, and slower; else see nvidia-smi topo -p2p r, and the node's IOMMU and ACS settings"
    return judge(readings, wrong, fine, fix, warning=True)


def mig(context: Context) -> Finding:
    def mode(nvml: Any, handle: Any) -> int:
        return int(nvml.nvmlDeviceGetMigMode(handle)[0])

    fix = "turn MIG off (nvidia-smi -mig 0), or train on one slice: cluster.devices_per_node: 1"
    return judge(
        read(context, mode), lambda on: "divided into MIG slices, of which a process can use one" if on else None,
        "not divided", fix, missing="these GPUs cannot be divided", warning=context.plan.topology.devices_per_node == 1,
    )  # fmt: skip


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

    readings = read(context, processes)
    if any(r.value for r in readings if not isinstance(r.value, Unread)):
        time.sleep(LEAVING)
        readings = read(context, processes)
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

    readings = read(context, free)
    if any(r.value < needed for r in readings if not isinstance(r.value, Unread)):
        time.sleep(LEAVING)
        readings = read(context, free)
    return judge(
        readings, lambda there: f"{amount(there)} free" if there < needed else None,
        f"at least the {amount(needed)} that the plan needs are free",
        f"stop what else runs there (nvidia-smi): the plan needs {amount(needed)} on each",
    )  # fmt: skip


def fabric(context: Context) -> Finding:
    def state(nvml: Any, handle: Any) -> list[int]:
        info = nvml.c_nvmlGpuFabricInfoV_t()
        info.version = nvml.nvmlGpuFabricInfo_v2
        nvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(info))
        if info.state == nvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(info.state), int(info.status)]

    def wrong(found: list[int]) -> str | None:
        if found[0] != FABRIC_COMPLETED:
            return "has not joined the NVSwitch fabric"
        return f"could not join the NVSwitch fabric (error {found[1]})" if found[1] else None

    fix = "start nvidia-fabricmanager, of the driver's own version"
    missing = "these GPUs have no NVSwitch fabric"
    return judge(read(context, state), wrong, "in the NVSwitch fabric", fix, missing=missing)


def persistence(context: Context) -> Finding:
    def mode(nvml: Any, handle: Any) -> int:
        return int(nvml.nvmlDeviceGetPersistenceMode(handle))

    fix = "starts take seconds longer; an administrator may start nvidia-persistenced"
    return judge(
        read(context, mode), lambda on: None if on else "persistence is off", "persistence on", fix, warning=True
    )


def _check(name: str, finds: str, threshold: str, run: Callable[[Context], Finding], **more: Any) -> Check:
    return Check(name, "gpu", finds, threshold, asking(run), **{"concerns": on_gpus, "deadline": DRIVER, **more})


CHECKS = (
    _check("gpu-count", "fewer GPUs than planned, or of several kinds", "cluster.devices_per_node", count),
    _check("gpu-memory", "too little free memory on a GPU", "the plan's process_bytes", memory),
    _check(
        "gpu-foreign-processes", "somebody else's process on a GPU", "any that is alive (/proc)", foreign_processes
    ),
    _check("gpu-recovery", "a GPU that the driver wants reset", "NVML's recovery action, other than none", recovery),
    _check(
        "gpu-ecc", "memory errors that were not corrected since the driver was loaded",
        "more than preflight.uncorrected_ecc_errors", ecc,
    ),
    _check(
        "gpu-row-remap", "a broken row of memory (Ampere and later)",
        "pending or failed (NVIDIA GPU Memory Error Management)", row_remap,
    ),
    _check(
        "gpu-retired-pages", "a broken page of memory (before Ampere)",
        "pending (NVIDIA Dynamic Page Retirement)", retired_pages,
    ),
    _check(
        "gpu-throttling", "a GPU that is slowed down by heat or by its power supply",
        "hardware or thermal slowdown, power brake (nvml.h, clocks event reasons)", throttling,
    ),
    _check("gpu-pcie", "PCIe lanes that are missing", "width below the most; the generation drops when idle", pcie),
    _check(
        "gpu-nvlink", "an NVLink that is down", "fewer up than on another GPU of its kind", nvlink,
        concerns=on_several_gpus,
    ),
    _check(
        "gpu-peers", "pairs of GPUs that cannot reach each other's memory as the others do",
        "some pairs can and some cannot: warns", peers, concerns=on_several_gpus,
    ),
    _check("gpu-mig", "GPUs that are divided into slices", "MIG on, and several GPUs planned", mig),
    _check("gpu-compute-mode", "GPUs that take one process or none", "prohibited fails, exclusive warns", compute_mode),
    _check(
        "gpu-fabric", "GPUs that have not joined the NVSwitch fabric", "state completed, status success (nvml.h)",
        fabric,
    ),
    _check("gpu-persistence", "a driver that is unloaded between processes", "persistence mode off", persistence),
)  # fmt: skip
