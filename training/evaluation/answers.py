"""Prompts -> answers, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from training.evaluation.batches import in_batches


@dataclass(frozen=True)
class Answering:
    """How answers are made: the most likely token each time, so that the same model gives the same answers."""

    max_new_tokens: int
    max_positions: int
    pad: int
    ends: frozenset[int]
    """Tokens that end an answer."""
    in_step: bool = False
    """Whether a rank goes on until the last one is done, as engines that gather weights need."""

    def config(self, longest: int) -> GenerationConfig:
        room = max(1, min(self.max_new_tokens, self.max_positions - longest))
        # Whatever a model's own generation_config.json may say is said here, for what is left open comes from there.
        return GenerationConfig(
            max_new_tokens=room, do_sample=False, num_beams=1, temperature=1.0, top_p=1.0, top_k=50,
            repetition_penalty=1.0, no_repeat_ngram_size=0, use_cache=True, pad_token_id=self.pad,
            eos_token_id=sorted(self.ends),
        )  # fmt: skip


@dataclass(frozen=True)
class Answer:
    place: int
    """Of its prompt."""
    tokens: list[int]
    """Without the one that ends it."""
    complete: bool
    """False where it was cut off at max_new_tokens."""


def answers(model: Any, prompts: Sequence[list[int]], how: Answering, batch_size: int) -> Iterator[Answer]:
    """Answers as they come, those to the longest prompts first. With `in_step` every rank gives as many prompts.

    Raises GpuMemoryError when a single one is too much.
    """
    places = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    for batch, found in in_batches(places, batch_size, lambda some: _batch(model, [prompts[p] for p in some], how)):
        for place, (tokens, complete) in zip(batch, found, strict=True):
            yield Answer(place, tokens, complete)


def _batch(model: Any, prompts: list[list[int]], how: Answering) -> list[tuple[list[int], bool]]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), how.pad)
    attended = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left: an answer begins right behind its prompt
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attended[row, width - len(prompt) :] = 1
    made = model.generate(
        input_ids=ids.to(model.device), attention_mask=attended.to(model.device), generation_config=how.config(width),
        synced_gpus=how.in_step,
    )  # fmt: skip
    return [_cut(row, how.ends) for row in made[:, width:].tolist()]


def _cut(tokens: list[int], ends: frozenset[int]) -> tuple[list[int], bool]:
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    return (tokens, False) if end is None else (tokens[:end], True)
