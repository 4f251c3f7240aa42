"""A DeepSpeed JSON against a plan."""

from collections.abc import Collection, Iterator
from math import isfinite
from typing import Any

from launch.consistency import keys
from launch.consistency.given import Given, Problem, nearest
from launch.memory.passes import limits, most_gathered
from launch.plan import Plan
from launch.render import AUTO, DECIDED, complete_deepspeed, deepspeed_config
from launch.spec import OFFLOADS, ZERO_STAGES, Strategy
from launch.wording import amount

ZERO = "zero_optimization"
# Sections that change what is trained behind the spec's back, and those that nothing here reads.
CHANGES = {
    "torch_autocast": "DeepSpeed would compute in a type of its own; training.precision decides",
    "autotuning": "DeepSpeed would choose batch sizes by itself; the plan keeps the global batch",
    "data_efficiency": "rows would be chosen or shortened while it trains",
    "hybrid_engine": "it is DeepSpeed-Chat's own engine, for generation between steps",
    "tensor_parallel": "muster trains with data parallelism alone",
}
UNREAD = {
    "activation_checkpointing": "transformers recomputes activations itself: training.gradient_checkpointing",
    "pipeline": "only DeepSpeed's pipeline engine reads it",
    "steps_per_print": "accelerate sets it to never",
}
NUMBERS = (
    *DECIDED[:4], "steps_per_print",
    *(f"{ZERO}.{key}" for key in (
        "stage", "reduce_bucket_size", "allgather_bucket_size", "sub_group_size", "stage3_prefetch_bucket_size",
        "stage3_param_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance",
    )),
)  # fmt: skip
WHOLE = (*DECIDED[:3], f"{ZERO}.stage")
# DeepSpeed's own bucket, in elements (runtime/zero/config.py); one that costs so many bytes more than ours is told.
DEFAULT_BUCKET, COSTLY_BYTES = 500_000_000, 256 << 20
# ZeRO-3's limits of what is gathered at a time (memory/gathering.py).
GATHERED = {
    "live": "stage3_max_live_parameters", "reuse": "stage3_max_reuse_distance",
    "prefetch": "stage3_prefetch_bucket_size", "persistent": "stage3_param_persistence_threshold",
}  # fmt: skip
GATHER = "stage3_gather_16bit_weights_on_model_save"


def strategy(given: Given) -> Strategy | None:
    """The one that its stage and offloads make; None for a stage that muster does not train with."""
    offload = bool(_offloaded(given))
    names = {(stage, name in OFFLOADS): name for name, stage in ZERO_STAGES.items()}
    stage = _zero(given).get("stage", 0)
    return names.get((stage, offload)) if type(stage) is int else None


def _zero(given: Given) -> dict[str, Any]:
    section = given.get(ZERO)
    return section if isinstance(section, dict) else {}


def _offloaded(given: Given) -> list[str]:
    """Which of the two offloads it asks for. cpu_offload is an older name of the optimizer's."""
    zero = _zero(given)
    devices = {name: given.get(ZERO, name, "device", default="none") for name in ("offload_optimizer", "offload_param")}
    found = [name for name, device in devices.items() if device not in ("none", None)]
    return found or (["offload_optimizer"] if zero.get("cpu_offload") is True else [])


def problems(given: Given, plan: Plan) -> Iterator[Problem]:
    """Each value that is wrong by itself, dead, or not the plan's."""
    yield from _keys(given)
    yield from _types(given)
    yield from _blocks(given)
    yield from _stages(given)
    yield from _types_of_gradients(given, plan)
    yield from _against(given, plan)
    if plan.zero_stage:
        yield from _costs(given, plan)


def _keys(given: Given) -> Iterator[Problem]:
    for key in given.values:
        if key in keys.REMOVED:
            yield given.says((key,), "wrong", "DeepSpeed refuses it, enabled or not: the feature is gone; remove it")
        elif key not in keys.DEEPSPEED and key != "comment":
            told = f"DeepSpeed reads no such key, and says nothing{nearest(key, keys.DEEPSPEED)}"
            yield given.says((key,), "unknown", told)
    zero = keys.ZERO | keys.STAGE3 | {f"stage3_{key}" for key in keys.STAGE3} | keys.REMOVED_ZERO
    sections: tuple[tuple[str, Collection[str]], ...] = ((ZERO, zero), ("fp16", keys.FP16), ("bf16", keys.BF16))
    for name, known in sections:
        section = given.get(name, default={})
        if not isinstance(section, dict):
            yield given.says((name,), "wrong", "is no object of keys and values")
            continue
        for key in section:
            if key in keys.REMOVED_ZERO:
                yield given.says((name, key), "wrong", "DeepSpeed refuses it: the feature is gone; remove it")
            elif key not in known:
                yield given.says((name, key), "unknown", f"DeepSpeed ends with an error on it{nearest(key, known)}")


