"""Sequences -> the tensors of one micro-batch."""

from dataclasses import dataclass
from typing import Any

import torch

from launch.plan import Plan
from training.data.sequences.labels import IGNORED
from training.model.attention import NO_MASKS, TAKE_MASKS_BY_NAME, documents
from training.model.loss import positions_of


@dataclass(frozen=True)
class Collator:
    """Pads on the right to the longest sequence of the micro-batch.

    Packed sequences carry position ids that restart with each document and no attention mask: transformers then
    builds the block-diagonal mask, so that documents cannot see one another. An empty micro-batch becomes one
    ignored token.

    For a loss in chunks the positions that predict a label come along, for variable-length attention where documents
    begin and how long the longest is: counted here, for what is counted on a GPU has to be waited for.
    """

    pad_token_id: int
    packed: bool
    chunked_loss: bool = False
    varlen: bool = False
    masks_by_name: bool = False
    """Whether the model can be told that there is no mask."""
    width: int | None = None
    """Tokens that every row is padded to, so that shapes stay the same; None for the longest row's."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        rows = features or [{"index": -1, "input_ids": [self.pad_token_id], "labels": [IGNORED], "lengths": [1]}]
        width = self.width or max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), width)
        input_ids = torch.full(shape, self.pad_token_id)
        labels = torch.full(shape, IGNORED)
        positions = torch.zeros(shape, dtype=torch.long)
        attended = torch.zeros(shape, dtype=torch.long)
        for place, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[place, :length] = torch.as_tensor(row["input_ids"])
            labels[place, :length] = torch.as_tensor(row["labels"])
            attended[place, :length] = 1
            spans = [*row["lengths"], width - length]
            positions[place] = torch.cat([torch.arange(span) for span in spans])
        indices = torch.tensor([row["index"] for row in rows])
        batch: dict[str, Any] = {"input_ids": input_ids, "labels": labels, "indices": indices}
        if self.chunked_loss:
            batch["label_positions"] = positions_of(labels)
        if self.varlen:
            batch |= {"attention_mask": NO_MASKS} if self.masks_by_name else {}
            return batch | {"position_ids": positions} | documents(positions)
        return batch | ({"position_ids": positions} if self.packed else {"attention_mask": attended})


def collator(plan: Plan, pad_token_id: int) -> Collator:
    """As a plan trains."""
    data = plan.spec.data
    constant = plan.spec.training.compile and data.packing
    return Collator(
        pad_token_id, data.packing, plan.loss == "chunked", plan.attention == "varlen",
        plan.architecture.model_type in TAKE_MASKS_BY_NAME, data.max_length if constant else None,
    )  # fmt: skip
