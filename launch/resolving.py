"""What the commands have in common: a spec with its overrides becomes a plan, and a run has a directory."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launch.errors import UsageError
from launch.terminal import say

if TYPE_CHECKING:
    from launch.hardware import Topology
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
    from launch.discover import topology
    from launch.hardware import parse_gpus
    from launch.planning import planned

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
