"""One spec planned for several kinds of GPUs, side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.checkpointing import checkpointable
from launch.errors import NoPlanError, SpecError, UsageError
from launch.hardware import parse_gpus
from launch.planning import planned
from launch.spec import RunSpec


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
    for rows whose global batch is not that of the first one that fits.

    Raises UsageError for a type that is not known or left out, SpecError for a spec that none of the GPUs can run.
    """
    if not all(text.strip() for text in gpus):
        raise UsageError(f"--compare {','.join(gpus)}: a kind of GPUs between commas, such as 8xA100-80GB, is missing")
    rows, wrong = list[dict[str, Any]](), list[SpecError]()
    for text in gpus:
        try:
            rows.append(_row(path, overrides, text.strip(), adjust, nodes))
        except SpecError as error:
            wrong.append(error)
            rows.append({"gpus": text.strip(), "strategy": None, "why": str(error)})
    if wrong and len(wrong) == len(rows):
        raise wrong[0]
    fitting = [row for row in rows if row["strategy"]]
    for row in fitting:
        row["other_batch"] = row["global_batch_size"] != fitting[0]["global_batch_size"]
    return rows


def _row(
    path: str | Path, overrides: list[str], gpus: str, adjust: Callable[[RunSpec], RunSpec], nodes: int | None
) -> dict[str, Any]:
    try:
        plan = planned(path, overrides, lambda cluster: parse_gpus(gpus, nodes or cluster.nodes), adjust, data=False)
    except NoPlanError as error:
        why = str(error).removeprefix(f"{path}: ")
        return {"gpus": gpus, "strategy": None, "why": why, "remedies": error.remedies}
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
