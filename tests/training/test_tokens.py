"""Template, mask, packing, collating: what the model sees and what it is trained on."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from launch.errors import DataError
from launch.spec import DataSpec
from tests.conftest import Workspace, make_base
from training.data.collate import Collator
from training.data.formats import Conversation
from training.data.packing import pack
from training.data.template import encode
from training.data.tokens import prepare
from training.model import load_tokenizer

TURNS = Conversation(
    "a",
    1,
    (
        ("system", "Be brief."),
        ("user", "Which role?"),
        ("assistant", "It is admin."),
        ("user", "Sure?"),
        ("assistant", "Yes."),
    ),
)


def test_only_the_answers_and_their_end_are_trained_on(base_workspace: Workspace) -> None:
    tokenizer = load_tokenizer(str(base_workspace.root / "base"))
    ((ids, labels, cut),) = encode(tokenizer, [TURNS], 512)
    trained = tokenizer.decode([label for label in labels if label != -100])
    assert trained == "It is admin.<|im_end|>Yes.<|im_end|>"
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    messages = [{"role": role, "content": content} for role, content in TURNS.messages]
    assert ids == tokenizer.apply_chat_template(messages)["input_ids"]
    assert cut == 0


def test_an_answer_beyond_max_length_is_no_sample(base_workspace: Workspace, tmp_path: Path) -> None:
    tokenizer, path = load_tokenizer(str(base_workspace.root / "base")), tmp_path / "long.jsonl"
    path.write_text(json.dumps({"question": "Why? " * 40, "documents": [], "answer": "So."}) + "\n")
    data = DataSpec(train=str(path), max_length=32, packing=False)
    with pytest.raises(DataError) as caught:
        prepare(str(path), data, tokenizer, tmp_path / "tokens", writer=True)
    tokens = int(str(caught.value).rsplit("(", 1)[1].split()[0])
    assert (
        str(caught.value)
        == f"{path}:1:1: has no trainable token: the answer lies beyond data.max_length 32 ({tokens} tokens)"
    )
    assert tokens > 32


def test_cut_answers_are_counted_never_silent(base_workspace: Workspace, tmp_path: Path) -> None:
    tokenizer, path = load_tokenizer(str(base_workspace.root / "base")), tmp_path / "cut.jsonl"
    path.write_text(
        json.dumps(
            {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because. " * 50}]}
        )
        + "\n"
    )
    rows = prepare(
        str(path), DataSpec(train=str(path), max_length=64, packing=False), tokenizer, tmp_path / "tokens", writer=True
    )
    assert rows.statistics.truncated_rows == 1
    assert rows.statistics.tokens == 64
    assert rows.statistics.truncated_tokens > 0


def test_tokens_are_made_once_and_again_when_a_setting_changes(base_workspace: Workspace, tmp_path: Path) -> None:
    tokenizer, path = load_tokenizer(str(base_workspace.root / "base")), str(base_workspace.root / "train.jsonl")
    data = DataSpec(train=path, max_length=320, packing=False)
    prepare(path, data, tokenizer, tmp_path, writer=True)
    (folder,) = tmp_path.iterdir()
    before = folder.stat().st_mtime_ns
    prepare(path, data, tokenizer, tmp_path, writer=True)
    assert folder.stat().st_mtime_ns == before
    prepare(path, data.model_copy(update={"packing": True}), tokenizer, tmp_path, writer=True)
    assert len(list(tmp_path.iterdir())) == 2


@given(st.lists(st.integers(1, 65), max_size=200), st.integers(65, 256))
def test_packing_keeps_every_row_once_and_never_overflows(lengths: list[int], capacity: int) -> None:
    sequences = pack(lengths, capacity)
    assert sorted(row for sequence in sequences for row in sequence) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in sequence) <= capacity for sequence in sequences)


def test_packing_fills_sequences_best_fit_decreasing() -> None:
    assert pack([3, 7, 5, 5], 10) == [[1, 0], [2, 3]]
    assert pack([9, 9, 1, 1], 10) == [[0, 2], [1, 3]]


def test_a_row_longer_than_a_sequence_is_an_error() -> None:
    with pytest.raises(ValueError, match="row 1 has 11 tokens, more than 10"):
        pack([1, 11], 10)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_packed_documents_cannot_see_one_another(kind: str, tmp_path: Path) -> None:
    """The logits of each document in a pack are those of the document alone."""
    make_base(tmp_path / kind, kind)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / kind, attn_implementation="sdpa").eval()
    model.config.use_cache = False
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(3, 400, (length,), generator=generator).tolist() for length in (17, 5, 30, 9)]

    def row(*parts: list[int]) -> dict[str, object]:
        tokens = [token for part in parts for token in part]
        return {"index": 0, "input_ids": tokens, "labels": tokens, "lengths": [len(part) for part in parts]}

    batch = Collator(pad_token_id=0, packed=True)([row(*documents[:3]), row(documents[3])])
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
        alone = [model(input_ids=torch.tensor([document])).logits[0] for document in documents]
    torch.testing.assert_close(packed[0, :52], torch.cat(alone[:3]), atol=1e-4, rtol=0)
    torch.testing.assert_close(packed[1, :9], alone[3], atol=1e-4, rtol=0)
    # The test can fail: without the restarting positions the documents do see one another.
    with torch.no_grad():
        leaking = model(input_ids=batch["input_ids"]).logits
    assert (leaking[0, 17:52] - torch.cat(alone[1:3])).abs().max() > 1e-3


def test_an_empty_micro_batch_has_nothing_to_learn() -> None:
    batch = Collator(pad_token_id=0, packed=False)([])
    assert batch["labels"].tolist() == [[-100]]
    assert batch["indices"].tolist() == [-1]
