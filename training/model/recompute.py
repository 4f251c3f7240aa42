"""Gradient checkpointing block by block: some make their activations again in the backward pass, others keep them."""

from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_blocks(base: Any, first: int, count: int) -> None:
    """Of a transformers model `count` blocks from number `first` on keep their input alone.

    Set on each block, as GradientCheckpointingLayer documents it. The model's own switch sets all of them, every second
    one or every third, and makes the embeddings' output ask for a gradient. Blocks in front of the first trained one
    would then keep activations for it; without reentrance nothing needs that.
    """
    again = partial(checkpoint, use_reentrant=False)
    for block in base.model.layers[first : first + count]:
        block._gradient_checkpointing_func = again
        block.gradient_checkpointing = True


def checkpointed_blocks(model: Any) -> int:
    """How many are."""
    blocks = (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
    return sum(block.gradient_checkpointing for block in blocks)
