"""Every check on a simulated node that has one fault, as it is run before a job.

    python -m launch.preflight.selftest.simulated FOLDER FAULT...    prints {fault: its results}

Started with the simulated driver of a healthy machine. Each fault has a process of its own, whose mounts, limits and
variables no other one sees.
"""

import json
import os
import random
import resource
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from launch.cluster.job import batch_job
from launch.machine.hardware import CATALOGUE, gpu_topology
from launch.model.variants import VARIANTS
from launch.plan import Plan, resolve
from launch.preflight.fleet import answered, fleet_results, unanswered
from launch.preflight.registry import CHECKS
from launch.preflight.result import Batch, Context, Result
from launch.preflight.rows import rows
from launch.preflight.runner import run_checks
from launch.preflight.selftest import namespace, node
from launch.preflight.selftest.faults import FAULTS
from launch.preflight.selftest.node import Change
from launch.processes import die_with_parent, within
from launch.rundir import RunDir
from launch.spec import RunSpec

M = TypeVar("M", bound=BaseModel)

SECONDS = 300.0  # for a fault
# No fault is one that never answers, and forty checks at once on a busy machine are slow.
PATIENCE = 6
GPU, NODES, GPUS_OF_NODE = "H100-80GB", 2, 2
VARIANT = "qwen2.5-7b-instruct"
SHEBANG = b"#!"
LOCAL = ("127.0.0.1", 0)  # any port


def results(root: Path, change: Change) -> list[Result]:
    """What every check says on the node whose files go into `root`; one that nothing here could satisfy is skipped,
    with NOT_TRIED among its values. Changes this process for good.

    Raises NotPermittedError where this machine does not let it be simulated.
    """
    with socket.create_server(LOCAL) as taken:
        with socket.create_server(LOCAL) as freed:
            free = freed.getsockname()[1]
        words = {
            "root": root, "port": taken.getsockname()[1], "free": free,
            "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
            "now": time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000,
        }  # fmt: skip
        fill = partial(_filled, words=words)
        beyond = _set_limits({**node.LIMITS, **change.limits})
        _build(root, {**node.FILES, **change.files}, {**node.SIZES, **change.sizes}, fill)
        _set_variables({**node.VARIABLES, **change.variables}, fill)
        sys.path.insert(0, str(root / "packages"))
        sys.prefix = str(root / "environment")  # the job's, where slurm.venv names no other
        spec = RunSpec.model_validate(_nested({**node.SPEC, **change.spec}, fill))
        found = _look_at_all(spec, RunDir(root / "runs/selftest"), change)
        return [_not_tried(result, beyond[result.name]) if result.name in beyond else result for result in found]


def _filled(value: Any, words: Mapping[str, object]) -> Any:
    """A text with what stands in braces replaced; anything else as it is."""
    if isinstance(value, str):
        for name, word in words.items():
            value = value.replace(f"{{{name}}}", str(word))
    return value


def _set_limits(limits: Mapping[str, int]) -> dict[str, str]:
    """Sets them; by check, those that this process may not have."""
    beyond: dict[str, str] = {}
    cores = sorted(os.sched_getaffinity(0))
    # Any of them: nodes that are tried beside one another would wait for the same ones.
    os.sched_setaffinity(0, random.sample(cores, min(limits["cores"], len(cores))))
    if len(cores) < node.LIMITS["cores"]:
        beyond["cores"] = "this machine has one core"
    for check, name in (("open-files", "RLIMIT_NOFILE"), ("locked-memory", "RLIMIT_MEMLOCK")):
        number, wanted = getattr(resource, name), node.LIMITS[name]
        hard = resource.getrlimit(number)[1]
        try:
            resource.setrlimit(number, (wanted, wanted if wanted == resource.RLIM_INFINITY else hard))
        except (ValueError, OSError):
            beyond[check] = f"the hard limit of this process is {hard:,}, and may not be raised (ulimit -H)"
        else:
            resource.setrlimit(number, (limits[name], resource.getrlimit(number)[1]))
    return beyond


def _not_tried(result: Result, why: str) -> Result:
    return result.model_copy(update={"status": "skipped", "evidence": why, "values": {node.NOT_TRIED: True}})


