"""What nvidia-ml-py itself reads: `python reader.py FILE...` prints a line of JSON for each scenario file.

Each file gets a fork of its own, as NVML keeps its state for the life of a process. An error is told as the name of
its class.
"""

import json
import os
import sys
from collections.abc import Callable
from ctypes import byref
from typing import Any

import pynvml as nvml

LINKS = 36


def said(call: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or the name of pynvml's exception."""
    try:
        answer = call(*arguments)
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError) as error:
        return type(error).__name__
    if hasattr(answer, "_fields_"):
        answer = {name: getattr(answer, name) for name, *_ in answer._fields_}
    return list(answer) if isinstance(answer, tuple) else answer


def fabric(handle: Any, kind: Any, function: Callable[..., Any]) -> Any:
    info = kind()
    error = said(function, handle, byref(info))
    fields = {name: getattr(info, name) for name, *_ in info._fields_}
    return error if isinstance(error, str) else {**fields, "clusterUuid": list(info.clusterUuid)}


def remapped(handle: Any) -> Any:
    info = nvml.c_nvmlRemappedRowsInfo_v2_t()
    error = said(nvml.nvmlDeviceGetRemappedRows_v2, handle, byref(info))
    return error if isinstance(error, str) else {name: getattr(info, name) for name, *_ in info._fields_}


def processes(call: Callable[..., Any], handle: Any) -> Any:
    found = said(call, handle)
    return found if isinstance(found, str) else [vars(process) for process in found]


def fields(handle: Any, *wanted: Any) -> list[Any]:
    """Each field's value, or its error code as `error 3`."""
    found = nvml.nvmlDeviceGetFieldValues(handle, list(wanted))
    members = {nvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal", nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal"}
    return [
        getattr(one.value, members[one.valueType]) if not one.nvmlReturn else f"error {one.nvmlReturn}" for one in found
    ]


def cpus(handle: Any) -> Any:
    words = said(nvml.nvmlDeviceGetCpuAffinity, handle, 4)
    if isinstance(words, str):
        return words
    return [64 * word + bit for word, bits in enumerate(words) for bit in range(64) if bits >> bit & 1]


def mig_devices(handle: Any) -> list[Any]:
    found = []
    for index in range(8):
        mig = said(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if isinstance(mig, str):
            break
        found.append(
            {
                "name": said(nvml.nvmlDeviceGetName, mig),
                "uuid": said(nvml.nvmlDeviceGetUUID, mig),
                "memory": said(nvml.nvmlDeviceGetMemoryInfo, mig),
                "instance": said(nvml.nvmlDeviceGetGpuInstanceId, mig),
                "is_mig": nvml.nvmlDeviceIsMigDeviceHandle(mig).value,
                "parent": nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)),
                "temperature": said(nvml.nvmlDeviceGetTemperature, mig, 0),
            }
        )
    return found


SIMPLE = [
    "Name", "UUID", "Index", "MinorNumber", "Serial", "VbiosVersion", "InforomImageVersion", "Architecture",
    "Brand", "PciInfo", "MemoryInfo", "BAR1MemoryInfo", "CudaComputeCapability", "UtilizationRates",
    "EnforcedPowerLimit", "PowerManagementLimit", "PowerManagementLimitConstraints",
    "PowerManagementDefaultLimit", "FanSpeed", "CurrentClocksThrottleReasons", "CurrentClocksEventReasons",
    "SupportedClocksThrottleReasons", "SupportedClocksEventReasons", "EccMode", "RemappedRows",
    "RetiredPagesPendingStatus", "CurrPcieLinkWidth", "MaxPcieLinkWidth", "CurrPcieLinkGeneration",
    "MaxPcieLinkGeneration", "PcieReplayCounter", "MigMode", "MaxMigDeviceCount", "ComputeMode",
    "PersistenceMode", "NumaNodeId", "DisplayActive", "DisplayMode",
]  # fmt: skip
CHOSEN = {
    "Temperature": [0],
    "TemperatureV": [0],
    "TemperatureThreshold": [0, 1, 2, 3],
    "ClockInfo": [0, 1, 2, 3],
    "MaxClockInfo": [0, 1, 2, 3],
    "PcieThroughput": [0, 1],
    "RetiredPages": [0, 1],
    "RetiredPages_v2": [0, 1],
    "FanSpeed_v2": [0],
}


