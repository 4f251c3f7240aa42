"""What the commands have in common: a spec with its overrides becomes a plan, and a run has a directory."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from launch.errors import NoPlanError, UsageError
from launch.terminal import print_json, say

if TYPE_CHECKING:
    from launch.machine.hardware import Topology
    from launch.plan import Plan
    from launch.rundir import RunDir
    from launch.spec import ClusterSpec, RunSpec

    Adjust = Callable[[RunSpec], RunSpec]


def resolve(
    spec_file: Path,
    overrides: list[str],
    gpus: str | None = None,
    adjust: "Adjust" = lambda spec: spec,
    data: bool = True,
    nodes: int | None = None,
) -> "Plan":
    """The plan for these GPUs, or for this machine; its warnings are told. `data`: whether the data has to be there.
    `nodes`: so many in place of those of the spec, which still say how large its global batch is."""
    from launch.machine.discover import topology
    from launch.machine.hardware import parse_gpus
    from launch.plan.from_spec import planned

    def devices(cluster: "ClusterSpec") -> "Topology":
        if nodes is not None:
            cluster = cluster.model_copy(update={"nodes": nodes})
        if gpus is None:
            return topology(cluster)
        here = parse_gpus(gpus, cluster.nodes)
        _warn_of_what_is_set_aside(cluster, gpus, here)
        return here

    plan = planned(spec_file, overrides, devices, adjust, data)
    for warning in plan.warnings:
        say(f"warning: {warning}")
    return plan


@contextmanager
def no_plan_as_json(as_json: bool) -> Iterator[None]:
    """The document of a spec that no plan fits, where JSON is asked for, before its error ends the command."""
    try:
        yield
    except NoPlanError as error:
        if as_json:
            print_json({"strategy": None, "why": str(error), "remedies": error.remedies})
        raise


def as_given(spec: Path | str, changes: Sequence[str]) -> str:
    """A spec and what the command line changes of it, for another command that is to read the same."""
    return shlex.join([str(spec), *(word for change in changes for word in ("-s", change))])


def on_nodes(nodes: int | None) -> "Adjust":
    """So many nodes, for a spec that leaves them open."""

    def adjust(spec: "RunSpec") -> "RunSpec":
        if nodes is None or "nodes" in spec.cluster.model_fields_set:
            return spec
        return spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"nodes": nodes})})

    return adjust


def on_allocation(nodes: int | None) -> "Adjust":
    """The nodes of a Slurm allocation, likewise."""
    return on_nodes(nodes)


def _warn_of_what_is_set_aside(cluster: "ClusterSpec", gpus: str, here: "Topology") -> None:
    for key in ("device", "devices_per_node"):
        value = getattr(cluster, key)
        planned = "gpu" if key == "device" else here.devices_per_node
        if key in cluster.model_fields_set and value not in ("auto", planned):
            say(f"warning: --gpus {gpus} is planned for, not cluster.{key}: {value}")


def place_of(name: str) -> Path:
    """What is meant by a path, or by a run's name in runs/. Raises UsageError for what is no directory."""
    from launch.rundir import ADAPTER_CONFIG, RunDir
    from launch.status.following import names_there

    def is_run(place: Path) -> bool:
        return RunDir(place).plan.exists() or RunDir(place).attempts.is_dir()

    path, run = Path(name), Path("runs", name)
    if not is_run(run) and not path.is_dir():
        what = "is a file; give a directory" if path.exists() else "no such directory, and no run of this name"
        raise UsageError(f"{name}: {what}{names_there()}")
    itself = is_run(path) or (path / ADAPTER_CONFIG).exists()
    return run if is_run(run) and not itself else path


def run_directory(plan: "Plan", run_dir: Path | None) -> "RunDir":
    """Raises UsageError for a name that no directory can have, PreflightError for one whose file system hangs."""
    from launch.mounts import refuse_hung
    from launch.rundir import RunDir

    place = run_dir or Path("runs", plan.name)
    refuse_hung({"the run directory": place.absolute()})
    try:
        place.stat()
        return RunDir(place.resolve())
    except FileNotFoundError:
        return RunDir(place.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"--run-dir {place}: no directory can be called so: {error}") from None
