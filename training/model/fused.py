"""An adapted linear layer as one operation: base, A and B, with nothing but matrix products between them.

PEFT computes `base(x) + B(A(dropout(x))) * scaling`: beside the products the scaling and the sum each read and write
the whole output, and autograd adds up two gradients of the input. Here B's product is added where the base's output
lies, A's to the gradient of the input (`addmm_`, which scales as well). What is kept for the backward pass is the input
as it came, which layers share, and of dropout one byte an element.

An MLP's down_proj takes `silu(gate) * up`, and makes it once more in the backward pass: kept are gate and up, half of
what PEFT's layers keep of an MLP. axolotl's and Unsloth's LoRA kernels do the same.
"""

import types
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

Tensor = torch.Tensor
aten = torch.ops.aten


class AdaptedLinear(torch.autograd.Function):
    """`base(x) + scaling * dropout(x) A^T B^T`, x (..., inputs), A (rank, inputs), B (outputs, rank).

    With a gate, of x's shape, `silu(gate) * x` is what goes in. Products are made in autocast's type, or in that of
    `base`'s output. `base` is frozen but for its bias.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate: Tensor | None, a: Tensor, b: Tensor, bias: Tensor | None, base: torch.nn.Module,
        scaling: float, dropout: float,
    ) -> Tensor:  # fmt: skip
        inputs = x if gate is None else silu(gate) * x
        output: Tensor = base(inputs)
        casts = torch.is_autocast_enabled(x.device.type)
        ctx.products = torch.get_autocast_dtype(x.device.type) if casts else output.dtype
        rows = _rows(inputs).to(ctx.products)
        mask = torch.empty_like(rows, dtype=torch.bool).bernoulli_(1 - dropout) if dropout else None
        scaling /= 1 - dropout  # what is left is scaled up, once for all products
        dropped = _dropped(rows, mask)
        narrow, into = dropped.mm(a.to(rows.dtype).t()), output.view(-1, output.shape[-1])
        if output.dtype == ctx.products:
            into.addmm_(narrow, b.to(rows.dtype).t(), alpha=scaling)
        else:  # a packed layer's, behind norms in fp32
            into.add_(narrow.mm(b.to(rows.dtype).t()), alpha=scaling)
        kept = (rows, None) if gate is None else (_rows(x), _rows(gate))
        ctx.save_for_backward(*kept, mask, narrow, a, b, base.weight)
        ctx.shape, ctx.type, ctx.scaling = x.shape, x.dtype, scaling
        ctx.packing = getattr(base.weight, "quant_state", None)
        ctx.bias_type = None if bias is None else bias.dtype
        return output

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, mask, narrow, a, b, weight = ctx.saved_tensors
        output = _rows(gradients[0]).to(ctx.products)
        wanted_x, wanted_gate, wanted_a, wanted_b, wanted_bias = ctx.needs_input_grad[:5]
        to_narrow = output.mm(b.to(output.dtype)).mul_(ctx.scaling)
        to_x = to_gate = to_a = to_b = to_bias = None
        opened = None if gate is None else silu(gate)
        if wanted_a:
            inputs = x if opened is None else opened * x
            to_a = to_narrow.t().mm(_dropped(inputs, mask).to(output.dtype)).to(a.dtype)
            del inputs
        if wanted_b:
            to_b = output.t().mm(narrow).mul_(ctx.scaling).to(b.dtype)
        if wanted_bias:
            to_bias = output.sum(0).to(ctx.bias_type)
        if wanted_x or wanted_gate:
            to_x = output.mm(_whole(weight, ctx.packing, output.dtype))
            if mask is None:
                to_x.addmm_(to_narrow, a.to(output.dtype))
            else:
                to_x.addcmul_(to_narrow.mm(a.to(output.dtype)), mask)
            to_x = to_x.to(ctx.type)
            if opened is not None:
                to_up = opened.mul_(to_x)
                to_gate = aten.silu_backward.grad_input(to_x.mul_(x), gate, grad_input=to_x).view(ctx.shape)
                to_x = to_up
            to_x = to_x.view(ctx.shape)
        return to_x, to_gate, to_a, to_b, to_bias, None, None, None


def fuse(model: Any) -> None:
    """Makes every adapted layer of a model one operation while it is trained; elsewhere PEFT computes as ever.

    Not where launch/plan/kernels.py says why not.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.forward = types.MethodType(_forward, module)  # methods, so that a copy of the model has its own
        elif _gated(module):
            module.forward = types.MethodType(_gated_forward, module)


def is_fused(model: Any) -> bool:
    """Whether all adapted layers are, and the MLPs that end with one."""
    found = [
        getattr(module.forward, "__func__", None) is (_forward if isinstance(module, LoraLayer) else _gated_forward)
        for module in model.modules()
        if isinstance(module, LoraLayer) or _gated(module)
    ]
    return bool(found) and all(found)


def _gated(module: Any) -> bool:
    """Whether it is an MLP as Qwen's and Llama's are, whose last layer is adapted."""
    adapted = isinstance(getattr(module, "down_proj", None), LoraLayer)
    return adapted and module.config.hidden_act in ("silu", "swish")


def _gated_forward(mlp: Any, x: Tensor) -> Tensor:
    """In place of the model's own."""
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    if _plain(mlp.down_proj):
        return mlp.down_proj(mlp.act_fn(gate) * up)  # type: ignore[no-any-return]
    return mlp.down_proj(up, gate)  # type: ignore[no-any-return]


def _forward(layer: Any, x: Tensor, *others: Tensor, **named: Any) -> Tensor:
    """In place of PEFT's own. `others` is the gate of an MLP's last layer."""
    if _plain(layer) or named:
        result: Tensor = type(layer).forward(layer, x, *others, **named)
        return result
    (name,) = layer.active_adapters
    base, dropout = layer.base_layer, getattr(layer.lora_dropout[name], "p", 0.0)
    _settle_bias(base)
    (gate,) = others or (None,)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return AdaptedLinear.apply(x, gate, a, b, base.bias, base, layer.scaling[name], dropout)  # type: ignore[no-any-return, no-untyped-call]


def _settle_bias(base: Any) -> None:
    """bitsandbytes casts a packed layer's bias when it is first used, after autograd has noted its type."""
    wanted = getattr(base, "compute_dtype", None)
    if wanted is not None and base.bias is not None:
        base.bias.data = base.bias.data.to(wanted)


def _plain(layer: Any) -> bool:
    """Whether PEFT computes it."""
    trains = layer.training and torch.is_grad_enabled() and not layer.merged and not layer.disable_adapters
    return not trains or len(layer.active_adapters) != 1


def _rows(tensor: Tensor) -> Tensor:
    """(tokens, width)."""
    return tensor.reshape(-1, tensor.shape[-1])


def _dropped(rows: Tensor, mask: Tensor | None) -> Tensor:
    return rows if mask is None else mask.to(rows.dtype).mul_(rows)


def _whole(weight: Tensor, packing: Any, dtype: torch.dtype) -> Tensor:
    """A frozen weight (outputs, inputs), unpacked where bitsandbytes packed it."""
    if packing is None:
        return weight.to(dtype)
    if getattr(packing, "packing_format_for_cpu", False):
        raise RuntimeError("bitsandbytes has rearranged this weight for inference, after which nothing can be trained")
    from bitsandbytes.functional import dequantize_4bit

    whole: Tensor = dequantize_4bit(weight.view(-1, 1), packing).to(dtype)
    return whole