def gpu(index: int, others: list[Any]) -> Any:
    """Every covered question about one GPU."""
    handle = others[index]
    if isinstance(handle, str):
        return handle
    answers = {name: said(getattr(nvml, f"nvmlDeviceGet{name}"), handle) for name in SIMPLE}
    for name, choices in CHOSEN.items():
        answers[name] = [said(getattr(nvml, f"nvmlDeviceGet{name}"), handle, choice) for choice in choices]
    links = [said(nvml.nvmlDeviceGetNvLinkState, handle, link) for link in range(LINKS)]
    answers |= {
        "MemoryInfo_v2": said(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2),
        "ecc": [
            [said(nvml.nvmlDeviceGetTotalEccErrors, handle, kind, counter) for counter in (0, 1)] for kind in (0, 1)
        ],
        "ecc_dram": said(nvml.nvmlDeviceGetMemoryErrorCounter, handle, 1, 0, nvml.NVML_MEMORY_LOCATION_DRAM),
        "ecc_sram": said(nvml.nvmlDeviceGetMemoryErrorCounter, handle, 1, 0, nvml.NVML_MEMORY_LOCATION_SRAM),
        "RemappedRows_v2": remapped(handle),
        "links": [link for link in links if not isinstance(link, str)],
        "after_links": next((link for link in links if isinstance(link, str)), None),
        "link_version": said(nvml.nvmlDeviceGetNvLinkVersion, handle, 0),
        "link_p2p": said(nvml.nvmlDeviceGetNvLinkCapability, handle, 0, nvml.NVML_NVLINK_CAP_P2P_SUPPORTED),
        "link_remote": said(nvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, 0),
        "link_recoveries": said(nvml.nvmlDeviceGetNvLinkErrorCounter, handle, 3, nvml.NVML_NVLINK_ERROR_DL_RECOVERY),
        "p2p": [said(nvml.nvmlDeviceGetP2PStatus, handle, other, 0) for other in others],
        "p2p_nvlink": [said(nvml.nvmlDeviceGetP2PStatus, handle, other, 2) for other in others],
        "topology": [said(nvml.nvmlDeviceGetTopologyCommonAncestor, handle, other) for other in others],
        "mig": mig_devices(handle),
        "processes": processes(nvml.nvmlDeviceGetComputeRunningProcesses, handle),
        "processes_v2": processes(nvml.nvmlDeviceGetComputeRunningProcesses_v2, handle),
        "graphics": processes(nvml.nvmlDeviceGetGraphicsRunningProcesses, handle),
        "fabric": fabric(handle, nvml.c_nvmlGpuFabricInfo_t, nvml.nvmlDeviceGetGpuFabricInfo),
        "fabric_v2": fabric(handle, nvml.c_nvmlGpuFabricInfo_v2_t, nvml.nvmlDeviceGetGpuFabricInfoV),
        "fabric_v3": fabric(handle, nvml.c_nvmlGpuFabricInfo_v3_t, nvml.nvmlDeviceGetGpuFabricInfoV),
        "cpus": cpus(handle),
        "thermal_violation": said(nvml.nvmlDeviceGetViolationStatus, handle, nvml.NVML_PERF_POLICY_THERMAL),
        "fields": said(
            fields,
            handle,
            nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
            nvml.NVML_FI_DEV_NVLINK_LINK_COUNT,
            nvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON,
            (nvml.NVML_FI_DEV_NVLINK_GET_SPEED, 3),
            (nvml.NVML_FI_DEV_NVLINK_GET_STATE, 3),
            (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, 0xFFFFFFFF),
            nvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
            nvml.NVML_FI_DEV_C2C_LINK_COUNT,
        ),
        "PowerUsage": said(nvml.nvmlDeviceGetPowerUsage, handle),
    }
    return answers


def machine() -> dict[str, Any]:
    """Everything, or what nvmlInit says."""
    error = said(nvml.nvmlInit)
    if error:
        return {"init": error, "nvml": said(nvml.nvmlSystemGetNVMLVersion)}
    count = nvml.nvmlDeviceGetCount()
    handles = [said(nvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
    answers = {
        "driver": said(nvml.nvmlSystemGetDriverVersion),
        "nvml": said(nvml.nvmlSystemGetNVMLVersion),
        "cuda": [said(nvml.nvmlSystemGetCudaDriverVersion), said(nvml.nvmlSystemGetCudaDriverVersion_v2)],
        "count": count,
        "beyond": said(nvml.nvmlDeviceGetHandleByIndex, count),
        "gpus": [gpu(index, handles) for index in range(count)],
    }
    nvml.nvmlShutdown()
    return answers


def main() -> None:
    for path in sys.argv[1:]:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.environ["FAKE_NVML_SCENARIO"] = path
            print(json.dumps({"file": path, **machine()}), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{path}: the child failed")


if __name__ == "__main__":
    main()
