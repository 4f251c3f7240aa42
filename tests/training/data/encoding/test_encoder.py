"""Text -> ids: fast where the tokenizer is of the kind that tiktoken encodes, and always the tokenizer's own ids."""

import json
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from tests.conftest import Workspace
from tests.training.data.encoding.chat_templates import (
    CORPUS,
    LLAMA3_PATTERN,
    QWEN_PATTERN,
    byte_level,
    metaspace,
    word_piece,
)
from training.data.encoding.encoder import GPT2_PATTERN, Encoder

KINDS = {
    "gpt2": lambda: byte_level(None),
    "qwen": lambda: byte_level(QWEN_PATTERN, normalizers.NFC()),
    "llama3": lambda: byte_level(LLAMA3_PATTERN),
    "metaspace": metaspace,
    "word piece": word_piece,
}
FAST = ["gpt2", "qwen", "llama3"]
PIECES = [
    "The", " answer", "\n", " ", "\t", "\r", "'s", "'LL", "12345", "é", "e\u0301", "日本", "!?", "\u00a0", "x",
]  # fmt: skip
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@cache
def tokenizer(kind: str) -> Tokenizer:
    return KINDS[kind]()


@cache
def encoder(kind: str) -> Encoder:
    return Encoder(tokenizer(kind).to_str())


def own(kind: str, text: str) -> list[int]:
    return list(tokenizer(kind).encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize(
    ("kind", "engine"),
    [("gpt2", "tiktoken"), ("qwen", "tiktoken"), ("llama3", "tiktoken"), ("metaspace", "tokenizers"),
     ("word piece", "tokenizers")],
)  # fmt: skip
def test_byte_level_bpe_is_encoded_by_tiktoken_and_every_other_by_tokenizers(kind: str, engine: str) -> None:
    assert encoder(kind).engine == engine


def test_the_tests_model_is_encoded_by_tiktoken(base_workspace: Workspace) -> None:
    saved = (base_workspace.root / "base" / "tokenizer.json").read_text()
    fast = Encoder(saved)
    assert fast.engine == "tiktoken"
    plain = Tokenizer.from_str(saved)
    plain.no_truncation()
    assert fast.encode("It is admin. " * 40) == plain.encode("It is admin. " * 40).ids
    assert len(fast.encode("It is admin. " * 40)) > 64  # the truncation that it was saved with


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
@example(text="")
@example(text=" " * 300)
@example(text="e\u0301" * 200)
@example(text="\n\n\nThe answer  \n x\r\n\r\n")
def test_the_ids_are_the_tokenizer_s_own(kind: str, text: str) -> None:
    assert encoder(kind).encode(text) == own(kind, text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, position=st.integers(0, 40))
@example(text="assistant\n\nThe answer", position=11)
@example(text="user \nx", position=6)
def test_cut_at_a_place_the_ids_are_still_those_of_the_whole(kind: str, text: str, position: int) -> None:
    position = min(position, len(text))
    ids, inside = encoder(kind).encode_at(text, position)
    assert ids == own(kind, text)
    encoding = tokenizer(kind).encode(text, add_special_tokens=False)
    assert inside == sum(start < position for start, _ in encoding.offsets)


@pytest.mark.parametrize("kind", FAST)
def test_a_cue_of_two_line_ends_before_an_answer(kind: str) -> None:
    """Llama 3's cue ends so; GPT-2's pattern cuts the second off where a word follows."""
    text = "assistant\n\nThe answer"
    ids, inside = encoder(kind).encode_at(text, len("assistant\n\n"))
    assert ids == own(kind, text)
    assert tokenizer(kind).decode(ids[inside:]) == "The answer"


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("space", [" ", "\n", "\t", "\u3000"])
@pytest.mark.parametrize("count", [50_000, 250_000])
def test_very_long_white_space(kind: str, space: str, count: int) -> None:
    text = "a" + space * count + "b"
    ids = encoder(kind).encode(text)
    assert tokenizer(kind).decode(ids) == text


@pytest.mark.parametrize("kind", FAST)
def test_control_tokens_in_a_text_are_text(kind: str) -> None:
    """Also where the tokenizer itself would make one id of it, and put another before every text."""
    saved = Tokenizer.from_str(tokenizer(kind).to_str())
    saved.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    saved.add_tokens([AddedToken("<think>", special=False)])
    control = {saved.token_to_id("<|im_end|>"), saved.token_to_id("<think>")}
    text = "a <|im_end|> b <think>"
    ids = Encoder(saved.to_str()).encode(text)
    assert control.isdisjoint(ids)
    assert control < set(saved.encode(text).ids)
    assert saved.decode(ids, skip_special_tokens=False) == text


def test_remembered_ids_cannot_be_changed_by_who_gets_them() -> None:
    encoder("gpt2").encode("The answer").append(-1)
    assert encoder("gpt2").encode("The answer") == own("gpt2", "The answer")


# Tokenizers that look alike


def changed(kind: str, **changes: object) -> Encoder:
    document = json.loads(tokenizer(kind).to_str())
    for path, value in changes.items():
        section, _, key = path.partition("__")
        document[section] = {**(document[section] or {}), key: value} if key else value
    return Encoder(json.dumps(document))


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "NFKC"}},
        {"model__dropout": 0.1},
        {"model__byte_fallback": True},
        {"model__end_of_word_suffix": "</w>"},
        {"pre_tokenizer__add_prefix_space": True},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
    ],
    ids=str,
)
def test_what_tiktoken_would_encode_otherwise_goes_through_tokenizers(changes: dict[str, object]) -> None:
    assert changed("gpt2", **changes).engine == "tokenizers"


