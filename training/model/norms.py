"""An RMS norm as one operation: `model.norms: fused`.

transformers computes it in eight, in fp32, and autograd keeps the input in fp32 (RMSNorm, arXiv 1910.07467). Here the
input is kept as it came, and read again in the backward pass. On a GPU both passes are torch's own kernels where it has
some for the input's type; elsewhere they are written out below, in fp32 and rounded as transformers rounds.
"""

import types
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import rms_norm

Tensor = torch.Tensor


class Norm(torch.autograd.Function):
    """`weight * x / sqrt(mean(x^2) + epsilon)`, x (..., width), with a frozen weight (width). Forward is to be called
    where autocast is off: it would make the products in its own type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = _wide(x)
        inverse = torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(epsilon).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(x, weight, inverse)
        output: Tensor = weight * (wide * inverse).to(x.dtype)
        return output

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """With n = x * inverse and d the gradient of n, that of x is `inverse * (d - n * mean(d * n))`."""
        x, weight, inverse = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            wide, to_x = _wide(x), _wide((gradients[0] * weight).to(x.dtype))
            along = torch.linalg.vecdot(to_x, wide).unsqueeze(-1).mul_(inverse).mul_(inverse).div_(x.shape[-1])
            return torch.addcmul(to_x, wide, along, value=-1).mul_(inverse).to(x.dtype), None, None


def fuse_norms(model: Any) -> None:
    """Makes every RMS norm of a model one operation. Not where launch/plan/kernels.py says why not."""
    for module in model.modules():
        if _is_norm(module):
            module.forward = types.MethodType(_forward, module)  # methods, so that a copy of the model has its own


def norms_are_fused(model: Any) -> bool:
    """Whether all are."""
    found = [getattr(module.forward, "__func__", None) is _forward for module in model.modules() if _is_norm(module)]
    return bool(found) and all(found)


def _is_norm(module: Any) -> bool:
    """Whether it is one as Qwen2, Qwen3 and Llama have it."""
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


def _forward(norm: Any, x: Tensor) -> Tensor:
    """In place of the model's own."""
    with torch.autocast(x.device.type, enabled=False):
        if x.is_cuda and x.dtype == norm.weight.dtype:
            return rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)
        return Norm.apply(x, norm.weight, norm.variance_epsilon)  # type: ignore[no-any-return, no-untyped-call]


def _wide(tensor: Tensor) -> Tensor:
    """In fp32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
