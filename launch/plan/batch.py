"""How a global batch becomes micro-batches and accumulation steps. Pure."""

import math
from collections.abc import Sequence

from launch.errors import ConflictError
from launch.spec import ClusterSpec, RunSpec, TrainingSpec
from launch.spec.contradictions import batch_contradictions
from launch.wording import plural

# `micro_batch_size: auto` tries up to the one. Without a global batch to divide a device's share of it is the other,
# the recipe's value, times the accumulation steps.
MOST_MICRO_BATCH, AUTO_MICRO_BATCH = 8, 4


def micro_batch_sizes(spec: RunSpec, world_size: int) -> list[int]:
    """Micro-batch sizes to try, largest first."""
    training = spec.training
    given = training.micro_batch_size
    if given != "auto" and "micro_batch_size" in training.model_fields_set:
        return [given]
    if training.global_batch_size is None:
        if given != "auto":
            return [given]
        if "gradient_accumulation_steps" in training.model_fields_set:
            return [AUTO_MICRO_BATCH]
        return [size for size in range(MOST_MICRO_BATCH, 0, -1) if _share(training) % size == 0]
    if "gradient_accumulation_steps" in training.model_fields_set:
        share = world_size * training.gradient_accumulation_steps
        return [max(1, training.global_batch_size // share)]
    per_device = training.global_batch_size / world_size
    sizes = [size for size in range(MOST_MICRO_BATCH if given == "auto" else given, 0, -1) if per_device % size == 0]
    return (sizes if given == "auto" else sizes[:1]) or [1]


def accumulation_steps(spec: RunSpec, world_size: int, micro_batch_size: int) -> int:
    """Micro-batches of an optimizer step on each device; `divide_batch` says whether they divide it exactly."""
    training = spec.training
    if training.global_batch_size is not None:
        return max(1, training.global_batch_size // (micro_batch_size * world_size))
    if training.micro_batch_size != "auto" or "gradient_accumulation_steps" in training.model_fields_set:
        return training.gradient_accumulation_steps
    return max(1, _share(training) // micro_batch_size)


def _share(training: TrainingSpec) -> int:
    """Sequences of one device in a global batch that the spec leaves open."""
    micro = AUTO_MICRO_BATCH if training.micro_batch_size == "auto" else training.micro_batch_size
    return micro * training.gradient_accumulation_steps


def divide_batch(spec: RunSpec, world_size: int, micro: int) -> tuple[int, int]:
    """(micro_batch_size, gradient_accumulation_steps) of each device. global_batch_size is kept exactly.

    Raises ConflictError that names the nearest ones that can be divided.
    """
    training, path = spec.training, ("training", "global_batch_size")
    total, asked = training.global_batch_size, training.gradient_accumulation_steps
    accumulation = accumulation_steps(spec, world_size, micro)
    if total is None:
        return micro, accumulation
    given = "gradient_accumulation_steps" in training.model_fields_set
    step, parts = micro * world_size, f"micro-batches of {micro}"
    left_open = training.micro_batch_size == "auto" or "micro_batch_size" not in training.model_fields_set
    if given and left_open:
        step, parts = asked * world_size, f"{asked} accumulation steps"
    if total % step and (left_open or not given):
        below, above = total // step * step, (total // step + 1) * step
        near = " or ".join(str(value) for value in (below, above) if value)
        message = (
            f"training.global_batch_size {total} cannot be divided into {parts}"
            f" on {plural(world_size, 'device')}; nearest that can: {near}"
        )
        raise ConflictError([(path, message)])
    step = micro * world_size
    if given and (asked != accumulation or (not left_open and step * asked != total)):
        product = f"micro_batch_size {micro} x gradient_accumulation_steps {asked} x {plural(world_size, 'device')}"
        message = (
            f"training.global_batch_size {total} contradicts {product} = {step * asked};"
            " give global_batch_size alone, or the other two alone"
        )
        raise ConflictError([(path, message)])
    return micro, accumulation


def on_one_device(spec: RunSpec) -> tuple[RunSpec, list[str]]:
    """The spec with the global batch that it has on the devices it asks for, and what to say about it."""
    devices, training = asked_devices(spec.cluster), spec.training
    if devices is None or devices == 1:
        return spec, []
    total = training.global_batch_size or _share(training) * devices
    note = f"one device instead of {devices}: the global batch of {total}, schedule and order of samples are kept"
    given = "gradient_accumulation_steps" in training.model_fields_set
    more = {"gradient_accumulation_steps": training.gradient_accumulation_steps * devices}
    if training.global_batch_size is not None:
        update = more if given else {}  # else it is divided anew
    else:
        left_open = training.micro_batch_size == "auto" and not given
        update = {"global_batch_size": total} if left_open else more
    return spec.model_copy(update={"training": training.model_copy(update=update)}), [note]


def alone(spec: RunSpec) -> tuple[RunSpec, list[str]]:
    """The same training on one device; a spec for several that names how they share it leaves that open there."""
    changed, notes = on_one_device(spec)
    asked = spec.cluster.strategy
    if not notes or asked not in ("ddp", "fsdp2"):
        return changed, notes
    cluster = changed.cluster.model_copy(update={"strategy": "auto"})
    return changed.model_copy(update={"cluster": cluster}), [*notes, f"{asked} takes several devices: it is left out"]


def other_batch(spec: RunSpec, world_size: int) -> list[str]:
    """What to say where a spec that leaves its global batch open is planned for other devices than it asks for."""
    asked, training = asked_devices(spec.cluster), spec.training
    if training.global_batch_size is not None or asked is None or world_size in (1, asked):
        return []
    there, here = _share(training) * asked, _share(training) * world_size
    told = f"the global batch is {here} on {world_size} devices, {there} on the {asked} that the spec asks for: "
    return [told + to_keep(spec, there, [world_size])]


def to_keep(spec: RunSpec, batch: int, world_sizes: Sequence[int]) -> str:
    """What a spec has to say for this global batch on each of these numbers of devices; where not all of them can share
    it, for the nearest that they can."""
    given = spec.training.model_fields_set
    parts = [key for key in ("gradient_accumulation_steps", "micro_batch_size") if key in given]
    for count in range(len(parts) + 1):
        if all(_shared(spec, batch, parts[:count], world_size) for world_size in world_sizes):
            return f"training.global_batch_size: {batch}{_in_place_of(parts[:count])} keeps it"
    every = math.lcm(*world_sizes)
    nearest = f"training.global_batch_size: {max(1, round(batch / every)) * every}{_in_place_of(parts)}"
    if len(world_sizes) > 1:
        return f"they cannot all share that; {nearest} is the nearest that they can"
    return f"so many devices cannot share that; {nearest} is the nearest that they can"


def _shared(spec: RunSpec, batch: int, without: Sequence[str], world_size: int) -> bool:
    """Whether so many devices can share a global batch that the spec says in place of these keys."""
    given = {key: value for key, value in spec.training.model_dump(exclude_unset=True).items() if key not in without}
    changed = spec.model_copy(update={"training": TrainingSpec.model_validate({**given, "global_batch_size": batch})})
    if batch_contradictions(changed.training):
        return False
    try:
        divide_batch(changed, world_size, micro_batch_sizes(changed, world_size)[0])
    except ConflictError:
        return False
    return True


def _in_place_of(keys: Sequence[str]) -> str:
    return f" in place of {' and '.join(keys)}" if keys else ""


def asked_devices(cluster: ClusterSpec) -> int | None:
    """None where the spec takes what there is."""
    return None if cluster.devices_per_node == "auto" else cluster.nodes * cluster.devices_per_node
