"""The loss over held-out sequences, whatever the batch."""

from typing import Any

import torch

from training.data.sequences.labels import IGNORED


def summed_loss(model: Any, inputs: dict[str, Any]) -> tuple[float, int]:
    """(sum of the loss over the tokens that are trained on, how many they are) of one micro-batch."""
    # Divided by one item, transformers' loss is the sum over the tokens.
    loss = model(**inputs, num_items_in_batch=torch.ones((), device=inputs["labels"].device)).loss
    return float(loss), int((inputs["labels"][:, 1:] != IGNORED).sum())
