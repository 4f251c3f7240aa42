"""What follows from how an attempt ended. Pure: values in, a decision out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launch.errors import GO_ON, ExitCode
from launch.memory import activations
from launch.plan import Plan
from launch.plan.checkpointing import checkpointable, forcing
from launch.spec import RunSpec
from launch.wording import plural

# The check that all ranks together make once they have met (launch/preflight/fleet.py).
SLOW_NETWORK = "fleet-answers"


@dataclass(frozen=True)
class Ended:
    """How one attempt ended."""

    code: ExitCode
    reason: str
    step: int
    """The last optimizer step that was trained, 0 for none."""
    error: str | None = None
    """The type of the exception that was its first cause, or the name of the failure that a log tells of."""
    nodes: tuple[str, ...] = ()
    """Those that a hang is traced to."""
    checks: tuple[str, ...] = ()
    """Those that failed once all ranks had met."""


@dataclass(frozen=True)
class Past:
    """An earlier attempt, as its outcome.json and plan.json tell."""

    ended: Ended
    plan: Plan | None


@dataclass(frozen=True)
class Finish:
    code: ExitCode
    reason: str


@dataclass(frozen=True)
class Requeue:
    """End with exit 75, and let Slurm start the job again."""

    reason: str
    exclude: tuple[str, ...] = ()
    """Nodes that the job must not get again."""
    code: ExitCode = ExitCode.STOPPED


@dataclass(frozen=True)
class Restart:
    reason: str
    spec: RunSpec | None = None
    """Another division of the same global batch; None keeps the plan."""


Decision = Finish | Requeue | Restart
# Who asked the run to stop: a person, or the scheduler that wants the nodes back.
Asked = Literal["nobody", "person", "scheduler"]


def decide(plan: Plan, past: Sequence[Past], asked: Asked) -> Decision:
    """What to do after the last of these attempts, oldest first. `plan` is what that one ran."""
    ended = past[-1].ended
    code, reason = ended.code, ended.reason
    if code == ExitCode.DONE:
        return Finish(code, reason)
    if asked == "scheduler" and _goes_on_later(plan, ended):
        return Requeue(reason) if plan.spec.slurm.requeue else Finish(ExitCode.STOPPED, reason)
    limit = plan.spec.recovery.restarts
    if asked != "nobody" or code == ExitCode.STOPPED or not limit:
        return Finish(code, reason)
    if code == ExitCode.GPU_MEMORY:
        smaller = smaller_batch(plan)
        if smaller is None:
            return Finish(code, f"{reason}\nthe micro-batch is 1 and activations are recomputed already")
        return Restart(division(plan, smaller), smaller)
    if not _mendable(ended):
        return Finish(code, reason)
    if repeated(past):
        return Finish(code, f"{reason}\nit is the same error at the same step as before: a restart mends nothing")
    if fruitless(past) > limit:
        why = f"{plural(limit, 'restart')} brought no further step (recovery.restarts)"
        return Finish(code, f"{reason}\n{why}")
    return Restart(reason.removesuffix(GO_ON))


def _goes_on_later(plan: Plan, ended: Ended) -> bool:
    """Whether the next start of the job can do better: it remembers a batch that was too large."""
    too_large = ended.code == ExitCode.GPU_MEMORY and smaller_batch(plan) is not None
    return ended.code == ExitCode.STOPPED or too_large or _mendable(ended)


def lost_touch(ended: Ended) -> bool:
    """Whether ranks could not exchange, or not fast enough."""
    return ended.code == ExitCode.COMMUNICATION or ended.checks == (SLOW_NETWORK,)


def _mendable(ended: Ended) -> bool:
    """A network that is slow can be mended like one that is broken: without the node that slows it down."""
    return lost_touch(ended) or ended.code == ExitCode.WORKER


def fruitless(past: Sequence[Past]) -> int:
    """Attempts that failed since one last trained a step that none had trained before."""
    count, furthest = 0, 0
    for one in past:
        if one.ended.step > furthest or one.ended.code == ExitCode.STOPPED:
            count = 0
        furthest = max(furthest, one.ended.step)
        count += _mendable(one.ended)
    return count


def repeated(past: Sequence[Past]) -> bool:
    """Whether the last two attempts raised the same error at the same step. Lost connections are no error of its own:
    whatever ended the other side shows as one."""
    if len(past) < 2:
        return False
    before, last = past[-2].ended, past[-1].ended
    return (
        last.error is not None
        and last.code == ExitCode.WORKER
        and (before.error, before.step) == (last.error, last.step)
    )


def smaller_batch(plan: Plan) -> RunSpec | None:
    """The spec with half the micro-batch and the same global batch; with the micro-batch at 1, with all blocks
    checkpointed.

    None where both are done already. Strategy and all else stay as the plan has them: one thing changes at a time.
    """
    micro, share = plan.micro_batch_size, plan.micro_batch_size * plan.gradient_accumulation_steps
    if micro > 1:
        size = next(size for size in range(micro // 2, 0, -1) if share % size == 0)
        return divided(plan, size, forcing(plan.checkpointed_layers, _most(plan)))
    return None if plan.checkpointed_layers == _most(plan) else divided(plan, 1, True)


def _most(plan: Plan) -> int:
    return checkpointable(plan.architecture, plan.setting.adapter)


def divided(plan: Plan, micro: int, checkpointing: Literal["auto"] | bool | int, nodes: int | None = None) -> RunSpec:
    """The plan's spec with its global batch divided into micro-batches of this size, perhaps on fewer nodes."""
    training, cluster = plan.spec.training, plan.spec.cluster
    values = training.model_dump(exclude_unset=True, exclude={"gradient_accumulation_steps"})
    values |= {
        "global_batch_size": plan.global_batch_size, "micro_batch_size": micro, "gradient_checkpointing": checkpointing,
    }  # fmt: skip
    devices = (nodes or plan.topology.nodes) * plan.topology.devices_per_node
    alone = nodes is not None and devices == 1 and plan.strategy in ("ddp", "fsdp2")
    placed = {"nodes": nodes or plan.topology.nodes, "strategy": "auto" if alone else plan.strategy}
    return plan.spec.model_copy(
        update={"training": type(training).model_validate(values), "cluster": cluster.model_copy(update=placed)}
    )


