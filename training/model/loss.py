"""Output head and loss in one, over a chunk of tokens at a time: the logits of a batch are never there at once.

A vocabulary of 152,000 makes the logits the largest tensor of a step: 4,096 tokens cost 7.5 GB with all that the plain
loss makes of them (docs/memory.md). Here a chunk's gradient is computed as soon as its loss is, so that of each chunk
only the gradient of the head's input is left (the idea of Liger-Kernel, arXiv 2410.10989, section 3.2; here in torch's
own operations, on any device). Only positions that predict a label are computed at all. The head must be frozen: its
own gradient is not made.

The head keeps its place as a module, and is called once: ZeRO-3 and FSDP2 gather its weight as in any other layer.
"""

import functools
import types
from typing import Any

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from launch.errors import PlanMismatch
from launch.memory.setting import LOSS_CHUNK
from training.data.sequences.labels import IGNORED

Tensor = torch.Tensor


class ChunkedLoss(torch.autograd.Function):
    """(hidden (n, h), weight (V, h), labels (n,)) -> the summed cross-entropy, a scalar in fp32.

    Logits are computed in `hidden`'s type and their softmax in fp32, as transformers' ForCausalLMLoss does.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        for start in range(0, len(labels), LOSS_CHUNK):
            part = slice(start, start + LOSS_CHUNK)
            scores = torch.log_softmax((hidden[part] @ weight.T).float(), -1)
            wanted = labels[part, None]
            total -= scores.gather(1, wanted).sum()
            if gradient is not None:  # softmax less one at the label
                scores.exp_().scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=torch.float32))
                torch.mm(scores.to(hidden.dtype), weight, out=gradient[part])
            del scores  # or it would be there beside the next chunk's logits
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype), None, None


def positions_of(labels: Tensor) -> Tensor:
    """Of labels (rows, length) the flat positions whose hidden state predicts one, which is the next token's."""
    after = torch.full_like(labels, IGNORED)
    after[:, :-1] = labels[:, 1:]
    return (after.flatten() != IGNORED).nonzero().flatten()


def chunk_loss(base: Any) -> None:
    """Makes `base(labels=...)` compute its loss so; without labels it is what it was.

    It then takes `label_positions`, too, which the collator has counted on the CPU: a GPU would have to be waited for.

    Raises PlanMismatch for a head that is adapted.
    """
    head = base.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        raise PlanMismatch(f"training.loss: chunked needs a plain output head, this one is a {type(head).__name__}")
    head.forward = types.MethodType(_head_forward, head)  # methods, so that a copy of the model has its own
    base.forward = types.MethodType(_chunked(type(base).forward), base)
    base.loss_chunked = True


def is_chunked(model: Any) -> bool:
    """Whether the model inside an adapter computes its loss in chunks."""
    return bool(getattr(model.get_base_model(), "loss_chunked", False))


def _chunked(plain: Any) -> Any:
    @functools.wraps(plain)  # transformers reads the signature: of what generates, and of what takes a loss's count
    def forward(self: Any, *positional: Any, labels: Tensor | None = None, **named: Any) -> Any:
        if labels is None:
            return plain(self, *positional, **named)
        return _with_loss(self, labels, *positional, **named)

    return forward


def _head_forward(self: Any, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
    if labels is None:
        return torch.nn.functional.linear(hidden, self.weight, self.bias)
    device, weight = hidden.device.type, self.weight
    if weight.requires_grad:
        raise PlanMismatch("training.loss: chunked makes no gradient of the output head, and this one is trained")
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        return ChunkedLoss.apply(hidden, weight, labels)  # type: ignore[no-any-return, no-untyped-call]


def _with_loss(
    base: Any, labels: Tensor, *positional: Any, label_positions: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None, **named: Any,
) -> Any:  # fmt: skip
    """Mean over `num_items_in_batch` labels, or over this batch's own; no logits."""
    positions = positions_of(labels) if label_positions is None else label_positions
    hidden = base.model(*positional, **named).last_hidden_state.flatten(0, 1).index_select(0, positions)
    summed = base.lm_head(hidden, labels.flatten().index_select(0, positions + 1))
    return CausalLMOutputWithPast(
        loss=summed / (max(1, len(positions)) if num_items_in_batch is None else num_items_in_batch)
    )
