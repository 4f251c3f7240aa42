"""Answers of a real small model."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from launch.errors import GpuMemoryError
from tests.conftest import Workspace
from training.evaluation.answers import Answering, answers, ends
from training.evaluation.batches import in_batches

NOTHING = frozenset({10**6})  # ends an answer
PROMPTS = [[5, 6, 7], [9] * 20, [11, 12], [13, 14, 15, 16, 17], [18] * 9]


@pytest.fixture
def model(workspace: Workspace) -> Any:
    return AutoModelForCausalLM.from_pretrained(workspace.root / "base").eval()


def how(**changes: Any) -> Answering:
    settings = {"max_new_tokens": 12, "max_positions": 512, "pad": 0, "ends": NOTHING, **changes}
    return Answering(**settings)


def made(model: Any, settings: Answering, batch_size: int = 2) -> list[list[int]]:
    with torch.no_grad():
        found = {answer.place: answer.tokens for answer in answers(model, PROMPTS, settings, batch_size)}
    return [found[place] for place in range(len(PROMPTS))]


def most_likely(model: Any, prompt: list[int], count: int) -> list[int]:
    """Token by token, without a cache, padding or `generate`."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_each_answer_is_the_most_likely_one_in_any_batch(model: Any) -> None:
    expected = [most_likely(model, prompt, 12) for prompt in PROMPTS]
    assert made(model, how(), batch_size=1) == made(model, how(), batch_size=4) == expected


def test_a_model_s_own_habits_change_nothing(model: Any) -> None:
    expected = made(model, how())
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, no_repeat_ngram_size=1, max_new_tokens=1,
        suppress_tokens=sorted({token for tokens in expected for token in tokens}), min_new_tokens=2,
    )  # fmt: skip
    own = model.generation_config
    assert made(model, how()) == expected
    assert model.generation_config is own


def test_an_answer_ends_where_training_ends_it(model: Any) -> None:
    whole = most_likely(model, PROMPTS[0], 12)
    end = whole[4]
    (answer,) = answers(model, PROMPTS[:1], how(ends=frozenset({end})), 1)
    assert (answer.tokens, answer.complete) == (whole[: whole.index(end)], True)
    (cut,) = answers(model, PROMPTS[:1], how(max_new_tokens=3), 1)
    assert (cut.tokens, cut.complete) == (whole[:3], False)


def test_no_answer_goes_beyond_the_model_s_positions(model: Any) -> None:
    (answer,) = answers(model, PROMPTS[1:2], how(max_positions=24), 1)
    assert (len(answer.tokens), answer.complete) == (4, False)


def test_a_long_prompt_takes_no_room_from_others(model: Any) -> None:
    tight = how(max_positions=24)
    assert made(model, tight, batch_size=5) == made(model, tight, batch_size=1)
    assert [len(tokens) for tokens in made(model, tight, batch_size=5)] == [12, 4, 12, 12, 12]


def test_in_step_every_rank_asks_as_often(model: Any) -> None:
    """Whatever the lengths, and nothing is halved: the other ranks are inside the same forward passes."""
    calls = []
    model.generate = lambda **given: calls.append(given["input_ids"].shape[0]) or given["input_ids"]
    list(answers(model, PROMPTS, how(in_step=True), 4))
    assert calls == [1] * len(PROMPTS)


def test_what_ends_an_answer(model: Any) -> None:
    for own, expected in ((None, {7}), (0, {0, 7}), ([3, 4], {3, 4, 7})):
        model.generation_config.eos_token_id = own
        assert ends(model, [7, 7]) == expected


def test_a_batch_without_room_is_halved_and_nothing_is_lost() -> None:
    tried: list[int] = []

    def work(batch: list[int]) -> list[int]:
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item * 10 for item in batch]

    found = [pair for batch, result in in_batches(range(11), 8, work) for pair in zip(batch, result, strict=True)]
    assert found == [(item, item * 10) for item in range(11)]
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]


def test_a_single_one_without_room() -> None:
    def work(batch: list[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(GpuMemoryError, match="no room for a single sequence"):
        list(in_batches([1, 2], 2, work))
