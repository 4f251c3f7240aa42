"""Whether the checks can fail: each against simulated machines with one fault, and against healthy ones.

    muster preflight --selftest
    python -m launch.preflight.selftest SCENARIO    one of them, in an environment that has the simulated driver

The machines are tests/fake_nvml, a library with NVML's binary interface, which the real nvidia-ml-py loads.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from launch.devices import ORDER, VISIBLE
from launch.errors import UsageError
from launch.hardware import parse_gpus
from launch.plan import resolve
from launch.preflight.registry import CHECKS
from launch.preflight.result import Context, Result, Status
from launch.preflight.runner import run_checks
from launch.rundir import RunDir
from launch.spec import RunSpec
from launch.variants import VARIANTS

H100, H200, A100, L40S, V100, T4 = (
    "8xH100-80GB", "8xH200-141GB", "8xA100-40GB", "4xL40S-48GB", "2xV100-32GB", "1xT4-16GB",
)  # fmt: skip
# Those that ask the driver for what a scenario can change.
ASKED = [check for check in CHECKS if check.family == "gpu" or check.name in ("driver", "precision")]


class Machine(NamedTuple):
    gpus: str
    found: Mapping[str, Status] = {}
    """Which checks find something, and how bad it is; all others must pass or be skipped."""
    variables: Mapping[str, str] = {}
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


class Tried(NamedTuple):
    scenario: str
    results: list[Result]

    @property
    def found(self) -> dict[str, Status]:
        return {r.name: r.status for r in self.results if r.status not in ("pass", "skipped")}

    @property
    def right(self) -> bool:
        """Whether each fault was found by the checks that should, and by no other."""
        return self.found == MACHINES[self.scenario].found


def selftest(cache: Path, scenarios: Sequence[str] = tuple(MACHINES)) -> list[Tried]:
    """Every simulated machine's results. Raises UsageError where the simulated driver cannot be built."""
    fake = _fake()
    try:
        environments = {name: fake.environment(cache, name) for name in scenarios}
    except fake.FakeNvmlError as error:
        raise UsageError(f"--selftest: {error}") from None
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda name: Tried(name, _in_child(name, environments[name])), scenarios))


def _fake() -> ModuleType:
    """Beside the tests in a clone, inside this package where muster was installed."""
    for name in ("launch.preflight.fake_nvml", "tests.fake_nvml"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise UsageError("--selftest: the simulated driver (tests/fake_nvml) is not part of this installation")


def _in_child(scenario: str, variables: Mapping[str, str]) -> list[Result]:
    """The driver's library is chosen when a process starts."""
    kept = {name: value for name, value in os.environ.items() if name not in (VISIBLE, ORDER)}
    argv = [sys.executable, "-m", "launch.preflight.selftest", scenario]
    done = subprocess.run(
        argv, env={**kept, **variables, **MACHINES[scenario].variables}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UsageError(f"--selftest: {scenario}: {done.stderr.strip()}")
    return [Result.model_validate(each) for each in json.loads(done.stdout)]


def context_for(gpus: str) -> Context:
    """A small QLoRA run on all GPUs of such a machine."""
    model, data = {"variant": "qwen2.5-7b-instruct", "quantization": "nf4"}, {"train": "train.jsonl", "max_length": 512}
    training = {"micro_batch_size": 1}
    spec = RunSpec.model_validate({"name": "selftest", "model": model, "data": data, "training": training})
    plan = resolve(spec, VARIANTS["qwen2.5-7b-instruct"].architecture, parse_gpus(gpus))
    return Context(plan=plan, run=RunDir(Path("selftest")))


def main(scenario: str) -> None:
    results: list[Any] = run_checks(context_for(MACHINES[scenario].gpus), ASKED)
    print(json.dumps([result.model_dump() for result in results]))


if __name__ == "__main__":
    main(sys.argv[1])
