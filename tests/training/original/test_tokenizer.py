"""qwen.tiktoken as a transformers tokenizer, against the official one of the package dashscope."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashscope.tokenizers.qwen_tokenizer import SPECIAL_TOKENS, QwenTokenizer

from launch.errors import UsageError
from tests.conftest import ROOT
from tests.training.original.checkpoint import tiktoken_file
from training.original.tokenizer import SPECIAL, original_tokenizer

# What cuts texts in other places, or needs NFC: scripts, marks that combine, emoji with joiners, controls, long runs.
POOLS = [
    "abcdefghij ", "ab", "aaaa", "  \n\t\r", "0123456789", "éüñçøå", "你好世界安全", "абвгд",
    "😀👨‍👩‍👧🇩🇪", "\u0301\u0300e",
    "{}[]()=;:'\"", "ＡＢＣ", "\u200b\u202e\ufeff", "𝔘𝔫𝔦", "'s't'reLLVE", "한국어조선글", "नमस्ते", "\x00\x01\x7f", "ﬁﬂ",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return original_tokenizer(tiktoken_file().parent, chat=True)


def mixed_texts(count: int) -> Iterator[str]:
    rng = random.Random(20260101)
    words = (ROOT / "examples/security-rag/train.jsonl").read_text().split()
    blocks = [(0x20, 0x2FFF), (0x3000, 0xD7FF), (0xE000, 0x1FFFF)]
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.3:
                parts.append(rng.choice(words))
            elif kind < 0.35:
                parts.append(rng.choice(SPECIAL[:6]))
            elif kind < 0.45:
                parts.append(chr(rng.randrange(*rng.choice(blocks))) * rng.randint(1, 9))
            elif kind < 0.6:
                parts.append(rng.choice("a =-_*#.\n/ 0") * rng.randint(1, 60))
            else:
                pool = rng.choice(POOLS)
                parts.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 30))))
        yield rng.choice(["", " ", "\n"]).join(parts)


def test_ten_thousand_mixed_texts_are_encoded_as_the_original_does(tokenizer: Any) -> None:
    official = QwenTokenizer(str(tiktoken_file()))
    differing = [
        text
        for text in mixed_texts(10_000)
        if tokenizer.encode(text, add_special_tokens=False) != official.encode(text)
    ]
    assert differing == []


def test_tokens_come_back_as_the_text(tokenizer: Any) -> None:
    for text in ("naïve  \n\n café 12345", "你好, мир 😀"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_special_tokens_have_the_original_s_ids(tokenizer: Any) -> None:
    assert [(number, token) for token, number in tokenizer.get_added_vocab().items()] == sorted(SPECIAL_TOKENS)
    assert len(tokenizer) == 151851


def test_a_chat_model_ends_turns_and_a_base_model_texts_and_neither_is_padded_with_its_end(tokenizer: Any) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    base = original_tokenizer(tiktoken_file().parent, chat=False)
    assert (base.eos_token, base.pad_token) == ("<|endoftext|>", "<|extra_204|>")


def test_turns_are_written_as_the_original_s_chat_does(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
    )
    system = [{"role": "system", "content": "Cite."}, messages[0]]
    assert tokenizer.apply_chat_template(system, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nCite.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tool_calls_have_no_turns(tokenizer: Any) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    with pytest.raises(Exception, match="the original Qwen has no turns for tool calls"):
        tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}, call], tokenize=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as tokens"),
        (b"<html>not found</html>", "cannot be read as tokens"),
        (b"".join(tiktoken_file().read_bytes().splitlines(keepends=True)[:5000]), "holds 5,000 tokens, the original"),
    ],
    ids=["missing", "a web page", "cut short"],
)
def test_a_file_that_is_something_else(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "qwen.tiktoken").write_bytes(content)
    with pytest.raises(UsageError, match=f"qwen.tiktoken: {message}.*download it again"):
        original_tokenizer(tmp_path, chat=True)