def _types(given: Given) -> Iterator[Problem]:
    for name in NUMBERS:
        path = tuple(name.split("."))
        value = given.get(*path, default=0)
        if value == AUTO:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield given.says(path, "wrong", f"{value!r} is no number; write it without quotes")
        elif not isfinite(value) or value < 0:
            yield given.says(path, "wrong", f"{value!r}: DeepSpeed takes numbers of 0 and more alone")
        elif isinstance(value, float) and (name in WHOLE or (path[0] == ZERO and value % 1)):
            yield given.says(path, "wrong", f"{value!r} is no whole number; write {value:.0f}")
    for path, value in given.leaves():
        if isinstance(value, str) and value.lower() in ("true", "false") and path != ("comment",):
            yield given.says(path, "wrong", f"{value!r} is text, which counts as true; write it without quotes")


def _blocks(given: Given) -> Iterator[Problem]:
    for key, why in CHANGES.items():
        if given.has(key) and given.get(key, "enabled", default=True) is not False:
            yield given.says((key,), "contradiction", f"{why}; remove the block")
    for key, why in UNREAD.items():
        if given.has(key):
            yield given.says((key,), "dead", f"nothing reads it: {why}")
    if given.get("gradient_allreduce_op", default="mean") != "mean":
        told = "gradients would grow with the number of devices; the spec's learning rate is for their mean"
        yield given.says(("gradient_allreduce_op",), "contradiction", told)
    if given.get("bf16", "enabled") is True and given.get("fp16", "enabled") is True:
        yield given.says(("fp16", "enabled"), "wrong", "bf16 is enabled too; DeepSpeed takes one of them")
    for kind in ("fp16", "bf16"):
        if given.get(kind, "enabled") is False:
            for key in given.get(kind):
                if key != "enabled":
                    yield given.says((kind, key), "dead", f"nothing reads it while {kind}.enabled is false")
    if given.has("aio") and "nvme" not in str(_zero(given)):
        yield given.says(("aio",), "dead", "nothing reads it without an offload to nvme")


def _types_of_gradients(given: Given, plan: Plan) -> Iterator[Problem]:
    """Settings that add gradients up in another type, or scaled otherwise, than the plan's engine does."""
    for path in (("communication_data_type",), ("data_types", "grad_accum_dtype")):
        value = given.get(*path)
        if value is None or plan.setting.sums_fp32:  # which is fp32 alone, and told with all that the plan decides
            continue
        if value not in (plan.precision, "fp32"):
            told = f"the file says {value}, the plan computes in {plan.precision}; remove it, or use fp32"
            yield given.says(path, "contradiction", told)
        elif path[-1] == "grad_accum_dtype" and value != plan.precision and plan.strategy == "zero1":
            told = "DeepSpeed takes another optimizer of its own for it at stage 1; remove it, or use zero2"
            yield given.says(path, "contradiction", told)
    if given.get("prescale_gradients") is True and given.get("gradient_predivide_factor", default=1.0) != 1.0:
        told = "gradients would be divided twice over; the spec's learning rate is for their mean"
        yield given.says(("gradient_predivide_factor",), "contradiction", told)


