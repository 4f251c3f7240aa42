"""Whether the checks can fail: each against simulated machines with one fault, and against healthy ones.

    muster preflight --selftest

GPUs are tests/fake_nvml, a library with NVML's binary interface, which the real nvidia-ml-py loads (machines.py, tried
by gpus.py). All else is one simulated node (node.py, tried by simulated.py), whose files, limits and host name the
kernel shows to one process alone (namespace.py), with one thing wrong each time (faults.py).
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

from launch.errors import UsageError
from launch.machine.devices import ORDER, VISIBLE
from launch.preflight.result import Result, Status
from launch.preflight.selftest.faults import FAULTS
from launch.preflight.selftest.machines import MACHINES
from launch.preflight.selftest.node import NOT_TRIED

HEALTHY = "h100x8"  # the GPUs of the node whose other parts are tried


class Tried(NamedTuple):
    """What the checks said of one simulated machine, beside what they should."""

    scenario: str
    expected: dict[str, Status]
    results: Sequence[Result] = ()
    not_permitted: str = ""
    """Why this machine does not let it be simulated."""

    @property
    def found(self) -> dict[str, Status]:
        return {r.name: r.status for r in self.results if r.status not in ("pass", "skipped")}

    @property
    def not_tried(self) -> str:
        """Why nothing is known of this one here; empty where something is."""
        beyond = {r.name: f"{r.name}: {r.evidence}" for r in self.results if NOT_TRIED in r.values}
        return self.not_permitted or next((beyond[name] for name in self.expected if name in beyond), "")

    @property
    def right(self) -> bool:
        """Whether each fault was found by the checks that should, and by no other."""
        return self.found == self.expected


def selftest(
    cache: Path, machines: Sequence[str] = tuple(MACHINES), faults: Sequence[str] = tuple(FAULTS)
) -> list[Tried]:
    """What the checks say of every simulated machine and of every fault. Raises UsageError where the simulated driver
    cannot be built."""
    fake, around = _simulated_driver(), {"LD_LIBRARY_PATH": _libraries()}
    try:
        drivers = {name: fake.environment(cache, name, inherited=around) for name in (*machines, HEALTHY)}
    except fake.FakeNvmlError as error:
        raise UsageError(f"--selftest: {error}") from None
    cores = len(os.sched_getaffinity(0))
    # One process a core for the faults, each with its share of them: an import of half a second for all, not for each.
    shares = [faults[start::cores] for start in range(min(cores, len(faults)))]
    with ThreadPoolExecutor(cores) as pool:
        nodes = [pool.submit(_try_faults, cache / f"nodes-{share[0]}", share, drivers[HEALTHY]) for share in shares]
        found = list(pool.map(lambda name: _try_machine(name, drivers[name]), machines))
        of_nodes = {tried.scenario: tried for share in nodes for tried in share.result()}
    return [*found, *(of_nodes[name] for name in faults)]


def _simulated_driver() -> ModuleType:
    """tests/fake_nvml: beside the tests in a clone, inside this package where muster was installed."""
    for name in ("launch.preflight.fake_nvml", "tests.fake_nvml"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise UsageError("--selftest: the simulated driver (tests/fake_nvml) is not part of this installation")


def _libraries() -> str:
    """Where this process's libraries are, but for NVIDIA's compatibility ones, which a check would find on each node:
    its images put them first."""
    places = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    return os.pathsep.join(place for place in places if "compat" not in place)


def _try_machine(name: str, driver: Mapping[str, str]) -> Tried:
    machine = MACHINES[name]
    printed = _child("gpus", [name], {**driver, **machine.variables})
    return Tried(name, dict(machine.found), [Result.model_validate(each) for each in printed])


def _try_faults(folder: Path, names: Sequence[str], driver: Mapping[str, str]) -> list[Tried]:
    printed = _child("simulated", [str(folder), *names], driver)
    return [_tried(name, printed[name]) for name in names]


def _tried(fault: str, told: Sequence[Any] | str) -> Tried:
    """`told`: its results, or why there are none."""
    found = dict(FAULTS[fault].found)
    if isinstance(told, str):
        return Tried(fault, found, not_permitted=told)
    return Tried(fault, found, [Result.model_validate(each) for each in told])


def _child(module: str, arguments: Sequence[str], variables: Mapping[str, str]) -> Any:
    """What a module of this package prints. The driver's library is chosen when a process starts."""
    kept = {name: value for name, value in os.environ.items() if name not in (VISIBLE, ORDER)}
    argv = [sys.executable, "-m", f"{__name__}.{module}", *arguments]
    done = subprocess.run(argv, env={**kept, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"--selftest: {' '.join(arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout)
