"""Attention over documents of any length that share a sequence, without a mask: `model.attention: varlen`.

A packed sequence under SDPA needs a block-diagonal mask, length x length, and torch's fastest kernels take none: scores
between documents are computed and thrown away. Here the kernel is told where documents begin. On a GPU it is torch's
own (torch.nn.attention.varlen, FlashAttention-2), on a CPU a causal SDPA for each document. What comes without the
collator's boundaries, a question that is answered or a model that is checked, goes the way of SDPA.
"""

from inspect import signature
from typing import Any

import torch
from torch.nn.attention import activate_flash_attention_impl, current_flash_attention_impl
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from launch.errors import UsageError
from launch.plan.kernels import FLASH_PACKAGES
from launch.spec import FlashAttention
from launch.wording import first_line

Tensor = torch.Tensor
NAME = "varlen"
# Models that take masks by the kind of a layer's attention. To be given none spares them from looking for packed rows,
# for which the host would have to wait for the GPU in each micro-batch (transformers, find_packed_sequence_indices).
TAKE_MASKS_BY_NAME = ("qwen2", "qwen3")
NO_MASKS = {"full_attention": None, "sliding_attention": None}


def register() -> None:
    """Makes `attn_implementation="varlen"` known to transformers. May be called again."""
    AttentionInterface.register(NAME, varlen_forward)
    AttentionMaskInterface.register(NAME, varlen_mask)


def use_flash_kernels(kernels: FlashAttention) -> None:
    """Makes torch call another package's FlashAttention wherever it would call its own, in this process.

    Raises UsageError where the package is missing, or is not what torch expects.
    """
    if kernels == "torch":
        return
    try:
        activate_flash_attention_impl(kernels.upper())
    except (ImportError, OSError, RuntimeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"model.flash_attention {kernels}: its kernels cannot be used: {first_line(error)}; install the package"
            f" {FLASH_PACKAGES[kernels][1]}, or use torch"
        ) from error


def flash_kernels() -> str:
    """Whose FlashAttention torch calls: `torch` for its own."""
    return (current_flash_attention_impl() or "torch").lower()


def documents(positions: Tensor) -> dict[str, Any]:
    """Of position ids (rows, length) that restart with each document, in transformers' words for flash attention:
    cumulative lengths (documents + 1) over all rows laid end to end, and the longest document."""
    begins = (positions.flatten() == 0).nonzero().flatten()
    bounds = torch.cat([begins, torch.tensor([positions.numel()])]).to(torch.int32)
    return {"cu_seq_lens_q": bounds, "max_length_q": int(bounds.diff().max())}


def varlen_mask(*positional: Any, **named: Any) -> Tensor | None:
    """None in training, where the boundaries say all; SDPA's own for what is padded or has a cache."""
    if named.get("attention_mask") is None and named["q_length"] == named["kv_length"]:
        return None
    mask: Tensor | None = sdpa_mask(*positional, **named)
    return mask


def varlen_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    cu_seq_lens_q: Tensor | None = None, max_length_q: int | None = None, scaling: float | None = None,
    sliding_window: int | None = None, **named: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Queries (rows, heads, length, width), keys and values with their own heads -> (rows, length, heads, width).

    Raises ValueError for packed rows whose boundaries did not come along: documents would see one another.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        positions = named.get("position_ids")
        if attention_mask is None and positions is not None and (positions.diff(dim=-1) != 1).any():
            raise ValueError("varlen attention of packed rows needs cu_seq_lens_q and max_length_q")
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, **named
        )
    rows, heads, length, width = query.shape
    q, k, v = (states.transpose(1, 2).reshape(rows * length, -1, width) for states in (query, key, value))
    window = sliding_window if sliding_window and sliding_window < max_length_q else None
    if query.is_cuda:
        found = _on_gpu(q, k, v, cu_seq_lens_q, max_length_q, scaling, window)
    else:
        found = _one_by_one(q, k, v, cu_seq_lens_q, scaling, window)
    return found.reshape(rows, length, heads, width), None


def _on_gpu(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if torch.is_autocast_enabled(query.device.type):
        # As autocast does for SDPA: queries and keys are fp32 behind norms and embeddings that are held so.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    # torch 2.11's takes grouped keys unasked, and does not know the word.
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
    found = varlen_attn(
        query, key, value, bounds, bounds, longest, longest, scale=scaling,
        window_size=(-1 if window is None else window - 1, 0), **grouped,
    )  # fmt: skip
    assert isinstance(found, Tensor)
    return found


# Compiled, sizes that differ from row to row would make graphs of their own, and soon none at all.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """Heads come first for SDPA: (1, heads, length, width) of each document."""
    sizes, parts = bounds.diff().tolist(), []
    each = (torch.split(states.transpose(0, 1)[None], sizes, 2) for states in (query, key, value))
    for q, k, v in zip(*each, strict=True):
        mask = None if window is None or window >= q.shape[2] else _banded(q.shape[2], window, query.device)
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        )
    return torch.cat(parts, 2)[0].transpose(0, 1)


def _banded(length: int, window: int, device: torch.device) -> Tensor:
    behind = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (behind >= 0) & (behind < window)
