"""Adapter and optimizer as whole tensors by parameter name, whatever engine holds them, and back.

So a checkpoint does not know the strategy that wrote it: one from ZeRO-3 on eight GPUs continues on one. For LoRA
this is cheap: rank 8 on a 14B model is 34 million parameters, 413 MB with both Adam moments. Every rank must call
these functions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
# bitsandbytes' names for the same two moments.
BITSANDBYTES = {"exp_avg": "state1", "exp_avg_sq": "state2"}

Named = list[tuple[str, torch.nn.Parameter]]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Gathered:
    """Whole tensors of one moment, which may still be the training's own memory."""

    tensors: Tensors
    sent: frozenset[str]
    """Names of those that came from a GPU: fp32 in host memory that is the caller's, once they have arrived."""
    arrival: torch.cuda.Event | None

    def copies(self) -> Tensors:
        """fp32 tensors in host memory that are the caller's own. Any thread may make them, before the next update."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return {
            name: tensor if name in self.sent else torch.empty(tensor.shape, dtype=torch.float32).copy_(tensor)
            for name, tensor in self.tensors.items()
        }


def gather_adapter(parameters: Named, kept: bool = True) -> Gathered:
    """The trained weights: the master weights where the engine keeps such. `kept`: whether this rank wants them."""
    return _gathered(((name, _master(parameter)) for name, parameter in parameters), kept)


def scatter_adapter(parameters: Named, tensors: Tensors) -> None:
    """Puts whole tensors back, into the master weights too."""
    for name, parameter in parameters:
        value = tensors[name]
        if hasattr(parameter, "ds_id"):
            _set_zero3(parameter, value, None)
            _refresh_zero3(parameter, value)
        else:
            if hasattr(parameter, "_hp_mapping"):
                parameter.set_full_hp_param(value.to(parameter.device))  # type: ignore[attr-defined]
            with torch.no_grad():
                parameter.copy_(_like(parameter, value))


def gather_optimizer(optimizer: Any, parameters: Named, kept: bool = True) -> tuple[Gathered, int]:
    """Both Adam moments of each parameter, and the number of updates they have seen. `kept` as above."""
    _link_states(optimizer)
    inner = innermost(optimizer)
    keys = _keys(inner)
    moments = (
        (f"{name}.{moment}", _moment(inner, parameter, keys[moment]))
        for name, parameter in parameters
        for moment in MOMENTS
    )
    return _gathered(moments, kept), _updates(inner)


def scatter_optimizer(optimizer: Any, parameters: Named, tensors: Tensors, updates: int) -> None:
    """Puts the moments back, into an optimizer that has stepped, as any has that was rehearsed.

    One that has not stepped takes them too, but for bitsandbytes' under ZeRO-3, whose groups are empty until it steps.
    """
    inner = innermost(optimizer)
    keys = _keys(inner)
    _set_states(optimizer, inner, updates)
    _link_states(optimizer)
    for name, parameter in parameters:
        for moment in MOMENTS:
            value = tensors[f"{name}.{moment}"]
            if hasattr(parameter, "ds_id"):
                _set_zero3(parameter, value, keys[moment])
            elif hasattr(parameter, "_hp_mapping"):
                parameter.set_full_hp_param(value, keys[moment])  # type: ignore[attr-defined]
            else:
                state = inner.state[parameter]
                state[keys[moment]].copy_(_like(state[keys[moment]], value))


def _link_states(optimizer: Any) -> None:
    """Lets each parameter of ZeRO-2 find its moments.

    DeepSpeed does so once, after the step of its first parameter group, when the others have none yet.
    """
    zero = zero_optimizer(optimizer)
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _set_states(optimizer: Any, inner: Any, updates: int) -> None:
    """The update count for each tensor that the optimizer steps, and moments where it has none yet."""
    for group_index, index, tensor in _stepped(optimizer, inner):
        group = inner.param_groups[group_index]
        state = inner.state[tensor]
        if hasattr(inner, "init_state"):  # bitsandbytes, which may place the moments in paged memory
            if not state:
                inner.init_state(group, tensor, group_index, index)
            inner.state[tensor]["step"] = updates
        else:
            on_device = group.get("fused") or group.get("capturable")
            state["step"] = torch.tensor(float(updates), device=tensor.device if on_device else "cpu")
            for moment in MOMENTS:
                state.setdefault(moment, torch.zeros_like(tensor))


def _stepped(optimizer: Any, inner: Any) -> list[tuple[int, int, torch.Tensor]]:
    """(group, place in it, tensor) of what the optimizer steps: the parameters, or ZeRO's flat partitions of them.

    ZeRO-3 keeps its partitions out of the groups and lends them to the optimizer for the moment of a step.
    """
    zero = zero_optimizer(optimizer)
    if zero is not None and hasattr(zero, "fp32_partitioned_groups_flat"):
        flat = zero.fp32_partitioned_groups_flat
        return [(zero.sub_group_to_group_id[number], number, tensor) for number, tensor in enumerate(flat)]
    groups = enumerate(inner.param_groups)
    return [(number, index, tensor) for number, group in groups for index, tensor in enumerate(group["params"])]


def _master(parameter: torch.nn.Parameter) -> torch.Tensor:
    if hasattr(parameter, "ds_id"):
        return parameter._z3_optimizer.get_full_hp_param(parameter)  # type: ignore[attr-defined,no-any-return]
    if hasattr(parameter, "_hp_mapping"):
        return parameter.get_full_hp_param()  # type: ignore[attr-defined,no-any-return]
    return whole(parameter.detach())


def _moment(inner: Any, parameter: torch.nn.Parameter, key: str) -> torch.Tensor:
    if hasattr(parameter, "ds_id"):
        return parameter._z3_optimizer.get_full_hp_param(parameter, key)  # type: ignore[attr-defined,no-any-return]
    if hasattr(parameter, "_hp_mapping"):
        return parameter.get_full_hp_param(key)  # type: ignore[attr-defined,no-any-return]
    state = inner.state.get(parameter)
    return whole(state[key]) if state else torch.zeros(parameter.shape)


def _set_zero3(parameter: torch.nn.Parameter, value: torch.Tensor, key: str | None) -> None:
    """This rank's slice of a whole tensor.

    DeepSpeed's own setter fails when the size is not a multiple of the ranks.
    """
    engine = parameter._z3_optimizer  # type: ignore[attr-defined]
    partition, _ = engine._get_fp32_opt_state_partition(parameter, release_swap_buffers=False, optim_state_key=key)
    partition.data.copy_(_slice(value, partition.numel(), engine._get_param_partition_rank(parameter)))


def _refresh_zero3(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """The working copy of the parameter beside its fp32 master."""
    if parameter.ds_tensor is None:  # type: ignore[attr-defined]
        return
    shard = parameter.ds_tensor  # type: ignore[attr-defined]
    rank = parameter._z3_optimizer._get_param_partition_rank(parameter)  # type: ignore[attr-defined]
    shard.data.copy_(_slice(value, shard.numel(), rank))
    if parameter.numel() == parameter.ds_numel:  # type: ignore[attr-defined] # small ones persist whole on every rank
        parameter.data.copy_(value.reshape(parameter.shape))


# What ZeRO's dynamic loss scaler counts (deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler).
_LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def read_loss_scale(optimizer: Any, scaler: Any) -> dict[str, Any] | None:
    """State of fp16's dynamic loss scale, of ZeRO's or of torch's GradScaler; None where nothing is scaled."""
    zero = getattr(zero_optimizer(optimizer), "loss_scaler", None)
    if zero is not None and zero.dynamic:
        return {name: getattr(zero, name) for name in _LOSS_SCALE}
    return scaler.state_dict() if scaler else None


