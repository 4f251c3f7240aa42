"""What would make a spec fit, the cheapest changes first, each with the memory that it leads to. Pure."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from launch.architecture import Architecture
from launch.batch import micro_batch_sizes
from launch.hardware import CATALOGUE, Topology, gpu_topology
from launch.spec import Precision, RunSpec
from launch.strategy import Candidate, candidates, choose
from launch.versions import Versions
from launch.wording import amount

SHORTEST = 512  # tokens; shorter sequences are no advice

# New values by section and key.
_SpecChange = dict[str, dict[str, Any]]


class Remedy(NamedTuple):
    """A change, or several, and the best way to run then."""

    text: str
    best: Candidate

    def __str__(self) -> str:
        return f"{self.text} ({self.best.strategy}, {amount(self.best.memory.process_bytes)})"


def remedies(
    spec: RunSpec,
    architecture: Architecture,
    topology: Topology,
    precision: Precision,
    versions: Versions,
    most: int = 3,
) -> list[Remedy]:
    """At most so many changes, each enough by itself; where none of the spec is, the first that are together."""

    def best(changed: RunSpec, devices: Topology) -> Candidate | None:
        sizes = micro_batch_sizes(changed, devices.world_size)
        return choose(candidates(changed, architecture, devices, precision, sizes, versions)[0])

    changes = list(_spec_changes(spec, topology))
    tried = [(text, best(_with(spec, change), topology)) for text, change in changes]
    tried += [(text, best(spec, devices)) for text, devices in _more_devices(topology)]
    larger = ((f"{gpu} GPUs", best(spec, devices)) for gpu, devices in _larger_devices(topology))
    tried += [next((found for found in larger if found[1]), ("", None))]
    if not any(found for _, found in tried[: len(changes)]):
        joined = ((" with ".join(names), best(changed, topology)) for names, changed in _together(spec, changes))
        tried += [next((found for found in joined if found[1]), ("", None))]
    return [Remedy(text, found) for text, found in tried if found is not None][:most]


def _spec_changes(spec: RunSpec, topology: Topology) -> Iterator[tuple[str, _SpecChange]]:
    """From the one that costs least: time first, then exactness, then data."""
    training, micro = spec.training, spec.training.micro_batch_size
    if training.gradient_checkpointing is False:
        yield "training.gradient_checkpointing: auto", {"training": {"gradient_checkpointing": "auto"}}
    if micro != "auto" and micro > 1:
        steps = training.gradient_accumulation_steps * micro
        more: dict[str, Any] = {} if training.global_batch_size else {"gradient_accumulation_steps": steps}
        told = f", gradient_accumulation_steps: {steps}" if more else ""
        yield f"training.micro_batch_size: 1{told}", {"training": {"micro_batch_size": 1, **more}}
    if spec.model.quantization == "none" and topology.device == "gpu":
        yield "model.quantization: nf4", {"model": {"quantization": "nf4"}}
    if spec.data.max_length // 2 >= SHORTEST:
        yield f"data.max_length: {spec.data.max_length // 2}", {"data": {"max_length": spec.data.max_length // 2}}


def _together(spec: RunSpec, changes: list[tuple[str, _SpecChange]]) -> Iterator[tuple[list[str], RunSpec]]:
    """The first two changes, the first three, and so on."""
    names: list[str] = []
    for text, change in changes:
        names, spec = [*names, text], _with(spec, change)
        if len(names) > 1:
            yield names, spec


def _more_devices(topology: Topology) -> Iterator[tuple[str, Topology]]:
    if topology.device == "gpu":
        count = 2 * topology.devices_per_node
        yield f"{count} GPUs on each node", topology.model_copy(update={"devices_per_node": count})


def _larger_devices(topology: Topology) -> Iterator[tuple[str, Topology]]:
    """Known GPUs with more memory that compute in the same type, the smallest first."""
    for gpu in sorted(CATALOGUE.values(), key=lambda known: known.memory_bytes):
        if topology.device == "gpu" and gpu.memory_bytes > topology.memory_bytes and gpu.bf16 >= topology.bf16:
            yield gpu.name, gpu_topology(gpu, topology.nodes, topology.devices_per_node)


def _with(spec: RunSpec, change: _SpecChange) -> RunSpec:
    sections = {name: getattr(spec, name).model_copy(update=values) for name, values in change.items()}
    return spec.model_copy(update=sections)
