"""docs/preflight.md, made from the checks and from what their simulated machines are expected to show.

python -m launch.preflight.reference > docs/preflight.md
"""

from collections.abc import Mapping

from launch.preflight.check import Check
from launch.preflight.registry import LISTED
from launch.preflight.result import Status
from launch.preflight.selftest.faults import FAULTS
from launch.preflight.selftest.machines import MACHINES, NO_DRIVER

HEAD = """\
# Preflight

`muster preflight SPEC` answers before anything is spent: can exactly this run work here? `muster run` asks the same,
and a check that fails stops it with exit code 3. What could not be read is `unknown` and never passes; what does not
concern the run is `skipped` with the reason. Each check runs in a process of its own with a deadline of its own: a
mount or a driver that hangs costs one answer and holds up none of the others. Rows are read beside them,
however long that takes.

    muster preflight SPEC --accept CHECK   # go on although this check fails, as preflight.accept in the spec
    muster preflight SPEC --json           # {status, verdict, checks: [{name, family, status, evidence, fix, ...}]}
    muster preflight SPEC --html FILE      # the same as a page that needs nothing else
    muster preflight --list                # the table below
    muster preflight --selftest            # the checks on simulated machines, healthy and faulty

GPUs are those that `CUDA_VISIBLE_DEVICES` lets a process use, counted as nvidia-smi counts them: by PCI bus. CUDA
counts the fastest first; workers are started with `CUDA_DEVICE_ORDER=PCI_BUS_ID` unless it is set. Of a GPU that is
divided (MIG) a process sees one slice, and never others or whole GPUs beside it: a run is planned for that slice's
memory, and slices cannot train together.

A run on several nodes meets before it loads a model: each node's packages, driver, GPUs and limits are compared and the
odd one is named, clocks and the run directory are looked at, and the real group adds up a tensor against the clock.

Thresholds are keys of the spec's `preflight` section ([spec.md](spec.md)). Written by `python -m
launch.preflight.reference`.
"""

MACHINES_HEAD = """
## Seen to fail

`muster preflight --selftest` tries the checks on machines with one thing wrong. They must find it, and nothing else; on
healthy machines nothing at all. `causality` alone is not among them: it needs a loaded model (`tests/training`).

GPUs are a library with the driver's own binary interface (`tests/fake_nvml`; it needs a C compiler). On the machines
without a driver that answers, every check of GPUs is unknown beside `driver`.

| GPUs | found |
| --- | --- |
"""
FAULTS_HEAD = """
All else is one simulated node of two, with two GPUs each, and the Slurm around it. It has packages, files, variables
and limits of its own; `/dev/shm`, `/sys/class`, the kernel's log, the free memory and the host name are mounts and a
name that the kernel shows to one process alone. Where it permits no namespaces (`unshare -Urm`) these faults are not
tried, and `--selftest` says so.

| node, site, neighbours | found |
| --- | --- |
"""


def reference() -> str:
    families = list(dict.fromkeys(check.family for check in LISTED))
    tables = "".join(_family(family) for family in families)
    machines = "".join(_row_of(name, _of_driver(machine.found)) for name, machine in MACHINES.items())
    faults = "".join(_row_of(name, fault.found) for name, fault in FAULTS.items())
    return HEAD + tables + MACHINES_HEAD + machines + FAULTS_HEAD + faults


def _family(family: str) -> str:
    rows = "".join(_row(check) for check in LISTED if check.family == family)
    return f"\n## {family}\n\n| check | finds | threshold |\n| --- | --- | --- |\n{rows}"


def _row(check: Check) -> str:
    return f"| `{check.name}` | {check.finds} | {check.threshold} |\n"


def _of_driver(found: Mapping[str, Status]) -> Mapping[str, Status]:
    return {"driver": found["driver"]} if dict(found) == NO_DRIVER else found


def _row_of(name: str, found: Mapping[str, Status]) -> str:
    same: dict[Status, list[str]] = {}
    for check, status in found.items():
        same.setdefault(status, []).append(f"`{check}`")
    told = "; ".join(f"{status}: {', '.join(checks)}" for status, checks in same.items())
    return f"| {name} | {told or 'nothing'} |\n"


if __name__ == "__main__":
    print(reference(), end="")