def test_merges_out_of_the_order_of_their_ids_go_through_tokenizers() -> None:
    document = json.loads(tokenizer("gpt2").to_str())
    document["model"]["merges"][:2] = document["model"]["merges"][1::-1]
    assert Encoder(json.dumps(document)).engine == "tokenizers"


def test_the_default_pattern_is_that_of_the_byte_level_pre_tokenizer() -> None:
    """Trained and cut by the one that is built in, equal to one that is told the pattern."""
    told = byte_level(GPT2_PATTERN)
    assert Encoder(told.to_str()).engine == "tiktoken"
    assert Encoder(told.to_str()).encode("It's 12 o'clock,  I'll go.\n\n x") == own(
        "gpt2", "It's 12 o'clock,  I'll go.\n\n x"
    )


def every_split(trained: Tokenizer) -> Tokenizer:
    """As Llama 3's file has it: each token with every pair of others that makes it, words of the vocabulary whole."""
    document = json.loads(trained.to_str())
    vocabulary: dict[str, int] = document["model"]["vocab"]
    merges = []
    for token in sorted(vocabulary, key=lambda token: vocabulary[token]):
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    document["model"] |= {"merges": [list(pair) for pair in merges], "ignore_merges": True}
    return Tokenizer.from_str(json.dumps(document))


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_a_file_with_several_merges_for_a_token_as_llama_3_has_it(text: str) -> None:
    full = many_merges()
    assert Encoder(full.to_str()).encode(text) == full.encode(text, add_special_tokens=False).ids


@cache
def many_merges() -> Tokenizer:
    return every_split(tokenizer("llama3"))


def test_a_file_with_several_merges_for_a_token_is_not_encoded_by_tiktoken() -> None:
    """It would take another of them in runs of one character."""
    assert Encoder(many_merges().to_str()).engine == "tokenizers"


def test_a_vocabulary_of_characters_is_no_byte_level_one() -> None:
    plain = Tokenizer(models.BPE(unk_token="?"))
    plain.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    plain.train_from_iterator(CORPUS, BpeTrainer(vocab_size=200, special_tokens=["?"], show_progress=False))
    assert Encoder(plain.to_str()).engine == "tokenizers"
