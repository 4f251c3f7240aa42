"""What would make a spec fit, the cheapest changes first, each with the memory that it leads to. Pure."""

from collections.abc import Callable, Iterator
from itertools import combinations, islice
from typing import Any, NamedTuple

from launch.errors import ConflictError
from launch.machine.hardware import CATALOGUE, GIB, Topology, gpu_topology
from launch.model.architecture import Architecture
from launch.plan.batch import alone, divide_batch, micro_batch_sizes
from launch.plan.kernels import loss_of, norms_not_fused, not_chunked, not_fused
from launch.plan.strategy import Candidate, candidates, choose
from launch.spec import Precision, RunSpec
from launch.versions import Versions
from launch.wording import amount, plural

SHORTEST = 512  # tokens; shorter sequences are no advice
MOST_PER_NODE, MOST_NODES = 8, 8  # more of either are no advice

# New values by section and key.
_SpecChange = dict[str, dict[str, Any]]
_Best = Callable[[RunSpec, Topology], Candidate | None]


class Remedy(NamedTuple):
    """A change, or several, and the best way to run then."""

    changes: tuple[str, ...]
    best: Candidate

    @property
    def text(self) -> str:
        return " with ".join(self.changes)

    @property
    def values(self) -> dict[str, Any]:
        """For programs."""
        best = self.best
        return {"change": self.text, "strategy": best.strategy, "process_bytes": best.memory.process_bytes}

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
    """At most so many changes that are enough: single ones, then those of the spec together. `spec` is as somebody
    wrote it, for that is what they change; on one device it is planned as that one runs it."""

    def best(changed: RunSpec, devices: Topology) -> Candidate | None:
        changed = alone(changed)[0] if devices.world_size == 1 else changed
        sizes = micro_batch_sizes(changed, devices.world_size)
        there, found = _precision(changed, devices, precision), None
        # What the smallest micro-batch does not fit, no larger one does.
        for tried in (sizes[-1:], sizes) if len(sizes) > 1 else (sizes,):
            found = choose(candidates(changed, architecture, devices, there, tried, versions)[0])
            if found is None:
                return None
        return found if found and _divides(changed, devices, found) else None

    return list(islice(_least(_enough(spec, topology, precision, best)), most))


def _precision(spec: RunSpec, devices: Topology, precision: Precision) -> Precision:
    """Of the run, on GPUs other than those that `precision` was found for as well."""
    if spec.training.precision != "auto" or devices.device == "cpu":
        return precision
    return "bf16" if devices.bf16 else "fp16"


def _least(found: Iterator[Remedy]) -> Iterator[Remedy]:
    """Without those that do more than an earlier one, which was enough."""
    told: list[set[str]] = []
    for remedy in found:
        if not any(earlier <= set(remedy.changes) for earlier in told):
            told.append(set(remedy.changes))
            yield remedy


def _divides(spec: RunSpec, topology: Topology, found: Candidate) -> bool:
    """Whether so many devices can share the global batch."""
    try:
        divide_batch(spec, topology.world_size, found.micro_batch_size)
    except ConflictError:
        return False
    return True


def _enough(spec: RunSpec, topology: Topology, precision: Precision, best: _Best) -> Iterator[Remedy]:
    """One change alone, changes of the spec together, with shorter sequences, and last with other devices as well."""
    changes, alone = list(_spec_changes(spec, topology, precision)), set()
    for text, change in changes:
        if found := best(_with(spec, change), topology):
            alone.add(text)
            yield Remedy((text,), found)
    yield from _shorter(spec, topology, best, ())
    yield from _other_devices(spec, topology, best, ())
    rest = [change for change in changes if change[0] not in alone]
    several = [chosen for count in range(1, len(rest) + 1) for chosen in combinations(rest, count)]
    short = []
    for chosen in several:
        found = best(_with_all(spec, chosen), topology)
        if found and len(chosen) > 1:
            yield Remedy(tuple(text for text, _ in chosen), found)
        elif not found:
            short.append(chosen)
    for another in (_shorter, _other_devices):
        for chosen in short:
            told = tuple(text for text, _ in chosen)
            yield from another(_with_all(spec, chosen), topology, best, told)
    yield from _shorter_on_other_devices(spec, topology, best, [(), *short])


