"""One sentence for a plan: why this strategy, or why none. Pure."""

from launch.hardware import Topology
from launch.remedies import Remedy
from launch.spec import RunSpec
from launch.strategy import ORDER, SAFE_SHARE, Candidate, fastest
from launch.wording import amount


def reason(spec: RunSpec, topology: Topology, chosen: Candidate, found: list[Candidate]) -> str:
    share = 100 * chosen.memory.process_bytes / topology.memory_bytes
    device = "GPU" if topology.device == "gpu" else "process"
    memory = (
        f"{amount(chosen.memory.process_bytes)} of {amount(topology.memory_bytes)} ({share:.0f} %) on each {device}"
    )
    return f"{chosen.strategy}: {_why(spec, topology, chosen, found)}; {memory}"


def _why(spec: RunSpec, topology: Topology, chosen: Candidate, found: list[Candidate]) -> str:
    if spec.cluster.strategy != "auto":
        return "as the spec asks"
    if chosen.strategy == "single":
        return "one device, nothing to share"
    tried = {candidate.strategy for candidate in found}
    simpler = [strategy for strategy in ORDER[: ORDER.index(chosen.strategy)] if strategy in tried]
    best = "fastest" if fastest(found) else "simplest"
    others = f" ({', '.join(simpler)} would not)" if simpler else ""
    return f"the {best} that fits{others}{_sent(chosen, found) if topology.world_size > 1 else ''}"


def _sent(chosen: Candidate, found: list[Candidate]) -> str:
    """What a device sends, beside what it would under the next ways to share."""
    sent = {candidate.strategy: amount(candidate.traffic.bytes) for candidate in reversed(found)}
    others = [f"{strategy} {sent[strategy]}" for strategy in ORDER if strategy in sent and strategy != chosen.strategy]
    beside = f" ({', '.join(others[:3])})" if others else ""
    return f"; each device sends {amount(chosen.traffic.bytes)} a step{beside}"


def too_large(topology: Topology, found: list[Candidate], helps: list[Remedy]) -> str:
    best = min(found, key=lambda candidate: candidate.memory.process_bytes)
    devices = f"{topology.nodes} x {topology.devices_per_node} {topology.device_name}"
    advice = "; ".join(map(str, helps)) or "no change that muster knows is enough: a smaller model, or far more GPUs"
    return (
        f"no plan fits {devices} with {amount(topology.memory_bytes)} each: the smallest, {best.strategy},"
        f" needs {amount(best.memory.process_bytes)} and muster plans for at most {SAFE_SHARE * 100:.0f} %."
        f" What would make it fit: {advice}"
    )
