"""Rows -> sequences on disk and the batches of them: what the model sees and what it is trained on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from launch.errors import CommunicationError, DataError
from launch.spec import DataSpec
from tests.conftest import Workspace, make_base
from tests.training.data.data_files import written
from tests.training.data.encoding.chat_templates import tokenizer_of
from training.data.encoding.template import ChatFiles
from training.data.encoding.tokenizer import load_chat_files
from training.data.rows.sources import rows_of
from training.data.sequences import tokens as tokens_module
from training.data.sequences.labels import IGNORED
from training.data.sequences.tokens import Prepared, Sequences, note_checked, prepare, rows_fingerprints
from training.model.collate import Collator

TOKENIZER = tokenizer_of("chatml")
CHAT = ChatFiles.of(TOKENIZER)


def turns(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


ROWS = [turns(f"Which {'role ' * number}?", f"It is {number * 7919}.", id=f"n{number}") for number in range(12)]
KEY = "AKIA" + "Q3EGT7ZK5MW2PX4N"


def prepared(folder: Path, train: list[Any], evaluation: list[Any] | None = None, **settings: Any) -> Prepared:
    sources = {"train": str(written(folder / "train.jsonl", *train))}
    if evaluation is not None:
        sources["eval"] = str(written(folder / "eval.jsonl", *evaluation))
    data = DataSpec(**{"max_length": 120, "packing": False, **sources, **settings})
    return prepare(data, CHAT, folder / "cache", writer=True)


def own(row: dict[str, Any]) -> list[int]:
    return list(TOKENIZER.apply_chat_template(row["messages"])["input_ids"])


def trained(sequence: dict[str, Any]) -> str:
    return str(TOKENIZER.decode([label for label in sequence["labels"].tolist() if label != IGNORED]))


def names(sequences: Sequences) -> list[str]:
    return [name for index in range(len(sequences)) for name in sequences.names(index)]


# What the model sees and what it is trained on


def test_a_sequence_is_the_model_s_own_ids_and_its_labels_are_the_answers(tmp_path: Path) -> None:
    rows = prepared(tmp_path, ROWS).train
    assert len(rows) == 12
    for index, row in enumerate(ROWS):
        sequence = rows[index]
        assert sequence["input_ids"].tolist() == own(row)
        assert trained(sequence) == f"It is {index * 7919}.<|im_end|>"
        same = sequence["labels"] == sequence["input_ids"]
        assert (same | (sequence["labels"] == IGNORED)).all()
        assert (sequence["index"], sequence["lengths"], rows.tokens(index)) == (index, [len(own(row))], len(own(row)))
    assert names(rows) == [f"n{number}" for number in range(12)]
    assert rows.lengths().tolist() == [len(own(row)) for row in ROWS]


def test_a_packed_sequence_holds_whole_rows_one_after_the_other(tmp_path: Path) -> None:
    rows = prepared(tmp_path, ROWS, packing=True).train
    assert len(rows) < 12
    assert sorted(names(rows)) == sorted(f"n{number}" for number in range(12))
    by_name = {f"n{number}": row for number, row in enumerate(ROWS)}
    for index in range(len(rows)):
        sequence = rows[index]
        parts = [by_name[name] for name in rows.names(index)]
        assert sequence["input_ids"].tolist() == [token for part in parts for token in own(part)]
        assert sequence["lengths"] == [len(own(part)) for part in parts]
        assert trained(sequence) == "".join(part["messages"][1]["content"] + "<|im_end|>" for part in parts)
        assert rows.tokens(index) == len(sequence["input_ids"]) <= 120


@pytest.mark.parametrize("packing", [False, True])
def test_rows_samples_sequences_and_tokens_are_counted(packing: bool, tmp_path: Path) -> None:
    both = prepared(tmp_path, ROWS, [turns("Unlike?", "Quite.")], packing=packing)
    assert both.evaluation is not None
    for sequences, count in ((both.train, 12), (both.evaluation, 1)):
        found = sequences.statistics
        whole = [sequences[index] for index in range(len(sequences))]
        assert (found.rows, found.samples, found.sequences) == (count, count, len(sequences))
        assert found.tokens == sum(len(sequence["input_ids"]) for sequence in whole)
        assert found.trainable_tokens == sum(int((sequence["labels"] != IGNORED).sum()) for sequence in whole)
        assert (found.quarantined_rows, found.counts) == (0, {})


@pytest.mark.parametrize("packing", [False, True])
def test_a_long_text_is_cut_into_parts_and_no_part_of_it_is_lost(packing: bool, tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(100))
    rows = prepared(tmp_path, [{"id": "t", "text": text}, {"id": "s", "text": "Short."}], packing=packing).train
    parts = {}
    for index in range(len(rows)):
        sequence = rows[index]
        ends = np.cumsum(sequence["lengths"])
        for name, ids, labels in zip(
            rows.names(index),
            np.split(sequence["input_ids"], ends),
            np.split(sequence["labels"], ends),
            strict=False,
        ):
            parts[name] = ids
            assert labels[0] == IGNORED
            assert (labels[1:] == ids[1:]).all()
    pieces = [parts[name] for name in sorted(set(parts) - {"s"}, key=lambda name: int(name.removeprefix("t#")))]
    assert TOKENIZER.decode(np.concatenate(pieces)) == text + "<|im_end|>"
    assert TOKENIZER.decode(parts["s"]) == "Short.<|im_end|>"
    assert rows.statistics.counts == {"texts cut into parts": 1}
    assert (rows.statistics.rows, rows.statistics.samples) == (2, len(pieces) + 1)


# Rows with errors


def test_an_answer_beyond_max_length_is_told_with_its_length(tmp_path: Path) -> None:
    row = turns("Why? " * 40, "So.")
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [row], max_length=32)
    assert str(caught.value) == (
        f"{tmp_path / 'train.jsonl'}:1:1: the answer lies beyond data.max_length 32:"
        f" the row has {len(own(row))} tokens; raise it or shorten the row [too-long]"
    )


def test_rows_that_are_only_compared_with_may_be_of_any_length(tmp_path: Path) -> None:
    held_out = [turns("Which port?", "443.", id="h1"), turns("Which host?", "a.b.", id="h2")]
    data = {
        "train": str(written(tmp_path / "train.jsonl", turns("Why?", "So it is. " * 60), *ROWS)),
        "eval": str(written(tmp_path / "eval.jsonl", *held_out)),
    }
    spec = DataSpec(max_length=120, **data)
    with pytest.raises(DataError, match="the answer"):
        prepare(spec, CHAT, tmp_path / "cache", writer=True)
    found = prepare(spec, CHAT, tmp_path / "cache", writer=True, only="eval")
    assert found.evaluation is not None
    assert (len(found.train), found.evaluation.statistics.samples) == (0, 2)
    written(tmp_path / "eval.jsonl", *held_out, {**ROWS[3], "id": "h3"})
    with pytest.raises(DataError, match=r"eval.jsonl:3:1: .* which is trained on \[leakage\]"):
        prepare(spec, CHAT, tmp_path / "cache", writer=True, only="eval")


def test_what_was_tokenised_for_one_split_alone_is_never_trained_on(tmp_path: Path) -> None:
    data = {
        "train": str(written(tmp_path / "t.jsonl", *ROWS)),
        "eval": str(written(tmp_path / "e.jsonl", turns("a", "b"))),
    }
    spec = DataSpec(max_length=120, packing=False, **data)
    prepare(spec, CHAT, tmp_path / "cache", writer=True, only="eval")
    assert len(prepare(spec, CHAT, tmp_path / "cache", writer=True).train) == len(ROWS)


def test_rows_that_were_checked_are_not_searched_again_and_changed_ones_are(tmp_path: Path) -> None:
    rows = [*ROWS, turns("Key?", KEY, id="k")]
    with pytest.raises(DataError, match="looks like a secret"):
        prepared(tmp_path, rows)
    data = DataSpec(train=str(tmp_path / "train.jsonl"), max_length=120, packing=False)
    note_checked(rows_fingerprints(data), tmp_path / "cache")
    assert names(prepared(tmp_path, rows).train)[-1] == "k"
    with pytest.raises(DataError, match="looks like a secret"):
        prepared(tmp_path, [*rows, turns("Why?", "So.")])
    with pytest.raises(DataError, match="looks like a secret"):
        prepared(tmp_path, [{**row, "more": 1} for row in rows], accept=["citation"])


def test_quarantine_beside_the_tokens_holds_no_secret(tmp_path: Path) -> None:
    prepared(tmp_path, [*ROWS, turns("Key?", KEY)], on_bad_row="quarantine")
    (file,) = (tmp_path / "cache").glob("*/quarantine.jsonl")
    assert "Key?" in file.read_text()
    assert KEY not in file.read_text()


def test_without_quarantine_one_bad_row_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [*ROWS, '{"text": '])
    assert str(caught.value) == f"{tmp_path / 'train.jsonl'}:13:10: not JSON: Expecting value [unreadable]"


@pytest.mark.parametrize("packing", [False, True])
def test_with_quarantine_bad_rows_are_left_out_and_counted(packing: bool, tmp_path: Path) -> None:
    train = [*ROWS[:3], "nonsense", turns("Key?", KEY, id="key"), turns("Twice?", "Yes.", id="n1"), *ROWS[3:]]
    evaluation = [{**ROWS[2], "id": "leaked"}, turns("Unlike?", "Quite.", id="fine")]
    both = prepared(tmp_path, train, evaluation, packing=packing, on_bad_row="quarantine")
    assert both.evaluation is not None
    assert sorted(names(both.train)) == sorted(f"n{number}" for number in range(12))
    assert names(both.evaluation) == ["fine"]
    assert (both.train.statistics.rows, both.train.statistics.samples, both.train.statistics.quarantined_rows) == (
        15, 12, 3,
    )  # fmt: skip
    assert (both.evaluation.statistics.samples, both.evaluation.statistics.quarantined_rows) == (1, 1)
    assert both.train.statistics.tokens == sum(len(own(row)) for row in ROWS)
    (file,) = (tmp_path / "cache").glob("*/quarantine.jsonl")
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(Path(entry["file"]).name, entry["line"], entry["reasons"][0]["kind"]) for entry in entries] == [
        ("train.jsonl", 4, "unreadable"),
        ("train.jsonl", 5, "secret"),
        ("train.jsonl", 6, "duplicate-id"),
        ("eval.jsonl", 1, "leakage"),
    ]


def test_an_accepted_error_is_trained_on(tmp_path: Path) -> None:
    rows = prepared(tmp_path, [turns("Key?", KEY, id="key")], accept=["secret"]).train
    assert names(rows) == ["key"]
    assert KEY in trained(rows[0])


@pytest.mark.parametrize("packing", [False, True])
def test_nothing_left_to_train_on_is_an_error(packing: bool, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepared(tmp_path, ["nonsense", turns("Key?", KEY)], packing=packing, on_bad_row="quarantine")


# Folders


def test_tokens_are_made_once_and_again_when_anything_that_decides_them_changes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def folders() -> int:
        return len(list(cache.iterdir()))

    first = prepared(tmp_path, ROWS).train
    (folder,) = cache.iterdir()
    before = (folder / "train" / "tokens.arrow").stat().st_mtime_ns
    assert prepared(tmp_path, ROWS).train.fingerprint == first.fingerprint
    assert (folders(), (folder / "train" / "tokens.arrow").stat().st_mtime_ns) == (1, before)
    changes: list[dict[str, Any]] = [
        {"packing": True}, {"max_length": 121}, {"on_bad_row": "quarantine"}, {"accept": ["secret"]},
        {"format": "messages"}, {"columns": {"messages": "messages"}},
    ]  # fmt: skip
    for count, change in enumerate(changes, start=2):
        assert prepared(tmp_path, ROWS, **change).train.fingerprint != first.fingerprint
        assert folders() == count
    assert prepared(tmp_path, ROWS[1:]).train.fingerprint != first.fingerprint
    other = replace(CHAT, template=CHAT.template + "{# changed #}")
    data = DataSpec(train=str(tmp_path / "train.jsonl"), max_length=120, packing=False)
    assert prepare(data, other, cache, writer=True).train.fingerprint != first.fingerprint
    assert folders() == len(changes) + 3


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name / "train.jsonl", *ROWS)
        data = DataSpec(train=str(tmp_path / name / "train.jsonl"), max_length=120)
        prepare(data, CHAT, tmp_path / name / "cache", writer=True)
    files = [sorted((tmp_path / name / "cache").glob("*/train/*")) for name in ("a", "b")]
    assert [file.name for file in files[0]] == [
        "fingerprint.json", "order.npy", "starts.npy", "statistics.json", "tokens.arrow",
    ]  # fmt: skip
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_a_rank_that_does_not_write_waits_for_the_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataSpec(train=str(written(tmp_path / "train.jsonl", *ROWS)), max_length=120)
    monkeypatch.setattr(tokens_module, "WAIT_SECONDS", 0.2)
    with pytest.raises(CommunicationError, match=r"^rank 0 did not write .* within 0 s$"):
        prepare(data, CHAT, tmp_path / "cache", writer=False)
    wrote = prepare(data, CHAT, tmp_path / "cache", writer=True).train
    waited = prepare(data, CHAT, tmp_path / "cache", writer=False).train
    assert waited.fingerprint == wrote.fingerprint
    assert [waited[index]["input_ids"].tolist() for index in range(len(waited))] == [
        wrote[index]["input_ids"].tolist() for index in range(len(wrote))
    ]


def test_what_was_refused_leaves_no_folder_of_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepared(tmp_path, ["nonsense"])
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")] == []
    assert len(prepared(tmp_path, ROWS).train) == 12


def test_rows_without_evaluation_and_with_more_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.data.checks import survey

    monkeypatch.setattr(survey, "CHUNK", 5)
    found = prepared(tmp_path, ROWS)
    assert found.evaluation is None
    assert [found.train[index]["input_ids"].tolist() for index in range(12)] == [own(row) for row in ROWS]


def test_the_tests_own_rows_are_fine(base_workspace: Workspace) -> None:
    """What every other test trains on."""
    assert sum(1 for _ in rows_of(str(base_workspace.root / "train.jsonl"))) == 42


# Batches


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_packed_documents_cannot_see_one_another(kind: str, tmp_path: Path) -> None:
    """The logits of each document in a pack are those of the document alone."""
    make_base(tmp_path / kind, kind)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / kind, attn_implementation="sdpa").eval()
    model.config.use_cache = False
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(3, 400, (length,), generator=generator).tolist() for length in (17, 5, 30, 9)]

    def row(*parts: list[int]) -> dict[str, object]:
        tokens = np.array([token for part in parts for token in part], dtype=np.int32)
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


@pytest.mark.parametrize("packing", [False, True])
def test_the_longest_sequences_are_known_without_reading_them(packing: bool, tmp_path: Path) -> None:
    rows = prepared(tmp_path, ROWS[::-1], packing=packing).train
    sizes = [rows.tokens(index) for index in range(len(rows))]
    found = rows.longest(3)
    assert [sizes[index] for index in found] == sorted(sizes, reverse=True)[:3]
    assert len(set(found)) == 3
    assert len(rows.longest(1000)) == len(rows)


def test_a_batch_of_sequences_from_disk_is_padded_to_the_longest(tmp_path: Path) -> None:
    rows = prepared(tmp_path, ROWS[:3]).train
    batch = Collator(pad_token_id=0, packed=False)([rows[0], rows[2]])
    short, long = own(ROWS[0]), own(ROWS[2])
    padding = len(long) - len(short)
    assert batch["input_ids"].tolist() == [short + [0] * padding, long]
    assert batch["attention_mask"].tolist() == [[1] * len(short) + [0] * padding, [1] * len(long)]
    assert batch["labels"][0, len(short) :].tolist() == [IGNORED] * padding
    assert batch["indices"].tolist() == [0, 2]
    assert {name: value.dtype for name, value in batch.items()} == dict.fromkeys(batch, torch.int64)


def test_positions_restart_with_each_packed_row_and_in_the_padding(tmp_path: Path) -> None:
    rows = [
        {"index": n, "input_ids": [5] * n, "labels": [5] * n, "lengths": lengths}
        for n, lengths in ((5, [3, 2]), (7, [7]))
    ]
    batch = Collator(pad_token_id=0, packed=True)(rows)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6]]
    assert "attention_mask" not in batch


def test_variable_length_attention_is_told_where_each_packed_row_begins() -> None:
    """What transformers gives to flash attention's kernels it reads from the positions."""
    rows = [
        {"index": n, "input_ids": [5] * n, "labels": [5] * n, "lengths": lengths}
        for n, lengths in ((5, [3, 2]), (7, [7]))
    ]
    batch = Collator(pad_token_id=0, packed=True)(rows)
    (starts, _), (longest, _) = prepare_fa_kwargs_from_position_ids(batch["position_ids"])
    assert starts.tolist() == [0, 3, 5, 7, 14]
    assert int(longest) == 7


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_the_loss_of_a_global_batch_is_the_same_whatever_the_packing_and_the_micro_batch(
    kind: str, base_workspace: Workspace, tmp_path: Path
) -> None:
    """The mean over its trainable tokens: micro-batches add up what each divides by the number of them all."""
    make_base(tmp_path / kind, kind)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / kind, attn_implementation="sdpa").eval()
    model.config.use_cache = False  # as for training: with a cache transformers does not look for packed rows
    chat = load_chat_files(str(tmp_path / kind))
    losses = []
    few = tmp_path / "few.jsonl"
    few.write_text("".join((base_workspace.root / "train.jsonl").read_text().splitlines(keepends=True)[:11]))
    for packing, micro in ((False, 1), (False, 5), (True, 1), (True, 3)):
        source = {"train": str(few), "max_length": 500}
        rows = prepare(DataSpec(**source, packing=packing), chat, tmp_path / "cache", writer=True).train
        total, collate = torch.tensor(float(rows.statistics.trainable_tokens)), Collator(0, packing)
        loss = 0.0
        for start in range(0, len(rows), micro):
            batch = collate([rows[index] for index in range(start, min(len(rows), start + micro))])
            batch.pop("indices")
            with torch.no_grad():
                loss += float(model(**batch, num_items_in_batch=total).loss)
        losses.append(loss)
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


def test_an_empty_micro_batch_has_nothing_to_learn() -> None:
    batch = Collator(pad_token_id=0, packed=False)([])
    assert batch["labels"].tolist() == [[IGNORED]]
    assert batch["indices"].tolist() == [-1]
