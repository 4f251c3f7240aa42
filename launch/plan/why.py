"""One sentence for a plan: why this strategy, or why none. Pure."""

from launch.machine.hardware import Topology
from launch.plan.remedies import Remedy
from launch.plan.strategy import ORDER, Candidate, fastest
from launch.spec import RunSpec
from launch.wording import amount


def reason(spec: RunSpec, topology: Topology, chosen: Candidate, found: list[Candidate]) -> str:
    share = 100 * chosen.memory.process_bytes / topology.memory_bytes
    device = "GPU" if topology.device == "gpu" else "process"
    memory = (
        f"{amount(chosen.memory.process_bytes)} of {amount(topology.memory_bytes)} ({share:.0f} %) on each {device}"
    )
    return f"{chosen.strategy}: {_why(spec, topology, chosen, found)}{_recomputing(spec, chosen, found)}; {memory}"


def _recomputing(spec: RunSpec, chosen: Candidate, found: list[Candidate]) -> str:
    """How many blocks are computed again, where the planner chose neither all nor none."""
    most = max(candidate.checkpointed_layers for candidate in found)  # it has tried all of them, too
    if spec.training.gradient_checkpointing != "auto" or not 0 < chosen.checkpointed_layers < most:
        return ""
    return f"; {chosen.checkpointed_layers} of {most} blocks checkpointed, fewer would not fit"


def _why(spec: RunSpec, topology: Topology, chosen: Candidate, found: list[Candidate]) -> str:
    if spec.cluster.strategy != "auto":
        return "as the spec asks"
    if chosen.strategy == "single":
        return "one device, nothing to share"
    tried = {candidate.strategy for candidate in found}
    simpler = [strategy for strategy in ORDER[: ORDER.index(chosen.strategy)] if strategy in tried]
    best = "fastest" if fastest(found) else "simplest"
    fitting = {candidate.strategy for candidate in found if candidate.fits}
    groups = {"would not": [s for s in simpler if s not in fitting], "slower": [s for s in simpler if s in fitting]}
    told = [f"{', '.join(names)} {what}" for what, names in groups.items() if names]
    others = f" ({'; '.join(told)})" if told else ""
    return f"the {best} that fits{others}{_sent(chosen, found) if topology.world_size > 1 else ''}"


def _sent(chosen: Candidate, found: list[Candidate]) -> str:
    """What a device sends, beside what it would under the next ways to share."""
    sent = {candidate.strategy: amount(candidate.traffic.bytes) for candidate in reversed(found)}
    others = [f"{strategy} {sent[strategy]}" for strategy in ORDER if strategy in sent and strategy != chosen.strategy]
    beside = f" ({', '.join(others[:3])})" if others else ""
    return f"; each device sends {amount(chosen.traffic.bytes)} a step{beside}"


def too_large(spec: RunSpec, topology: Topology, found: list[Candidate], helps: list[Remedy]) -> str:
    if not any(candidate.host_fits for candidate in found):
        return _short_of_host_memory(topology, found, helps)
    best = min(
        (candidate for candidate in found if candidate.host_fits), key=lambda candidate: candidate.memory.process_bytes
    )
    devices, share = _devices(topology), spec.cluster.memory_share
    return (
        f"no plan fits {devices} with {amount(topology.memory_bytes)} each: the smallest, {best.strategy},"
        f" needs {amount(best.memory.process_bytes)} and muster plans for at most {share * 100:.0f} %."
        f"{_beside(spec, topology, found)} What would make it fit: {_advice(helps)}"
    )


def _short_of_host_memory(topology: Topology, found: list[Candidate], helps: list[Remedy]) -> str:
    assert topology.host_bytes is not None  # else every candidate would have enough
    best = min(found, key=lambda candidate: candidate.memory.host_needed_bytes)
    return (
        f"no plan fits {_devices(topology)}: the least that a node needs of its own memory, {best.strategy}, is"
        f" {amount(best.memory.host_needed_bytes)}, and {amount(topology.host_bytes)} are free."
        f" What would make it fit: {_advice(helps)}"
    )


def _beside(spec: RunSpec, topology: Topology, found: list[Candidate]) -> str:
    """What would have fitted the devices, had their node more memory."""
    room = spec.cluster.memory_share * topology.memory_bytes
    short = [c for c in found if not c.host_fits and c.memory.process_bytes <= room]
    if not short or topology.host_bytes is None:
        return ""
    best = min(short, key=lambda candidate: candidate.memory.host_needed_bytes)
    needed = f"{amount(best.memory.host_needed_bytes)} of host memory, and {amount(topology.host_bytes)} are free"
    return f" {best.strategy} would fit the devices but needs {needed}."


def _devices(topology: Topology) -> str:
    return f"{topology.nodes} x {topology.devices_per_node} {topology.device_name}"


def _advice(helps: list[Remedy]) -> str:
    return "; ".join(map(str, helps)) or "no change that muster knows is enough: a smaller model, or far more GPUs"
