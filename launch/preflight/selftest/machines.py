"""Simulated GPUs, healthy and with one fault each, and the checks that must find it.

They are scenarios of tests/fake_nvml, a library with NVML's binary interface, which the real nvidia-ml-py loads.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from launch.machine.devices import ORDER, VISIBLE
from launch.preflight.registry import CHECKS
from launch.preflight.result import Status

H100, H200, A100, L40S, V100, T4 = (
    "8xH100-80GB", "8xH200-141GB", "8xA100-40GB", "4xL40S-48GB", "2xV100-32GB", "1xT4-16GB",
)  # fmt: skip
# Those that ask the driver for what a scenario can change.
ASKED = [check for check in CHECKS if check.family == "gpu" or check.name in ("driver", "precision")]


class Machine(NamedTuple):
    gpus: str
    found: Mapping[str, Status] = MappingProxyType({})
    """Which checks find something, and how bad it is; all others must pass or be skipped."""
    variables: Mapping[str, str] = MappingProxyType({})
    """What the environment says of its GPUs."""


FAIL: Status = "fail"
WARN: Status = "warn"
UNKNOWN: Status = "unknown"
NO_DRIVER: dict[str, Status] = {check.name: UNKNOWN for check in ASKED} | {"driver": FAIL}
MACHINES: dict[str, Machine] = {
    "h100x8": Machine(H100),
    "h200x8": Machine(H200),
    "a100x8": Machine(A100),
    "l40sx4": Machine(L40S),
    "v100x2": Machine(V100),
    "t4x1": Machine(T4),
    "idle-clocks": Machine(A100),
    "power-cap": Machine(H100),
    "mig-slices": Machine("1xH100-80GB", {}, {VISIBLE: "MIG-5eed0000-0000-5000-0001-000000000002"}),
    "ecc-off": Machine(H100),
    "foreign-process-dead-pid": Machine(H100),
    "process-ends": Machine(T4),
    "changing-values": Machine(T4),
    "slow-answers": Machine(L40S),
    "persistence-off": Machine(H100, {"gpu-persistence": WARN}),
    "ecc-uncorrected": Machine(H100, {"gpu-ecc": FAIL}),
    "row-remap-pending": Machine(H100, {"gpu-row-remap": FAIL}),
    "row-remap-failed": Machine(H100, {"gpu-row-remap": FAIL}),
    "retired-pages-pending": Machine(V100, {"gpu-retired-pages": FAIL}),
    "recovery-action-reset": Machine(H100, {"gpu-recovery": FAIL}),
    "recovery-action-drain": Machine(H100, {"gpu-recovery": FAIL}),
    "small-memory-free": Machine(H100, {"gpu-memory": FAIL}),
    "thermal-slowdown": Machine(H100, {"gpu-throttling": FAIL}),
    "hw-slowdown": Machine(H100, {"gpu-throttling": FAIL}),
    "power-brake": Machine(H100, {"gpu-throttling": FAIL}),
    "nvlink-down": Machine(H100, {"gpu-nvlink": FAIL}),
    "nvlink-down-on-all": Machine(H100, {"gpu-nvlink": WARN}),
    "pcie-width": Machine(H100, {"gpu-pcie": FAIL}),
    "p2p-asymmetric": Machine(H100, {"gpu-peers": WARN}),
    "fabric-not-ready": Machine(H100, {"gpu-fabric": FAIL}),
    "mig-on": Machine(H100, {"gpu-mig": FAIL}),
    "mig-beside-whole": Machine("1xH100-80GB", {"gpu-mig": FAIL}),
    "mig-no-slice": Machine("1xH100-80GB", {"gpu-mig": FAIL}),
    "mig-slice-small": Machine("1xH100-80GB", {"gpu-memory": FAIL}),
    "foreign-process": Machine(H100, {"gpu-foreign-processes": WARN}),
    "foreign-process-full": Machine(H100, {"gpu-foreign-processes": WARN, "gpu-memory": FAIL}),
    "compute-mode-exclusive": Machine(H100, {"gpu-compute-mode": WARN}),
    "compute-mode-prohibited": Machine(H100, {"gpu-compute-mode": FAIL}),
    "gpus-missing": Machine(H100, {"gpu-count": FAIL}),
    "mixed-models": Machine(A100, {"gpu-count": WARN}),
    "mixed-order": Machine(A100, {"gpu-count": WARN, "gpu-order": WARN}, {ORDER: "FASTEST_FIRST"}),
    "no-bf16": Machine("2xA100-40GB", {"precision": FAIL}),
    "driver-too-old": Machine(A100, {"driver": FAIL}),
    "old-driver-missing-functions": Machine(A100, {"driver": FAIL, "gpu-fabric": UNKNOWN}),
    "driver-not-loaded": Machine(H100, NO_DRIVER),
    "library-mismatch": Machine(H100, NO_DRIVER),
    "no-permission": Machine(H100, NO_DRIVER),
    "gpu-lost-mid-query": Machine(H100, {"gpu-count": FAIL}),
    "gpu-lost": Machine(H100, {check.name: FAIL for check in ASKED if check.name not in ("driver", "gpu-order")}),
    "blocks-on-ecc": Machine(V100, {"gpu-ecc": UNKNOWN}),
}
