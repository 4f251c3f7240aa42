"""What nvidia-ml-py, and muster through it, reads from the fake: in child processes, as both load the library once."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests import fake_nvml
from tests.conftest import Finished, command
from tests.fake_nvml import HERE, SCENARIOS, FakeNvmlError

MIB, GIB = 2**20, 2**30
BY_THEMSELVES = {"slow-answers", "blocks-for-ever", "blocks-on-ecc", "old-driver-missing-functions"}
"""Scenarios that take long, or that need a library of their own."""
START = "from pynvml import *\nnvmlInit()\ngpu = nvmlDeviceGetHandleByIndex(0)\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fake-nvml")


@pytest.fixture(scope="module")
def readings(cache: Path) -> dict[str, Any]:
    """By scenario, all that reader.py reads."""
    names = [name for name in fake_nvml.names() if name not in BY_THEMSELVES]
    environments = [fake_nvml.environment(cache, name) for name in names]
    files = [variables["FAKE_NVML_SCENARIO"] for variables in environments]
    done = command(HERE / "reader.py", *files, **environments[0])
    assert done.code == 0, done.err
    return dict(zip(names, map(json.loads, done.out.splitlines()), strict=True))


@pytest.fixture
def child(cache: Path) -> Callable[..., Any]:
    """Runs Python with a scenario; what it prints is a list of literals, one a line."""

    def run(code: str, scenario: str, overrides: dict[str, object] | None = None) -> Any:
        done = command("-c", START + code, **fake_nvml.environment(cache, scenario, overrides))
        assert done.code == 0, done.err
        return [json.loads(line) for line in done.out.splitlines()]

    return run


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """`{"gpus": [{"Name": "T4"}]}` to `{"gpus.0.Name": "T4"}`. The time of the reading itself is left out."""
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {} if path.endswith("referenceTime") or path == "file" else {path: value}
    return {key: found for name, part in items for key, found in flat(part, f"{path}.{name}".lstrip(".")).items()}


def difference(before: Any, after: Any) -> dict[str, Any]:
    """What the second reading has instead; `gpus.*` where it is the same for every GPU."""
    old, new = flat(before), flat(after)
    changed = {key: new.get(key) for key in old | new if old.get(key) != new.get(key)}
    for key, value in list(changed.items()):
        rest = re.sub(r"^gpus\.0\.", "", key)
        everywhere = [f"gpus.{index}.{rest}" for index in range(len(after.get("gpus", [])))]
        if (
            key == f"gpus.0.{rest}"
            and len(everywhere) > 1
            and all(changed.get(one, ...) == value for one in everywhere)
        ):
            changed = {one: found for one, found in changed.items() if one not in everywhere}
            changed[f"gpus.*.{rest}"] = value
    return changed


def base_of(name: str) -> str | None:
    found = re.search(r"^include (\S+)\.scenario$", (SCENARIOS / f"{name}.scenario").read_text(), re.MULTILINE)
    return found[1] if found else None


# Count, name, memory in MiB as nvidia-smi's total, capability, PCIe generation, NVLinks and the speed of each in MB/s.
HEALTHY = {
    "h100x8": (8, "NVIDIA H100 80GB HBM3", 81559, [9, 0], 5, 18, 26562),
    "h200x8": (8, "NVIDIA H200", 143771, [9, 0], 5, 18, 26562),
    "a100x8": (8, "NVIDIA A100-SXM4-40GB", 40960, [8, 0], 4, 12, 25000),
    "l40sx4": (4, "NVIDIA L40S", 46068, [8, 9], 4, 0, None),
    "v100x2": (2, "Tesla V100-SXM2-32GB", 32768, [7, 0], 3, 6, 25781),
    "t4x1": (1, "Tesla T4", 15360, [7, 5], 3, 0, None),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_each_healthy_machine_has_the_numbers_of_its_data_sheet(readings: dict[str, Any], name: str) -> None:
    count, model, mib, capability, generation, links, speed = HEALTHY[name]
    machine = readings[name]
    assert (machine["driver"], machine["cuda"]) == ("580.82.07", [13000, 13000])
    assert (machine["count"], machine["beyond"]) == (count, "NVMLError_InvalidArgument")
    for index, gpu in enumerate(machine["gpus"]):
        assert (gpu["Index"], gpu["Name"], gpu["CudaComputeCapability"]) == (index, model, capability)
        reserved = gpu["MemoryInfo_v2"]["reserved"]
        assert gpu["MemoryInfo"] == {"total": mib * MIB, "free": mib * MIB - reserved, "used": reserved}
        assert gpu["MemoryInfo_v2"] == {**gpu["MemoryInfo"], "used": 0, "reserved": reserved, "version": 0x02000028}
        assert [gpu[f"{bound}PcieLink{kind}"] for bound in ("Curr", "Max") for kind in ("Generation", "Width")] == [
            generation, 16, generation, 16,
        ]  # fmt: skip
        assert gpu["links"] == [1] * links
        expected = [0, links, speed, speed, 1, 0] if links else ["error 3"] * 6
        assert gpu["fields"][1:6] == expected[1:]
        pci = gpu["PciInfo"]
        assert pci["busId"] == f"{pci['domain']:08X}:{pci['bus']:02X}:00.0"
        assert pci["busIdLegacy"] == pci["busId"][4:]
    assert (
        len({gpu["UUID"] for gpu in machine["gpus"]})
        == len({gpu["PciInfo"]["bus"] for gpu in machine["gpus"]})
        == count
    )


def test_what_a_generation_lacks_is_not_supported(readings: dict[str, Any]) -> None:
    """Pages were retired before Ampere, rows are remapped since; fabric came with Hopper, MIG with the A100."""
    gpus = {name: readings[name]["gpus"][0] for name in HEALTHY}
    old, none = {"v100x2", "t4x1"}, "NVMLError_NotSupported"
    assert {name for name, gpu in gpus.items() if gpu["RemappedRows"] == none} == old
    assert {name for name, gpu in gpus.items() if gpu["RetiredPages"] == [[], []]} == old
    assert {name for name, gpu in gpus.items() if gpu["RetiredPages"] == [none, none]} == HEALTHY.keys() - old
    assert {name for name, gpu in gpus.items() if gpu["MigMode"] == none} == {*old, "l40sx4"}
    assert {name for name, gpu in gpus.items() if gpu["fabric"] == none} == old
    assert {name: gpu["fabric"]["state"] for name, gpu in gpus.items() if name not in old} == {
        "h100x8": pynvml.NVML_GPU_FABRIC_STATE_COMPLETED,
        "h200x8": pynvml.NVML_GPU_FABRIC_STATE_COMPLETED,
        "a100x8": pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED,
        "l40sx4": pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED,
    }


def test_one_gpu_in_full(readings: dict[str, Any]) -> None:
    """Each struct at its offsets: a field that is read from elsewhere shows here."""
    machine = readings["h100x8"]
    gpu = machine["gpus"][6]
    assert machine["nvml"] == "13.580.82.07"
    assert gpu["PciInfo"] == {
        "busIdLegacy": "0000:CB:00.0", "domain": 0, "bus": 0xCB, "device": 0, "pciDeviceId": 0x233010DE,
        "pciSubSystemId": 0x16C110DE, "busId": "00000000:CB:00.0",
    }  # fmt: skip
    assert gpu["link_remote"]["busId"] == "00000000:05:00.0"
    assert gpu["link_remote"]["pciDeviceId"] == 0x22A310DE
    assert (gpu["link_version"], gpu["link_p2p"]) == (pynvml.NVML_NVLINK_VERSION_4_0, 1)
    assert gpu["BAR1MemoryInfo"] == {"bar1Total": 128 * GIB, "bar1Free": 128 * GIB - 2 * MIB, "bar1Used": 2 * MIB}
    assert gpu["fabric_v3"] == {
        "version": pynvml.nvmlGpuFabricInfo_v3, "clusterUuid": [0] * 16, "status": 0, "cliqueId": 0, "state": 3,
        "healthMask": 0x1AA, "healthSummary": pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_HEALTHY,
    }  # fmt: skip
    assert (gpu["PowerUsage"], gpu["PowerManagementLimitConstraints"]) == (71_000, [200_000, 700_000])
    assert (gpu["Temperature"], gpu["TemperatureV"], gpu["TemperatureThreshold"]) == ([33], [33], [92, 89, 95, 87])
    assert gpu["ClockInfo"] == gpu["MaxClockInfo"] == [1980, 1980, 2619, 1545]
    assert (gpu["Brand"], gpu["Architecture"]) == (pynvml.NVML_BRAND_NVIDIA, pynvml.NVML_DEVICE_ARCH_HOPPER)
    assert (gpu["VbiosVersion"], gpu["Serial"], gpu["MinorNumber"]) == ("96.00.89.00.01", "1654023000006", 6)
    assert gpu["topology"] == [50, 50, 50, 50, 40, 40, 0, 40]
    assert gpu["cpus"] == [*range(56, 112), *range(168, 224)]
    assert gpu["p2p"] == gpu["p2p_nvlink"] == [0] * 8


def process(pid: int, mib: int) -> dict[str, int]:
    """Without MIG both instances are the largest number."""
    numbers = {"pid": pid, "usedGpuMemory": mib * MIB, "gpuInstanceId": 2**32 - 1, "computeInstanceId": 2**32 - 1}
    return {
        f"gpus.2.{version}.0.{key}": value
        for version in ("processes", "processes_v2")
        for key, value in numbers.items()
    }


def memory(index: int, free: int, used: int, reserved: int) -> dict[str, int]:
    """In MiB. The first version counts what the driver reserves as used, the second does not."""
    return {
        f"gpus.{index}.MemoryInfo.free": free * MIB,
        f"gpus.{index}.MemoryInfo.used": (used + reserved) * MIB,
        f"gpus.{index}.MemoryInfo_v2.free": free * MIB,
        f"gpus.{index}.MemoryInfo_v2.used": used * MIB,
    }


def reasons(index: int | str, bits: int, sm: int) -> dict[str, int]:
    return {
        f"gpus.{index}.CurrentClocksThrottleReasons": bits,
        f"gpus.{index}.CurrentClocksEventReasons": bits,
        f"gpus.{index}.ClockInfo.0": sm,
        f"gpus.{index}.ClockInfo.1": sm,
    }


def mig(number: int, instance: int) -> dict[str, Any]:
    values = {
        "name": "NVIDIA H100 80GB HBM3 MIG 3g.40gb", "uuid": f"MIG-5eed0000-0000-5000-0001-{number + 1:012}",
        "memory.total": 40448 * MIB, "memory.free": 40448 * MIB, "memory.used": 0, "instance": instance, "is_mig": 1,
        "parent": 0, "temperature": "NVMLError_NotSupported",
    }  # fmt: skip
    return {f"gpus.0.mig.{number}.{key}": value for key, value in values.items()}


RETIRED = {f"gpus.1.RetiredPages.0.{i}": 0x1000 * (i + 1) for i in range(4)} | {"gpus.1.RetiredPages.1.0": 0x1000}
NONE = "NVMLError_NotSupported"

# All that a faulty machine reads differently from the healthy one that it includes.
FAULTS: dict[str, dict[str, Any]] = {
    "mig-on": {
        "gpus.0.MigMode.0": 1, "gpus.0.MigMode.1": 1, "gpus.0.UtilizationRates": NONE,
        "gpus.0.UtilizationRates.gpu": None, "gpus.0.UtilizationRates.memory": None, **mig(0, 1), **mig(1, 2),
    },
    "ecc-uncorrected": {
        "gpus.3.ecc.0.0": 7, "gpus.3.ecc.0.1": 2**32 + 7, "gpus.3.ecc.1.0": 2, "gpus.3.ecc.1.1": 5,
        "gpus.3.ecc_dram": 2, "gpus.3.fields.6": 2,
    },
    "ecc-off": {
        "gpus.5.EccMode.0": 0, "gpus.5.ecc_dram": NONE, "gpus.5.ecc_sram": NONE,
        **{f"gpus.5.ecc.{kind}.{counter}": NONE for kind in (0, 1) for counter in (0, 1)},
    },
    "row-remap-pending": {
        "gpus.2.RemappedRows.1": 1, "gpus.2.RemappedRows.2": 1,
        "gpus.2.RemappedRows_v2.uncActiveRemaps": 1, "gpus.2.RemappedRows_v2.bPending": 1,
    },
    "row-remap-failed": {
        "gpus.6.RemappedRows.0": 3, "gpus.6.RemappedRows.1": 8, "gpus.6.RemappedRows.3": 1,
        "gpus.6.RemappedRows_v2.corrActiveRemaps": 3, "gpus.6.RemappedRows_v2.uncActiveRemaps": 8,
        "gpus.6.RemappedRows_v2.bfailureOccurred": 1,
    },
    "retired-pages-pending": {
        "gpus.1.RetiredPagesPendingStatus": 1, **RETIRED,
        **{key.replace("Pages", "Pages_v2") + ".address": address for key, address in RETIRED.items()},
        **{f"{key.replace('Pages', 'Pages_v2')}.timestamp": 1700000000000000 + int(key[-1]) for key in RETIRED},
    },
    "thermal-slowdown": {
        **reasons(4, 0x48, 990), "gpus.4.Temperature.0": 89, "gpus.4.TemperatureV.0": 89,
        "gpus.4.thermal_violation.violationTime": 61_000_000_000,
    },
    "hw-slowdown": reasons(4, 0x8, 990),
    "power-brake": reasons("*", 0x88, 345),
    "power-cap": {
        **reasons("*", 0x4, 1620), "gpus.*.PowerUsage": 699_000, "gpus.*.UtilizationRates.gpu": 100,
        "gpus.*.UtilizationRates.memory": 62, "gpus.*.Temperature.0": 66, "gpus.*.TemperatureV.0": 66,
    },
    "idle-clocks": {**reasons("*", 0x1, 210), "gpus.*.CurrPcieLinkGeneration": 1},
    "foreign-process": {
        **process(1, 23456), **memory(2, 81559 - 551 - 23456, 23456, 551), "gpus.2.UtilizationRates.gpu": 97,
    },
    "foreign-process-full": {**process(1, 78000), **memory(2, 81559 - 551 - 78000, 78000, 551)},
    "foreign-process-dead-pid": {**process(4194399, 23456), **memory(2, 81559 - 551 - 23456, 23456, 551)},
    "small-memory-free": memory(0, 3072, 81559 - 551 - 3072, 551),
    "nvlink-down": {
        "gpus.5.links.3": 0, "gpus.5.links.11": 0, "gpus.5.link_recoveries": 2, "gpus.5.fields.3": 0,
        "gpus.5.fields.4": 0,
    },
    "mixed-order": {},
    "no-bf16": {},
    "pcie-width": {"gpus.7.CurrPcieLinkWidth": 8, "gpus.7.PcieReplayCounter": 1732},
    "recovery-action-reset": {"gpus.1.fields.0": pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET},
    "recovery-action-drain": {"gpus.1.fields.0": pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET},
    "driver-too-old": {"driver": "515.65.01", "nvml": "11.515.65.01", "cuda.0": 11070, "cuda.1": 11070},
    "compute-mode-exclusive": {"gpus.0.ComputeMode": pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS},
    "compute-mode-prohibited": {"gpus.0.ComputeMode": pynvml.NVML_COMPUTEMODE_PROHIBITED},
    "persistence-off": {"gpus.*.PersistenceMode": 0},
    "fabric-not-ready": {
        **{f"gpus.*.{info}.state": 2 for info in ("fabric", "fabric_v2", "fabric_v3")},
        "gpus.*.fabric_v2.healthMask": 0, "gpus.*.fabric_v3.healthMask": 0, "gpus.*.fabric_v3.healthSummary": 0,
    },
    "p2p-asymmetric": {"gpus.2.p2p.6": pynvml.NVML_P2P_STATUS_NOT_SUPPORTED},
    "mixed-models": {
        "gpus.7.Name": "NVIDIA A100-SXM4-80GB", "gpus.7.VbiosVersion": "92.00.A0.00.05",
        "gpus.7.PciInfo.pciDeviceId": 0x20B210DE, "gpus.7.PciInfo.pciSubSystemId": 0x146310DE,
        "gpus.7.MemoryInfo.total": 80 * GIB, "gpus.7.MemoryInfo.free": 80 * GIB - 606 * MIB,
        "gpus.7.MemoryInfo.used": 606 * MIB, "gpus.7.MemoryInfo_v2.total": 80 * GIB,
        "gpus.7.MemoryInfo_v2.free": 80 * GIB - 606 * MIB, "gpus.7.MemoryInfo_v2.reserved": 606 * MIB,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_all_that_differs_from_the_healthy_machine(readings: dict[str, Any], name: str) -> None:
    base = base_of(name)
    assert base is not None
    assert difference(readings[base], readings[name]) == FAULTS[name]


INIT_ERRORS = {
    "driver-not-loaded": "NVMLError_DriverNotLoaded",
    "library-mismatch": "NVMLError_LibRmVersionMismatch",
    "no-permission": "NVMLError_NoPermission",
}


@pytest.mark.parametrize("name", INIT_ERRORS)
def test_nvml_that_cannot_start_says_why_and_still_names_its_version(readings: dict[str, Any], name: str) -> None:
    assert readings[name]["init"] == INIT_ERRORS[name]
    assert readings[name]["nvml"] == ("13.580.95.05" if name == "library-mismatch" else "13.580.82.07")


MIG_ON = ["mig-slices", "mig-slice-small", "mig-no-slice", "mig-beside-whole"]


def test_links_that_are_down_on_every_gpu(readings: dict[str, Any]) -> None:
    up = [sum(link == 1 for link in gpu["links"]) for gpu in readings["nvlink-down-on-all"]["gpus"]]
    assert up == [13] * 8


def test_every_scenario_is_tested_here() -> None:
    elsewhere = {"gpus-missing", "gpu-lost", "gpu-lost-mid-query", "changing-values", "process-ends", *MIG_ON}
    elsewhere |= {"nvlink-down-on-all"}
    assert {*HEALTHY, *FAULTS, *INIT_ERRORS, *BY_THEMSELVES, *elsewhere} == set(fake_nvml.names())


def test_gpus_after_a_missing_one_move_up(readings: dict[str, Any]) -> None:
    machine, whole = readings["gpus-missing"], readings["h100x8"]
    assert machine["count"] == 7
    assert [gpu["Index"] for gpu in machine["gpus"]] == list(range(7))
    buses = [gpu["PciInfo"]["bus"] for gpu in whole["gpus"]]
    assert [gpu["PciInfo"]["bus"] for gpu in machine["gpus"]] == buses[:4] + buses[5:]


def test_a_lost_gpu_answers_until_it_is_lost_and_the_others_go_on(readings: dict[str, Any]) -> None:
    lost, whole = readings["gpu-lost-mid-query"]["gpus"], readings["h100x8"]["gpus"]
    assert lost[3]["Name"] == whole[3]["Name"]
    assert lost[3]["MemoryInfo"] == whole[3]["MemoryInfo"]
    gone = "NVMLError_GpuIsLost"
    assert (lost[3]["Temperature"], lost[3]["PowerUsage"], lost[3]["processes"]) == ([gone], gone, gone)
    others = [index for index in range(8) if index != 3]
    assert [flat(lost[index]) for index in others] == [flat(whole[index]) for index in others]


def test_a_gpu_is_lost_after_a_number_of_calls(child: Callable[..., Any]) -> None:
    """The call that gives the handle is the first."""
    code = (
        "for _ in range(4):\n"
        "    try: print(nvmlDeviceGetComputeMode(gpu))\n"
        "    except NVMLError_GpuIsLost: print(-1)\n"
        "try: nvmlDeviceGetHandleByIndex(0)\n"
        "except NVMLError_GpuIsLost: print(-2)\n"
        "print(nvmlDeviceGetComputeMode(nvmlDeviceGetHandleByIndex(1)))\n"
    )
    assert child(code, "v100x2", {"gpu.0.lost.after": 3}) == [0, 0, -1, -1, -2, 0]


def test_every_error_of_nvml_comes_as_its_class(child: Callable[..., Any]) -> None:
    codes = sorted(pynvml.NVMLError._valClassMapping)
    code = (
        f"for code in {codes}:\n"
        "    try: nvmlDeviceGetEccMode(gpu)\n"
        "    except NVMLError as error:\n"
        "        assert type(error) is nvmlExceptionClass(code), (error, code)\n"
        "        assert (nvmlErrorString(code) == 'Unknown Error') == (code == NVML_ERROR_UNKNOWN), code\n"
        "    else: raise SystemExit(f'no error {code}')\n"
        "print(nvmlDeviceGetEccMode(nvmlDeviceGetHandleByIndex(1)))\n"
    )
    errors = ", ".join(map(str, codes))
    assert child(code, "v100x2", {"gpu.0.error.nvmlDeviceGetEccMode": errors}) == [[1, 1]]


def test_an_error_of_a_function_is_every_gpus_unless_one_has_its_own(child: Callable[..., Any]) -> None:
    code = (
        "for index in range(2):\n"
        "    try: nvmlDeviceGetEccMode(nvmlDeviceGetHandleByIndex(index))\n"
        "    except NVMLError as error: print(error.value)\n"
    )
    overrides = {"error.nvmlDeviceGetEccMode": 3, "gpu.1.error.nvmlDeviceGetEccMode": 4}
    assert child(code, "v100x2", overrides) == [3, 4]


def test_an_old_driver_lacks_functions_and_gives_the_rest(cache: Path, readings: dict[str, Any]) -> None:
    variables = fake_nvml.environment(cache, "old-driver-missing-functions")
    machine = json.loads(command(HERE / "reader.py", variables["FAKE_NVML_SCENARIO"], **variables).out)
    changed = difference(readings["a100x8"], machine)
    absent = {key for key, value in changed.items() if value == "NVMLError_FunctionNotFound"}
    assert absent == {
        f"gpus.*.{name}"
        for name in (
            "CurrentClocksEventReasons", "SupportedClocksEventReasons", "MemoryInfo_v2", "NumaNodeId",
            "RemappedRows_v2", "TemperatureV.0", "fabric", "fabric_v2", "fabric_v3",
        )
    }  # fmt: skip
    # pynvml turns a missing _v3 into an exception that is no NVMLError.
    assert changed["gpus.*.processes"] == "NVMLLibraryMismatchError"
    assert not issubclass(pynvml.NVMLLibraryMismatchError, pynvml.NVMLError)
    assert changed["gpus.*.fields.0"] == "error 3"
    assert machine["gpus"][0]["processes_v2"] == []
    assert machine["gpus"][0]["CurrentClocksThrottleReasons"] == 0


def test_a_slow_answer_takes_its_time(child: Callable[..., Any]) -> None:
    code = (
        "import time\n"
        "def seconds(call, index):\n"
        "    gpu = nvmlDeviceGetHandleByIndex(index)\n"
        "    start = time.monotonic()\n"
        "    call(gpu)\n"
        "    print(time.monotonic() - start)\n"
        "seconds(nvmlDeviceGetPowerUsage, 3)\n"
        "seconds(nvmlDeviceGetName, 0)\n"
        "seconds(nvmlDeviceGetName, 1)\n"
        "seconds(nvmlDeviceGetUUID, 0)\n"
    )
    power, slow_name, name, other = child(code, "slow-answers")
    assert power >= 0.2
    assert slow_name >= 0.4
    assert max(name, other) < 0.4  # which no answer that is late by mistake can be


def test_a_call_that_blocks_holds_no_other_and_outlasts_signals(cache: Path) -> None:
    code = (
        START + "import signal, threading\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "hangs = [nvmlDeviceGetHandleByIndex(1)]\n"
        "threading.Thread(target=nvmlDeviceGetUtilizationRates, args=hangs, daemon=True).start()\n"
        "print(nvmlDeviceGetUtilizationRates(gpu).gpu, flush=True)\n"
        "nvmlDeviceGetUtilizationRates(*hangs)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **fake_nvml.environment(cache, "blocks-for-ever")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        time.sleep(0.2)
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
    finally:
        process.kill()
        process.communicate()


def test_a_list_of_values_goes_on_with_each_question(child: Callable[..., Any]) -> None:
    """The last value stays, unless dots say to begin again."""
    code = (
        "print([nvmlDeviceGetUtilizationRates(gpu).gpu for _ in range(5)])\n"
        "nvmlShutdown(); nvmlInit()\n"
        "print([nvmlDeviceGetTemperature(gpu, 0) for _ in range(5)])\n"
        "print([nvmlDeviceGetMemoryInfo(gpu).free >> 20 for _ in range(3)])\n"
    )
    assert child(code, "changing-values") == [
        [0, 99, 97, 0, 99],
        [45, 60, 71, 71, 71],
        [14910, 14910 - 9 * 1024, 14910 - 12 * 1024],
    ]


def test_each_gpu_walks_through_a_list_by_itself(child: Callable[..., Any]) -> None:
    code = (
        "other = nvmlDeviceGetHandleByIndex(1)\n"
        "print([nvmlDeviceGetTemperature(one, 0) for one in (gpu, gpu, other, gpu, other)])\n"
    )
    assert child(code, "v100x2", {"gpu.*.temperature": "1, 2, 3"}) == [[1, 2, 1, 3, 2]]


def test_processes_come_and_go(child: Callable[..., Any]) -> None:
    """pynvml asks twice for each list, for its length and for its entries; that is one question."""
    code = "for _ in range(3): print([[p.pid, p.usedGpuMemory] for p in nvmlDeviceGetComputeRunningProcesses(gpu)])\n"
    assert child(code, "process-ends") == [[[1, GIB]], [], []]


def test_processes_have_names_unless_they_are_dead(child: Callable[..., Any]) -> None:
    code = (
        "import json, os\n"
        "found = nvmlDeviceGetComputeRunningProcesses_v3(gpu)\n"
        "print(json.dumps([[p.pid == os.getpid(), p.usedGpuMemory] for p in found]))\n"
        "for one in found:\n"
        "    try: print(json.dumps(nvmlSystemGetProcessName(one.pid)))\n"
        "    except NVMLError_NotFound: print(json.dumps(None))\n"
        "print([p.pid for p in nvmlDeviceGetGraphicsRunningProcesses(gpu)])\n"
    )
    overrides: dict[str, object] = {
        "gpu.0.process.0": "self 2 GiB python train.py",
        "gpu.0.process.1": "4194399 8589934593",
        "gpu.0.process.2": "77 unknown a container's",
        "gpu.0.graphics.0": "1234 10 MiB Xorg",
    }
    owners, *names, graphics = child(code, "t4x1", overrides)
    assert owners == [[True, 2 * GIB], [False, 8 * GIB + 1], [False, None]]  # unknown is None in pynvml
    assert names == ["python train.py", None, "a container's"]
    assert graphics == [1234]


def test_handles_are_found_by_uuid_and_by_bus(child: Callable[..., Any]) -> None:
    code = (
        "import json\n"
        "for call, name in (\n"
        "    (nvmlDeviceGetHandleByUUID, nvmlDeviceGetUUID(nvmlDeviceGetHandleByIndex(1))),\n"
        "    (nvmlDeviceGetHandleByPciBusId, '00000000:8A:00.0'),\n"
        "    (nvmlDeviceGetHandleByPciBusId, '0000:8a:00.0'),\n"
        "    (nvmlDeviceGetHandleByUUID, 'GPU-none'),\n"
        "    (nvmlDeviceGetHandleByPciBusId, '0000:8b:00.0'),\n"
        "):\n"
        "    try: print(nvmlDeviceGetIndex(call(name)))\n"
        "    except NVMLError as error: print(error.value)\n"
    )
    assert child(code, "v100x2") == [1, 1, 1, 6, 6]


def test_questions_without_a_start_or_with_a_wrong_version_are_refused(child: Callable[..., Any]) -> None:
    code = (
        "def error(call, *arguments):\n"
        "    try: call(*arguments)\n"
        "    except NVMLError as error: print(error.value)\n"
        "error(nvmlDeviceGetMemoryInfo, gpu, 0x01000028)\n"
        "info = c_nvmlGpuFabricInfo_v3_t(); info.version = 0x04000028\n"
        "error(nvmlDeviceGetGpuFabricInfoV, gpu, byref(info))\n"
        "error(nvmlDeviceGetEccMode, None)\n"
        "nvmlInit(); nvmlShutdown(); print(nvmlDeviceGetCount())\n"
        "nvmlShutdown()\n"
        "error(nvmlDeviceGetCount); error(nvmlDeviceGetEccMode, gpu); error(nvmlShutdown)\n"
    )
    assert child(code, "h100x8") == [25, 25, 2, 8, 1, 1, 1]


def test_threads_share_the_lists(child: Callable[..., Any]) -> None:
    """Two threads that ask at once never see a value twice, nor miss one."""
    code = (
        "import threading\n"
        "seen = []\n"
        "def ask():\n"
        "    for _ in range(50):\n"
        "        nvmlInit(); seen.append(nvmlDeviceGetTemperature(gpu, 0)); nvmlShutdown()\n"
        "threads = [threading.Thread(target=ask) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "print(sorted(seen))\n"
    )
    values = list(range(200))
    assert child(code, "t4x1", {"gpu.0.temperature": ", ".join(map(str, values))}) == [values]


STRUCTS = {
    "nvmlMemory_t": pynvml.c_nvmlMemory_t,
    "nvmlMemory_v2_t": pynvml.c_nvmlMemory_v2_t,
    "nvmlBAR1Memory_t": pynvml.c_nvmlBAR1Memory_t,
    "nvmlUtilization_t": pynvml.c_nvmlUtilization_t,
    "nvmlPciInfo_v2_t": pynvml.nvmlPciInfo_v2_t,
    "nvmlPciInfo_t": pynvml.nvmlPciInfo_t,
    "nvmlProcessInfo_v2_t": pynvml.c_nvmlProcessInfo_v3_t,
    "nvmlViolationTime_t": pynvml.c_nvmlViolationTime_t,
    "nvmlValue_t": pynvml.c_nvmlValue_t,
    "nvmlFieldValue_t": pynvml.c_nvmlFieldValue_t,
    "nvmlTemperature_v1_t": pynvml.c_nvmlTemperature_v1_t,
    "nvmlRemappedRowsInfo_v2_t": pynvml.c_nvmlRemappedRowsInfo_v2_t,
    "nvmlGpuFabricInfo_t": pynvml.c_nvmlGpuFabricInfo_t,
    "nvmlGpuFabricInfo_v2_t": pynvml.c_nvmlGpuFabricInfo_v2_t,
    "nvmlGpuFabricInfo_v3_t": pynvml.c_nvmlGpuFabricInfo_v3_t,
}


def test_structs_are_as_large_as_pynvmls(cache: Path) -> None:
    size = ctypes.CDLL(str(fake_nvml.library(cache))).fake_nvml_sizeof
    assert {name: size(name.encode()) for name in STRUCTS} == {
        name: ctypes.sizeof(kind) for name, kind in STRUCTS.items()
    }
    assert size(b"nvmlNothing_t") == 0


def test_no_answer_is_written_beyond_its_struct(child: Callable[..., Any]) -> None:
    """Each function fills a buffer of its struct's size; the bytes after it keep their value."""
    code = (
        "import ctypes, pynvml\n"
        "calls = [\n"
        "    ('MemoryInfo', (), 24, 0), ('MemoryInfo_v2', (), 40, nvmlMemory_v2), ('BAR1MemoryInfo', (), 24, 0),\n"
        "    ('UtilizationRates', (), 8, 0), ('PciInfo', (), 52, 0), ('PciInfo_v2', (), 52, 0),\n"
        "    ('PciInfo_v3', (), 68, 0), ('ViolationStatus', (1,), 16, 0), ('RemappedRows_v2', (), 24, 0),\n"
        "    ('TemperatureV', (), 12, nvmlTemperature_v1), ('GpuFabricInfo', (), 28, 0),\n"
        "    ('GpuFabricInfoV', (), 36, nvmlGpuFabricInfo_v2), ('GpuFabricInfoV', (), 40, nvmlGpuFabricInfo_v3),\n"
        "    ('NvLinkRemotePciInfo', (0,), 52, 0), ('NvLinkRemotePciInfo_v2', (0,), 68, 0),\n"
        "    ('TotalEccErrors', (0, 0), 8, 0), ('CurrentClocksThrottleReasons', (), 8, 0), ('PowerUsage', (), 4, 0),\n"
        "    ('ComputeMode', (), 4, 0), ('CpuAffinity', (4,), 32, 0),\n"
        "]\n"
        "for name, arguments, size, version in calls:\n"
        "    room = (ctypes.c_ubyte * 128)(*[0xA5] * 128)\n"
        "    if version: (ctypes.c_uint * 2).from_buffer(room)[:] = [version, 0]\n"  # 0: the sensor
        "    before = bytes(room)\n"
        "    error = getattr(pynvml.nvmlLib, f'nvmlDeviceGet{name}')(gpu, *arguments, room)\n"
        "    assert not error, (name, error)\n"
        "    assert bytes(room[size:]) == before[size:], name\n"
        "    assert bytes(room[size - 4:size]) != b'\\xa5' * 4, name\n"
        "    print(size)\n"
    )
    assert len(child(code, "h100x8")) == 20