def write_loss_scale(optimizer: Any, scaler: Any, saved: dict[str, Any] | None) -> None:
    """Goes on with the saved scale; between ZeRO and GradScaler, which count differently, with the scale alone."""
    if not saved:
        return
    scale = float(saved.get("cur_scale", saved.get("scale", 0)))
    zero = getattr(zero_optimizer(optimizer), "loss_scaler", None)
    if zero is not None and zero.dynamic:
        for name in _LOSS_SCALE:
            setattr(zero, name, saved.get(name, getattr(zero, name)))
        zero.cur_scale = scale
    elif scaler:
        scaler.load_state_dict(saved if "scale" in saved else {**scaler.state_dict(), "scale": scale})


def _slice(value: torch.Tensor, size: int, rank: int) -> torch.Tensor:
    flat = value.flatten()[size * rank : size * (rank + 1)]
    return torch.nn.functional.pad(flat, (0, size - flat.numel()))


def _like(target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if isinstance(target, DTensor):
        local = value.to(device=target.device, dtype=target.dtype)
        return distribute_tensor(local, target.device_mesh, target.placements)
    return value


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A DTensor put together; every rank calls this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gathered(named: Iterable[tuple[str, torch.Tensor]], kept: bool) -> Gathered:
    """From a GPU all tensors are sent at once, one by one as they are put together, into pinned memory. A rank that
    does not keep them puts them together all the same, as the others cannot without it.

    A pageable copy goes at 3 to 6 GB/s, a pinned one at the link's 25 to 50; torch keeps the pinned blocks for the next
    save. What the training computes next is queued behind them.
    """
    tensors, sent = {}, set()
    for name, tensor in named:
        if not kept:
            continue
        tensors[name] = tensor.detach()
        if tensor.is_cuda:
            host = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=True)
            tensors[name] = host.copy_(tensors[name], non_blocking=True)
            sent.add(name)
    arrival = torch.cuda.Event() if sent else None  # type: ignore[no-untyped-call]
    if arrival is not None:
        arrival.record()
    return Gathered(tensors, frozenset(sent), arrival)


def innermost(optimizer: Any) -> Any:
    """accelerate's and DeepSpeed's wrappers each hold the next one as `.optimizer`."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def gradient_types(engine: Any) -> str:
    """What DeepSpeed sends gradients in, and adds up those of a step's micro-batches."""
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    _, summed = engine.get_data_types()
    return f"sent in {names[engine.communication_data_type]}, added up in {names[summed]}"


def zero_optimizer(optimizer: Any) -> Any:
    found = None
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
        if type(optimizer).__module__.startswith("deepspeed"):
            found = optimizer
    return found


def _keys(inner: Any) -> dict[str, str]:
    return BITSANDBYTES if hasattr(inner, "init_state") else {moment: moment for moment in MOMENTS}


def _updates(inner: Any) -> int:
    return max((int(state["step"]) for state in inner.state.values() if "step" in state), default=0)