def _stages(given: Given) -> Iterator[Problem]:
    zero = _zero(given)
    stage, offloaded = zero.get("stage", 0), _offloaded(given)
    if type(stage) is not int:  # told already
        return
    if stage not in ZERO_STAGES.values():
        yield given.says((ZERO, "stage"), "wrong", f"{stage} is no stage that muster trains with; use 1, 2 or 3")
    elif strategy(given) is None:
        yield given.says((ZERO, offloaded[0]), "wrong", f"muster offloads at stages 2 and 3 alone, not at {stage}")
    for key in zero:
        if stage < 3 and (key.startswith("stage3_") or key in keys.STAGE3 or key == "sub_group_size"):
            yield given.says((ZERO, key), "dead", f"nothing reads it at stage {stage}; only stage 3 does")
    if stage < 3 and "offload_param" in offloaded:
        told = f"nothing reads it at stage {stage}; only stage 3 divides weights"
        yield given.says((ZERO, "offload_param"), "dead", told)
    if stage == 3 and len(offloaded) == 1:
        other = {"offload_optimizer": "offload_param", "offload_param": "offload_optimizer"}[offloaded[0]]
        yield given.says((ZERO, offloaded[0]), "contradiction", f"zero3_offload moves both; add {other}")
    if stage == 3 and zero.get(GATHER) is False:
        told = "other tools then save an adapter of 40 bytes (trl#4416); use true"
        yield given.says((ZERO, GATHER), "wrong", told)
    for what in offloaded:
        if given.get(ZERO, what, "device") == "nvme":
            yield given.says((ZERO, what, "device"), "contradiction", "muster plans for an offload to the cpu")
    if offloaded and given.get("zero_force_ds_cpu_optimizer", default=True) is not False:
        told = "DeepSpeedCPUAdam would be compiled and take the place of training.optimizer; set it to false"
        yield given.says(("zero_force_ds_cpu_optimizer",), "contradiction", told)


def _against(given: Given, plan: Plan) -> Iterator[Problem]:
    """What training itself refuses when it starts with this file."""
    named = strategy(given)
    if named is not None and named != plan.strategy:
        yield given.says((ZERO, "stage"), "contradiction", f"this is {named}, the plan is {plan.strategy}")
    values = {key: value for key, value in given.values.items() if not _mistyped(given, key)}
    as_zero = plan if plan.zero_stage else plan.model_copy(update={"strategy": named or "zero2"})
    for path, problem in complete_deepspeed(values, as_zero)[1]:
        yield given.says(path, "contradiction", problem)
    micro, steps = (given.get(key) for key in DECIDED[1:3])
    total = given.get(DECIDED[0])
    if all(type(value) is int for value in (micro, steps, total)) and micro * steps * plan.world_size != total:
        told = f"{micro} x {steps} x {plan.world_size} devices = {micro * steps * plan.world_size}, not {total}"
        yield given.says((DECIDED[0],), "wrong", f"micro-batch x accumulation x devices is {told}")


def _mistyped(given: Given, key: str) -> bool:
    """A number in quotes, which is told already."""
    return key in NUMBERS and isinstance(given.get(key), str) and given.get(key) != AUTO


def _costs(given: Given, plan: Plan) -> Iterator[Problem]:
    """What takes more of each device than the plan knows of."""
    ours: int = deepspeed_config(plan.strategy, plan)[ZERO]["reduce_bucket_size"]
    path = (ZERO, "reduce_bucket_size")
    value = _amount(given, path, DEFAULT_BUCKET)
    copies = 2 if plan.zero_stage == 2 and given.get(ZERO, "overlap_comm", default=False) else 1
    more = int(copies * plan.setting.element * (value - ours)) if value is not None else 0
    if more > COSTLY_BYTES:
        default = "" if given.has(*path) else f"without it DeepSpeed takes {DEFAULT_BUCKET:,}: "
        told = f"{default}costs {amount(more)} more on each device than {ours:,}, and no adapter fills it"
        yield given.says(path, "costly", told)
    if plan.zero_stage == 3 and plan.world_size > 1 and plan.setting.gpu:
        yield from _gathers(given, plan)


def _gathers(given: Given, plan: Plan) -> Iterator[Problem]:
    """Limits by which ZeRO-3 keeps more weights gathered than by muster's, each by itself."""
    ours = limits(plan.architecture)
    least = most_gathered(plan.architecture, plan.setting, ours).reserved
    for name, key in GATHERED.items():
        default = getattr(ours, name)
        value = _amount(given, (ZERO, key), default)
        if value is None or value <= default:
            continue
        theirs = ours._replace(**{name: int(value)})
        more = most_gathered(plan.architecture, plan.setting, theirs).reserved - least
        if more > COSTLY_BYTES:
            told = f"costs {amount(more)} more on each device than {default:,}, in weights that it keeps gathered"
            yield given.says((ZERO, key), "costly", told)


def _amount(given: Given, path: tuple[str, str], default: int) -> float | None:
    """None for "auto", and for what is no number, which is told elsewhere."""
    value = given.get(*path, default=default)
    return None if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) else value
