"""What goes into an adapter stays in the base's type under autocast, which computes in that type anyway.

PEFT casts it to the fp32 that the adapter is held in, and autocast casts that back to the same bits: two copies for
each adapted linear, of which the second is kept for the backward pass, where q, k and v could share one, and gate and
up. PEFT's own layers for packed weights leave it out on GPUs, too (peft/tuners/lora/bnb.py). DoRA computes with the
input itself, and dropout in bf16 would round otherwise: with these it is cast as ever.
"""

import types
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

Tensor = torch.Tensor


def leave_inputs(model: Any) -> None:
    """For every adapted layer of a model whose forward pass may run under autocast; without it nothing changes."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and not module.lora_variant:
            module._cast_input_dtype = types.MethodType(_cast_input, module)  # type: ignore[method-assign]


def _cast_input(layer: LoraLayer, x: Tensor, dtype: torch.dtype) -> Tensor:
    """In place of PEFT's own."""
    drops = layer.training and any(getattr(dropout, "p", 0) for dropout in layer.lora_dropout.values())
    kind = x.device.type
    if not drops and torch.is_autocast_enabled(kind) and x.dtype == torch.get_autocast_dtype(kind):
        return x
    cast: Tensor = LoraLayer._cast_input_dtype(layer, x, dtype)
    return cast
