"""One spec planned for several kinds of GPUs, side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.errors import NoPlanError, SpecError, UsageError
from launch.machine.hardware import Topology, parse_gpus
from launch.plan.batch import to_keep
from launch.plan.checkpointing import checkpointable
from launch.plan.from_spec import planned
from launch.plan.plan import Plan
from launch.spec import ClusterSpec, RunSpec


def compared(
    path: str | Path,
    overrides: list[str],
    gpus: list[str],
    adjust: Callable[[RunSpec], RunSpec] = lambda spec: spec,
    nodes: int | None = None,
) -> list[dict[str, Any]]:
    """How the spec would run on each of `gpus` (COUNTxTYPE): a row each. Where it does not fit, strategy is None; so it
    is where the spec cannot be run on so many or such GPUs, and then there are no `remedies`. `nodes`: so many in place
    of those of the spec.

    A spec that leaves its global batch open trains with another one on another number of devices: `other_batch` is true
    for rows whose global batch is not that of the first one that fits, and `one_batch` says how all would have one.

    Raises UsageError for a type that is not known or left out, SpecError for a spec that none of the GPUs can run.
    """
    if not all(text.strip() for text in gpus):
        raise UsageError(f"--compare {','.join(gpus)}: a kind of GPUs between commas, such as 8xA100-80GB, is missing")
    rows, wrong, plans = list[dict[str, Any]](), list[SpecError](), list[Plan]()
    for text in gpus:
        try:
            plans.append(_planned(path, overrides, text.strip(), adjust, nodes))
            rows.append(_row(text.strip(), plans[-1]))
        except NoPlanError as error:
            why = str(error).removeprefix(f"{path}: ")
            rows.append({"gpus": text.strip(), "strategy": None, "why": why, "remedies": error.remedies})
        except SpecError as error:
            wrong.append(error)
            rows.append({"gpus": text.strip(), "strategy": None, "why": str(error)})
    if wrong and len(wrong) == len(rows):
        raise wrong[0]
    for row in rows:
        if row["strategy"]:
            row["other_batch"] = row["global_batch_size"] != plans[0].global_batch_size
            if row["other_batch"]:
                shared = to_keep(plans[0].spec, plans[0].global_batch_size, [plan.world_size for plan in plans])
                row["one_batch"] = shared
    return rows


def _planned(
    path: str | Path, overrides: list[str], gpus: str, adjust: Callable[[RunSpec], RunSpec], nodes: int | None
) -> Plan:
    def devices(cluster: ClusterSpec) -> Topology:
        return parse_gpus(gpus, nodes or cluster.nodes, "--compare")

    return planned(path, overrides, devices, adjust, data=False)


def _row(gpus: str, plan: Plan) -> dict[str, Any]:
    return {
        "gpus": gpus, "strategy": plan.strategy, "gradient_checkpointing": plan.gradient_checkpointing,
        "checkpointed_layers": plan.checkpointed_layers,
        "checkpointable_layers": checkpointable(plan.architecture, plan.setting.adapter),
        "micro_batch_size": plan.micro_batch_size, "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "global_batch_size": plan.global_batch_size, "precision": plan.precision,
        "throughput": plan.throughput and plan.throughput.model_dump(), "duration_seconds": plan.duration_seconds,
        "process_bytes": plan.memory.process_bytes,
        "memory_share": round(plan.memory.process_bytes / plan.topology.memory_bytes, 3), "why": plan.reason,
    }  # fmt: skip