def division(plan: Plan, spec: RunSpec) -> str:
    """What changes, in words."""
    micro, total = spec.training.micro_batch_size, plan.global_batch_size
    if micro == plan.micro_batch_size:
        few = plan.checkpointed_layers
        whose = f" of all {_most(plan)} blocks, not of {few} alone," if few else ""
        return f"out of GPU memory at micro-batch {micro}: activations{whose} are recomputed from here on"
    return f"out of GPU memory: micro-batch {plan.micro_batch_size} -> {micro}, the global batch of {total} is kept"


def on_fewer_nodes(plan: Plan, healthy: int) -> RunSpec | None:
    """The spec on as many of the healthy nodes as divide its global batch, at least half of those it was planned for.

    None where fewer are left or none divides it: waiting for nodes is then better than training at a crawl.
    """
    for nodes in range(min(healthy, plan.topology.nodes), 0, -1):
        if 2 * nodes < plan.topology.nodes:
            return None
        devices = nodes * plan.topology.devices_per_node
        sizes = range(plan.micro_batch_size, 0, -1)
        micro = next((size for size in sizes if plan.global_batch_size % (size * devices) == 0), None)
        if micro is not None:
            # What the planner chose was as little as these nodes can do with; on fewer ones it may be more.
            return divided(plan, micro, plan.spec.training.gradient_checkpointing, nodes)
    return None


def outgrown(plan: Plan, past: Sequence[Past]) -> bool:
    """Whether an earlier attempt on the same devices ran out of memory with no larger a batch than this plan's."""
    return any(
        one.ended.code == ExitCode.GPU_MEMORY
        and one.plan is not None
        and _kind(one.plan) == _kind(plan)
        and _demand(plan) >= _demand(one.plan)
        for one in past
    )


def _kind(plan: Plan) -> tuple[str, str, int]:
    return plan.topology.device_name, plan.strategy, plan.world_size


def _demand(plan: Plan) -> int:
    """Bytes that the blocks keep of a micro-batch: more with a larger one, less with more of them checkpointed."""
    return activations.saved(plan.architecture, plan.setting)
