"""Prompts -> answers, in batches."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from training.evaluation.batches import in_batches


@dataclass(frozen=True)
class Answering:
    """How answers are made: the most likely token each time, whatever a model's own settings say."""

    max_new_tokens: int
    max_positions: int
    pad: int
    ends: frozenset[int]
    """Tokens that end an answer."""
    in_step: bool = False
    """Whether a rank goes on until the last one is done, as engines that gather weights need."""

    def room(self, prompt: int) -> int:
        """Tokens of an answer to a prompt of so many: a model has only so many positions."""
        return max(1, min(self.max_new_tokens, self.max_positions - prompt))


@dataclass(frozen=True)
class Answer:
    place: int
    """Of its prompt."""
    tokens: list[int]
    """Without the one that ends it."""
    complete: bool
    """False where it was cut off, at max_new_tokens or the model's last position."""


def ends(model: Any, trained: Iterable[int]) -> frozenset[int]:
    """What ends an answer: the tokens that end one in training, and those of the model's own settings."""
    own = model.generation_config.eos_token_id
    return frozenset(trained) | frozenset([] if own is None else own if isinstance(own, list) else [own])


def answers(model: Any, prompts: Sequence[list[int]], how: Answering, batch_size: int) -> Iterator[Answer]:
    """Answers as they come, those to the longest prompts first. With `in_step` every rank gives as many prompts.

    A prompt near the model's last position is answered alone, so that it takes no room from others. Raises
    GpuMemoryError when a single one is too much.
    """
    places = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    # In step, every rank has to ask as often: nothing is batched by length there, and nothing halved.
    alone = [place for place in places if how.in_step or how.room(len(prompts[place])) < how.max_new_tokens]
    together = [place for place in places if place not in set(alone)]

    def work(some: list[int]) -> list[tuple[list[int], bool]]:
        return _batch(model, [prompts[place] for place in some], how)

    for some, size in ((alone, 1), (together, batch_size)):
        for batch, found in in_batches(some, size, work):
            for place, (tokens, complete) in zip(batch, found, strict=True):
                yield Answer(place, tokens, complete)


def _batch(model: Any, prompts: list[list[int]], how: Answering) -> list[tuple[list[int], bool]]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), how.pad)
    attended = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left: an answer begins right behind its prompt
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        attended[row, width - len(prompt) :] = 1
    config = GenerationConfig(
        max_new_tokens=how.room(width), do_sample=False, use_cache=True, pad_token_id=how.pad,
        eos_token_id=sorted(how.ends),
    )  # fmt: skip
    with _without_own_settings(model):
        made = model.generate(
            input_ids=ids.to(model.device), attention_mask=attended.to(model.device), generation_config=config,
            synced_gpus=how.in_step,
        )  # fmt: skip
    return [_cut(row, how.ends) for row in made[:, width:].tolist()]


@contextmanager
def _without_own_settings(model: Any) -> Iterator[None]:
    """What a GenerationConfig leaves open, transformers takes from the model's own: penalties, suppressed tokens."""
    holders = {id(holder): holder for holder in (model, getattr(model, "get_base_model", lambda: model)())}.values()
    before = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder, config in zip(holders, before, strict=True):
            holder.generation_config = config


def _cut(tokens: list[int], ends: frozenset[int]) -> tuple[list[int], bool]:
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    return (tokens, False) if end is None else (tokens[:end], True)
