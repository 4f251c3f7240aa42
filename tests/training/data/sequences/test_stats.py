"""`muster data stats`: what is counted of small files, by hand; the picture of it."""

import json
import string
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from launch.errors import DataError
from launch.spec import DataSpec
from tests.training.data.data_files import written
from tests.training.data.encoding.chat_templates import chat_tokenizer
from training.data.encoding.template import ChatFiles
from training.data.sequences.stats import BINS, draw, measure, packing_yield


@cache
def byte_by_byte() -> ChatFiles:
    """Each byte is a token, each control token is one: lengths can be counted by hand."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=256, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["a"], trainer)
    return ChatFiles.of(chat_tokenizer("chatml", tokenizer))


def text(tokens: int, letter: str = "a") -> dict[str, Any]:
    """A row of so many tokens: its letters, and the token that ends it."""
    return {"text": letter * (tokens - 1)}


def measured(folder: Path, *rows: Any, evaluation: list[Any] | None = None, **settings: Any) -> dict[str, Any]:
    sources = {"train": str(written(folder / "rows.jsonl", *rows))}
    if evaluation is not None:
        sources["eval"] = str(written(folder / "eval.jsonl", *evaluation))
    return measure(DataSpec(**{"max_length": 64, **sources, **settings}), byte_by_byte())


FOUR = [text(10, "a"), text(20, "b"), text(30, "c"), text(40, "d")]


# Numbers


def test_four_texts_counted_by_hand(tmp_path: Path) -> None:
    found = measured(tmp_path, *FOUR)
    assert list(found["splits"]) == ["train"]
    train = found["splits"]["train"]
    histogram = train.pop("histogram")
    assert train == {
        "rows": 4,
        "samples": 4,
        "quarantined_rows": 0,
        "tokens": 100,
        "trainable_tokens": 96,  # nothing predicts the first token of a row
        "trainable_share": 0.96,
        "changes": {},
        "packing_yield": 0.78125,  # 40 + 20 and 30 + 10 of two sequences of 64
        "sequences": 2,
        "padding_share_without_packing": 0.375,  # 25 of 40 on average
        "length_percentiles": {"5": 11, "25": 17, "50": 25, "75": 32, "95": 38, "99": 39, "100": 40},
    }
    assert sum(histogram["counts"]) == 4
    assert (found["max_length"], found["packing"]) == (64, True)


def test_of_a_conversation_only_the_answer_is_trained_on(tmp_path: Path) -> None:
    """<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n is 38 tokens, the question 12, the answer 15."""
    row = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
    train = measured(tmp_path, row, max_length=100)["splits"]["train"]
    assert (train["tokens"], train["trainable_tokens"], train["trainable_share"]) == (65, 4, 0.0615)
    assert (train["packing_yield"], train["padding_share_without_packing"]) == (0.65, 0.0)


def test_both_splits_are_measured(tmp_path: Path) -> None:
    splits = measured(tmp_path, *FOUR, evaluation=[text(12, "x"), text(16, "y")])["splits"]
    assert {name: (split["rows"], split["tokens"]) for name, split in splits.items()} == {
        "train": (4, 100), "eval": (2, 28),
    }  # fmt: skip


def test_a_long_text_is_one_row_of_several_samples(tmp_path: Path) -> None:
    train = measured(tmp_path, text(150))["splits"]["train"]
    assert (train["rows"], train["samples"], train["tokens"], train["sequences"]) == (1, 3, 150, 3)
    assert train["trainable_tokens"] == 147
    assert train["changes"] == {"texts cut into parts": 1}
    assert train["length_percentiles"]["100"] == 50


def test_rows_are_not_packed_where_the_spec_says_so(tmp_path: Path) -> None:
    found = measured(tmp_path, *FOUR, packing=False)
    assert (found["packing"], found["splits"]["train"]["sequences"]) == (False, 4)


@pytest.mark.parametrize(
    "bad",
    ['{"text": ', {"prompt": "a"}, {"text": "AKIA" + "Q3EGT7ZK5MW2PX4N and that is what a secret looks like"}],
)
def test_rows_with_errors_are_left_out_and_counted(bad: Any, tmp_path: Path) -> None:
    train = measured(tmp_path, *FOUR, bad)["splits"]["train"]
    assert (train["rows"], train["samples"], train["quarantined_rows"], train["tokens"]) == (5, 4, 1, 100)
    assert train["length_percentiles"]["100"] == 40


def test_a_row_that_another_one_makes_wrong_is_in_no_number(tmp_path: Path) -> None:
    """Its id is taken; it is longer than all others."""
    rows = [{**row, "id": name} for row, name in zip(FOUR, "abcd", strict=True)]
    with_it = measured(tmp_path, *rows, {**text(64, "e"), "id": "a"})["splits"]["train"]
    without = measured(tmp_path, *rows)["splits"]["train"]
    assert (with_it["rows"], with_it["quarantined_rows"]) == (5, 1)
    assert {**with_it, "rows": 4, "quarantined_rows": 0} == without


def test_where_every_row_has_an_error_that_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every row has an error: none is left to use"):
        measured(tmp_path, {"prompt": "a"})


def test_the_histogram_goes_from_the_shortest_to_the_longest_row_and_counts_each_once(tmp_path: Path) -> None:
    rows = [text(2 + number % 32, string.ascii_letters[number]) for number in range(48)]
    lengths = [2 + number % 32 for number in range(48)]
    histogram = measured(tmp_path, *rows)["splits"]["train"]["histogram"]
    edges, last = histogram["edges"], histogram["edges"][-1]
    assert (edges[0], last, len(edges)) == (2, 33, BINS + 1)
    assert histogram["counts"] == [
        sum(low <= length < high or (high == last == length) for length in lengths) for low, high in pairwise(edges)
    ]


def test_rows_of_few_tokens_have_fewer_bins(tmp_path: Path) -> None:
    assert measured(tmp_path, text(3))["splits"]["train"]["histogram"] == {"edges": [3, 4], "counts": [1]}


def test_time_and_memory_are_positive_and_all_of_it_is_json(tmp_path: Path) -> None:
    found = measured(tmp_path, *FOUR)
    assert found["seconds"] > 0
    assert found["rows_per_second"] > 0
    assert found["peak_memory_bytes"] > 50e6  # Python with numpy
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("lengths", "share"),
    [
        ([], 0.0),
        ([64], 1.0),
        ([40, 24, 64], 1.0),
        ([33, 33], 0.51562),
        ([33, 32], 0.50781),
        ([1], 0.01562),
        ([32] * 4, 1.0),
    ],
)
def test_packing_yield(lengths: list[int], share: float) -> None:
    assert packing_yield(np.array(lengths, dtype=np.int64), 64) == share


# The picture


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG\r\n\x1a\n"), ("svg", b"<?xml"), ("pdf", b"%PDF-")])
def test_a_picture_is_of_the_kind_that_its_name_says(ending: str, magic: bytes, tmp_path: Path) -> None:
    found = measured(tmp_path, *FOUR, evaluation=[text(12, "x")])
    draw(found, tmp_path / f"lengths.{ending}")
    content = (tmp_path / f"lengths.{ending}").read_bytes()
    assert content.startswith(magic)
    assert len(content) > 3000
    if ending == "svg":
        assert b"train: 4 samples, 100 tokens, 96.0 % trained on, packing yield 78.12 %" in content
        assert b"eval: 1 samples, 12 tokens" in content
