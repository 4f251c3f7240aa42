"""A check: what it looks for, when it concerns a run, how long it may take."""

from collections.abc import Callable
from dataclasses import dataclass

from launch.preflight.result import Context, Family, Finding

# Seconds for a check that reads files and calls that answer at once on a healthy machine.
DEADLINE = 5.0
# And for one that asks the driver: without persistence it is loaded for each process anew, a second or two for a GPU.
DRIVER = 15.0


@dataclass(frozen=True)
class Check:
    name: str
    """Stable, in the words that `--accept` takes."""
    family: Family
    finds: str
    """What is wrong when it fails, in one line."""
    threshold: str
    """What decides, and its source."""
    run: Callable[[Context], Finding] | None = None
    """None for what is looked at later or elsewhere: `concerns` then says where."""
    concerns: Callable[[Context], str | None] = lambda context: None
    """Why this check does not concern a run; None where it does."""
    deadline: float = DEADLINE
    """Seconds after which its result is unknown."""


def on_gpus(context: Context) -> str | None:
    return None if context.gpus else "the plan trains on the CPU"


def on_several_gpus(context: Context) -> str | None:
    if context.gpus and context.plan.topology.devices_per_node == 1:
        return "one GPU on each node"
    return on_gpus(context)


def on_several_nodes(context: Context) -> str | None:
    return None if context.plan.topology.nodes > 1 else "one node"