def test_the_oldest_process_struct_has_16_bytes(child: Callable[..., Any]) -> None:
    code = (
        "import ctypes, pynvml\n"
        "count, room = ctypes.c_uint(2), (ctypes.c_ulonglong * 5)(*[7] * 5)\n"
        "assert pynvml.nvmlLib.nvmlDeviceGetComputeRunningProcesses(gpu, ctypes.byref(count), room) == 0\n"
        "print([count.value, room[0] & 0xFFFFFFFF, room[1], room[2] & 0xFFFFFFFF, room[3], room[4]])\n"
    )
    overrides: dict[str, object] = {"gpu.0.process.0": "11 1 KiB a", "gpu.0.process.1": "22 2 KiB b"}
    assert child(code, "t4x1", overrides) == [[2, 11, 1024, 22, 2048, 7]]


MISTAKES = {
    "gpus = 1\ngpu.*.nam = x\n": "unknown key: gpu.*.nam",
    "gpus = 1\ngpu.1.name = x\n": "gpu.1.name, but there are 1",
    "gpus = 1\ngpu.0.temperature = hot\n": "no such value: gpu.0.temperature",
    "gpus = 1\ngpu.0.temperature = 1, 2,\n": "no such value",
    "gpus = 1\ngpu.0.cpus = 0-3x\n": "no such value",
    "gpus = 1\ngpu.0.process.0 = 17\n": "no such value",
    "gpus = 1\nerror.nvmlDeviceGetNam = 3\n": "unknown key: error.nvmlDeviceGetNam",
    "gpus = 1\nmissing = nvmlDeviceGetNam\n": "nvmlDeviceGetNam",
    "gpus = 1\nhello\n": ":2: neither",
    "driver = 1\n": "`gpus` must be given",
    "gpus = 17\n": "at most 16",
    "include none.scenario\n": "none.scenario: cannot be read",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_scenario_is_told_by_the_loader_and_by_nvml(cache: Path, text: str) -> None:
    with pytest.raises(FakeNvmlError, match=re.escape(MISTAKES[text])):
        fake_nvml.environment(cache, text)


def test_a_mistake_that_the_loader_did_not_see_stops_nvml(cache: Path, tmp_path: Path) -> None:
    variables = fake_nvml.environment(cache, "t4x1")
    file = tmp_path / "typed.scenario"
    for text, message in (
        ("gpus = 1\ngpu.0.nam = x\n", "unknown key"),
        ("gpus = 1\nmissing = nvmlInit\n", "built with it"),
    ):
        file.write_text(text)
        done = command("-c", "import pynvml; pynvml.nvmlInit()", **{**variables, "FAKE_NVML_SCENARIO": str(file)})
        assert done.code == 1
        assert "fake NVML: " in done.err
        assert message in done.err
        assert "NVMLError_Unknown" in done.err


def test_an_unknown_name_lists_the_scenarios(cache: Path) -> None:
    with pytest.raises(FakeNvmlError, match=r"no scenario 'h100'; there are a100x8, blocks-for-ever"):
        fake_nvml.environment(cache, "h100")


def test_the_process_that_builds_it_does_not_use_it(cache: Path) -> None:
    """The loader asks the library about a scenario: NVML in this process stays what it was."""
    fake_nvml.environment(cache, "t4x1")
    try:
        own = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return
    assert not hasattr(own, "fake_nvml_read")


def test_without_a_compiler_the_loader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(FakeNvmlError, match="needs a C compiler: install gcc"):
        fake_nvml.environment(tmp_path / "cache", "t4x1")


def test_two_may_build_at_a_time(tmp_path: Path) -> None:
    threads = [threading.Thread(target=fake_nvml.library, args=(tmp_path,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    built = list(tmp_path.iterdir())
    assert [path.name for folder in built for path in folder.iterdir()] == [fake_nvml.LIBRARY]
    first = fake_nvml.library(tmp_path).stat().st_mtime_ns
    assert fake_nvml.library(tmp_path).stat().st_mtime_ns == first  # and nobody builds it again


def test_the_c_sources_compile_without_a_warning() -> None:
    compiler = shutil.which("cc")
    assert compiler
    flags = [*fake_nvml.FLAGS, "-Werror", "-fsyntax-only"]
    done = subprocess.run([compiler, *flags, *HERE.glob("*.c")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_has_every_key_and_every_scenario() -> None:
    readme = (HERE / "README.md").read_text()
    keys = set(re.findall(r'^    \{"([^"]+)", [A-Z]+\},$', (HERE / "scenario.c").read_text(), re.MULTILINE))
    told = set(re.findall(r"`([^`\n]+)`", readme))
    assert len(keys) > 100
    assert keys - told == set()
    assert set(fake_nvml.names()) - told == set()


DISCOVER = """
import json, os, sys
from launch.machine import discover
from launch.errors import DeviceError
from launch.spec import ClusterSpec
for name, file in json.loads(os.environ["FILES"]).items():
    sys.stdout.flush()
    if os.fork():
        os.wait()
        continue
    os.environ["FAKE_NVML_SCENARIO"] = file
    gpus = [[g.index, g.name, g.memory_bytes, g.free_bytes, *g.capability] for g in discover.gpus()]
    try:
        topology = discover.topology(ClusterSpec(device="gpu")).model_dump()
    except DeviceError as error:
        topology = str(error)
    print(json.dumps([name, gpus, topology]), flush=True)
    os._exit(0)
"""


def batch(code: str, cache: Path, names: list[str]) -> Finished:
    environments = {name: fake_nvml.environment(cache, name) for name in names}
    files = {name: variables["FAKE_NVML_SCENARIO"] for name, variables in environments.items()}
    return command("-c", code, FILES=json.dumps(files), **environments[names[0]])


def test_muster_discovers_the_gpus_of_each_machine(cache: Path) -> None:
    names = [*HEALTHY, "gpus-missing", "driver-not-loaded", "small-memory-free"]
    done = batch(DISCOVER, cache, names)
    assert done.code == 0, done.err
    found = {name: (gpus, topology) for name, gpus, topology in map(json.loads, done.out.splitlines())}
    for name, (count, model, mib, capability, *_) in HEALTHY.items():
        gpus, topology = found[name]
        assert [gpu[:3] + gpu[4:] for gpu in gpus] == [[i, model, mib * MIB, *capability] for i in range(count)]
        assert (topology["devices_per_node"], topology["device_name"]) == (count, model)
        assert (topology["memory_bytes"], topology["bf16"]) == (mib * MIB, capability >= [8, 0])
        assert topology["rates"] is not None  # its name is recognised as one of the catalogue
    assert len(found["gpus-missing"][0]) == 7
    assert found["small-memory-free"][0][0][3] == 3 * GIB
    assert found["driver-not-loaded"][0] == []
    assert "0 GPUs that can be used" in found["driver-not-loaded"][1]


# As the library numbers them.
GPU, SLICE = "GPU-5eed0000-0000-4000-8000-00000000000", "MIG-5eed0000-0000-5000-0001-00000000000"


def test_muster_plans_with_the_memory_of_a_slice_or_says_why_it_cannot(cache: Path) -> None:
    done = batch(DISCOVER, cache, [*MIG_ON, "mig-on"])
    assert done.code == 0, done.err
    found = {name: (gpus, topology) for name, gpus, topology in map(json.loads, done.out.splitlines())}
    _, two = found["mig-slices"]
    name = "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    assert (two["devices_per_node"], two["device_name"], two["memory_bytes"]) == (1, name, 40448 * MIB)
    assert (two["bf16"], two["rates"]) == (True, None)  # the catalogue has whole GPUs
    assert found["mig-slice-small"][1]["memory_bytes"] == 9856 * MIB
    assert found["mig-no-slice"][0] == []
    assert found["mig-no-slice"][1].startswith(
        "MIG is on for GPU 0, 1, 2, 3, 4, 5, 6, 7 of this machine, and no slice has been made of it; make one"
    )
    assert found["mig-beside-whole"][1].startswith("GPU 7 of this machine is divided (MIG), GPU 0, 1, 2, 3, 4, 5, 6 is")
    assert found["mig-on"][1] == (
        "GPU 0 of this machine is divided (MIG), GPU 1, 2, 3, 4, 5, 6, 7 is not, and a process sees one slice or whole"
        " GPUs; name those to train on by their UUIDs (nvidia-smi -L): CUDA_VISIBLE_DEVICES=GPU-...,GPU-... or"
        " CUDA_VISIBLE_DEVICES=MIG-..."
    )


@pytest.mark.parametrize(
    ("devices", "asked", "told"),
    [
        (f"{SLICE}2", "1", [[0, 40448]]),
        (f"{GPU}2,{GPU}3", "2", [[1, 81559], [2, 81559]]),
        (f"{SLICE}1", "2", "ask for 1, or turn MIG off: nvidia-smi -mig 0"),
    ],
)  # fmt: skip
def test_gpus_and_slices_by_their_uuids(cache: Path, devices: str, asked: str, told: Any) -> None:
    code = (
        "import json, sys\n"
        "from launch.machine import discover\n"
        "from launch.errors import DeviceError\n"
        "from launch.spec import ClusterSpec\n"
        "try:\n"
        "    discover.topology(ClusterSpec(device='gpu', devices_per_node=int(sys.argv[1])))\n"
        "    print(json.dumps([[g.index, g.memory_bytes >> 20] for g in discover.gpus()]))\n"
        "except DeviceError as error:\n"
        "    print(json.dumps(str(error).partition('; ')[2]))\n"
    )
    variables = fake_nvml.environment(cache, "mig-on")
    done = command("-c", code, asked, CUDA_VISIBLE_DEVICES=devices, **variables)
    assert done.code == 0, done.err
    assert json.loads(done.out) == told