def _build(root: Path, files: Mapping[str, str | bytes], sizes: Mapping[str, str], fill: Callable[[Any], Any]) -> None:
    """The node's host name, file systems and files, those that lie over the machine's own at their places."""
    _see_that_nothing_is_hidden(root)
    try:
        namespace.enter()
        namespace.name_host(node.NAME)
        for place, options in sizes.items():
            folder = Path(fill(place))
            folder.mkdir(parents=True, exist_ok=True)
            namespace.mount_memory(folder, options)
        _write(root, files, fill)
        namespace.put_over({Path("/", place): root / place for place in node.HIDDEN})
    except OSError as error:
        raise namespace.NotPermittedError(f"this machine does not permit it: {error.strerror}") from None


def _see_that_nothing_is_hidden(root: Path) -> None:
    """Raises NotPermittedError where the node's own mounts would lie over what this process needs."""
    mounts = [Path("/", place) for place in (*node.HIDDEN, *node.SIZES) if not place.startswith("{root}")]
    needed = {
        "TMPDIR": root,
        "Python": Path(sys.base_prefix),
        "its environment": Path(sys.prefix),
        "muster": Path(__file__),
    }
    for what, place in needed.items():
        for mount in mounts:
            if place.resolve().is_relative_to(mount):
                raise namespace.NotPermittedError(f"{what} is in {mount}, of which a simulated node has one of its own")


def _write(root: Path, files: Mapping[str, str | bytes], fill: Callable[[Any], Any]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else fill(content).encode())
        if path.read_bytes().startswith(SHEBANG):
            path.chmod(0o755)


def _set_variables(variables: Mapping[str, str | None], fill: Callable[[Any], Any]) -> None:
    for name in [name for name in os.environ if name.startswith(node.CLEARED)]:
        del os.environ[name]
    os.environ.update({name: fill(value) for name, value in variables.items() if value is not None})


def _nested(values: Mapping[str, Any], fill: Callable[[Any], Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        section = found
        for name in sections:
            section = section.setdefault(name, {})
        filled = fill(value)
        is_port = filled != value and filled.isdecimal()  # {port} and {free}: texts here, numbers in a spec
        section[last] = int(filled) if is_port else filled
    return found


def _look_at_all(spec: RunSpec, run: RunDir, change: Change) -> list[Result]:
    """All that `muster submit` and the nodes of its job look at, and the rows."""
    plan = _plan(spec)
    for key, value in change.plan.items():
        plan = _changed(plan, key, value)
    cluster = node.site(change.site)
    batch = Batch(cluster, batch_job(plan, run, cluster.nodes), "#!/bin/sh\n")
    checks = [replace(check, deadline=check.deadline * PATIENCE) for check in CHECKS]
    found = run_checks(Context(plan=plan, run=run, batch=batch), checks)
    together = fleet_results(node.reports(change.other), spec.preflight)
    if change.silent:
        met = unanswered({"n1": "does not answer"})
    else:
        met = answered(0.01, change.gbps, spec.preflight.allreduce_gbps)
    # The runner skips these: workers answer them together, and rows are read beside all checks.
    elsewhere = [*together, met, rows(plan, "selftest.yaml").result]
    replaced = {result.name for result in elsewhere}
    return [result for result in found if result.name not in replaced] + elsewhere


def _changed(model: M, key: str, value: Any) -> M:
    """With one value of another kind: `spec.cluster.memory_share`."""
    first, _, rest = key.partition(".")
    return model.model_copy(update={first: _changed(getattr(model, first), rest, value) if rest else value})


def _plan(spec: RunSpec) -> Plan:
    topology = gpu_topology(CATALOGUE[GPU], NODES, GPUS_OF_NODE)
    return resolve(spec, VARIANTS[VARIANT].architecture, topology)


def main(folder: Path, names: list[str]) -> None:
    import training.data.checks.survey  # noqa: F401 - half a second that each fault would spend anew

    die_with_parent()
    found: dict[str, Any] = {}
    for name in names:
        root = folder / name
        root.mkdir(parents=True)
        try:
            found[name] = [each.model_dump() for each in within(SECONDS, partial(results, root, FAULTS[name].change))]
        except namespace.NotPermittedError as error:
            found[name] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