def _spec_changes(spec: RunSpec, topology: Topology, precision: Precision) -> Iterator[tuple[str, _SpecChange]]:
    """From the one that costs least: time first, then exactness."""
    planned = alone(spec)[0] if topology.world_size == 1 else spec
    training, sizes = spec.training, micro_batch_sizes(planned, topology.world_size)
    if spec.cluster.strategy != "auto":
        yield "cluster.strategy: auto", {"cluster": {"strategy": "auto"}}
    if training.gradient_checkpointing != "auto" and training.gradient_checkpointing is not True:
        yield "training.gradient_checkpointing: auto", {"training": {"gradient_checkpointing": "auto"}}
    if training.precision == "fp32" and topology.bf16:
        yield "training.precision: auto", {"training": {"precision": "auto"}}
    if spec.model.attention == "eager":
        yield "model.attention: auto", {"model": {"attention": "auto"}}
    if spec.lora.cast_inputs:
        yield "lora.cast_inputs: false", {"lora": {"cast_inputs": False}}
    if not training.gradient_as_bucket_view:
        yield "training.gradient_as_bucket_view: true", {"training": {"gradient_as_bucket_view": True}}
    if loss_of(spec, precision, topology.device == "gpu") == "plain" and not not_chunked(spec, precision):
        yield "training.loss: chunked", {"training": {"loss": "chunked"}}
    peft = spec.lora.implementation == "peft" or (spec.lora.implementation == "auto" and topology.device == "gpu")
    if peft and not not_fused(spec):
        yield "lora.implementation: fused", {"lora": {"implementation": "fused"}}
    if spec.model.norms == "plain" and not norms_not_fused(spec):
        yield "model.norms: fused", {"model": {"norms": "fused"}}
    if len(sizes) == 1 and sizes[0] > 1:  # of several the planner has tried the smallest
        steps = training.gradient_accumulation_steps * sizes[0]
        stated = training.global_batch_size is None or "gradient_accumulation_steps" in training.model_fields_set
        more: dict[str, Any] = {"gradient_accumulation_steps": steps} if stated else {}
        told = f", gradient_accumulation_steps: {steps}" if more else ""
        yield f"training.micro_batch_size: 1{told}", {"training": {"micro_batch_size": 1, **more}}
    if spec.model.quantization != "none" and spec.model.upcast_unquantized:
        yield "model.upcast_unquantized: false", {"model": {"upcast_unquantized": False}}
    if spec.model.quantization != "nf4":
        yield "model.quantization: nf4", {"model": {"quantization": "nf4"}}


def _shorter(spec: RunSpec, topology: Topology, best: _Best, before: tuple[str, ...]) -> Iterator[Remedy]:
    """The longest of half, a quarter and so on of the sequences' length that fits."""
    length = spec.data.max_length // 2
    while length >= SHORTEST:
        if found := best(_with(spec, {"data": {"max_length": length}}), topology):
            yield Remedy((*before, f"data.max_length: {length}"), found)
            return
        length //= 2


def _other_devices(spec: RunSpec, topology: Topology, best: _Best, before: tuple[str, ...]) -> Iterator[Remedy]:
    """Of each kind of change the least that is enough."""
    for kind in (_more_devices, _larger_devices, _fewer_processes):
        known = list(kind(topology))
        if kind is _larger_devices and known and not best(spec, known[-1][1]):
            continue  # the largest is not enough
        for text, devices in known:
            if found := best(spec, devices):
                yield Remedy((*before, text), found)
                break


def _shorter_on_other_devices(
    spec: RunSpec, topology: Topology, best: _Best, several: list[tuple[tuple[str, _SpecChange], ...]]
) -> Iterator[Remedy]:
    """Sequences of half the length, a quarter and so on, where nothing less was enough on any devices."""
    for chosen in several:
        length, told = spec.data.max_length // 2, tuple(text for text, _ in chosen)
        while length >= SHORTEST:
            changed = _with(_with_all(spec, chosen), {"data": {"max_length": length}})
            yield from _other_devices(changed, topology, best, (*told, f"data.max_length: {length}"))
            length //= 2


def _more_devices(topology: Topology) -> Iterator[tuple[str, Topology]]:
    """The fewest first: of a node, then nodes."""
    if topology.device != "gpu":
        return
    count = topology.devices_per_node
    for more in range(count + 1, MOST_PER_NODE + 1):
        if more in (2, 4, 6, 8):
            yield f"{more} GPUs on each node", topology.model_copy(update={"devices_per_node": more})
    for nodes in range(topology.nodes + 1, MOST_NODES + 1):
        devices = topology.model_copy(update={"nodes": nodes})
        yield f"{nodes} nodes with {count} GPUs each", devices


def _larger_devices(topology: Topology) -> Iterator[tuple[str, Topology]]:
    """Known GPUs with more memory that compute in the same type, the smallest first; of those that are as large, give
    or take half a GiB, the slowest, which cost least."""
    for gpu in sorted(CATALOGUE.values(), key=lambda known: (_gib(known.memory_bytes), known.rates.flops)):
        larger = _gib(gpu.memory_bytes) > _gib(topology.memory_bytes)
        if topology.device == "gpu" and larger and gpu.bf16 >= topology.bf16:
            devices = gpu_topology(gpu, topology.nodes, topology.devices_per_node)
            yield f"{gpu.name} GPUs", devices.model_copy(update={"host_bytes": topology.host_bytes})


def _gib(size: int) -> int:
    return round(size / GIB)


def _fewer_processes(topology: Topology) -> Iterator[tuple[str, Topology]]:
    """Each process of a node takes memory of its own there."""
    count = topology.devices_per_node // 2
    while topology.host_bytes is not None and count:
        yield f"{plural(count, 'device')} on each node", topology.model_copy(update={"devices_per_node": count})
        count //= 2


def _with(spec: RunSpec, change: _SpecChange) -> RunSpec:
    sections = {name: getattr(spec, name).model_copy(update=values) for name, values in change.items()}
    return spec.model_copy(update=sections)


def _with_all(spec: RunSpec, changes: tuple[tuple[str, _SpecChange], ...]) -> RunSpec:
    for _, change in changes:
        spec = _with(spec, change)
    return spec
