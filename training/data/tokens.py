"""Tokenised rows on disk: written once by rank 0, memory-mapped by every rank.

A folder's name is the fingerprint of everything that decides its content, and it gets that name when it is complete.
"""

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets

from launch.errors import CommunicationError, DataError, Mistake
from launch.spec import DataSpec
from training.data.formats import SHOWN, Conversation, RowError, read
from training.data.labels import IGNORED
from training.data.packing import pack
from training.data.template import encode

BATCH = 256
_INTEGERS = datasets.List(datasets.Value("int32"))
FEATURES = datasets.Features(
    {"ids": datasets.List(datasets.Value("string")), "lengths": _INTEGERS, "input_ids": _INTEGERS, "labels": _INTEGERS}
)
WAIT_SECONDS = 3600.0


@dataclass(frozen=True)
class Statistics:
    """What became of the rows of one file."""

    rows: int
    sequences: int
    tokens: int
    trainable_tokens: int
    truncated_rows: int
    truncated_tokens: int


class Sequences:
    """Tokenised sequences by index: `ids[index]` names the samples in one, `lengths[index]` each sample's tokens."""

    def __init__(self, folder: Path):
        self.rows = datasets.load_from_disk(str(folder / "rows")).with_format("python")
        self.ids: list[list[str]] = self.rows["ids"][:]
        self.lengths: list[list[int]] = self.rows["lengths"][:]
        self.fingerprint = folder.name
        self.statistics = Statistics(**json.loads((folder / "statistics.json").read_text()))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {"index": index, "input_ids": row["input_ids"], "labels": row["labels"], "lengths": row["lengths"]}


def prepare(path: str, data: DataSpec, tokenizer: Any, cache: Path, writer: bool) -> Sequences:
    """Tokenises a file, or finds that done. `writer` is true on one rank; the others wait for the folder to appear.

    Waiting happens on the file system: a collective would be killed by its time-out while rank 0 tokenises.
    Raises DataError that names the rows which cannot be used.
    """
    folder = cache / fingerprint(path, data, tokenizer)
    if writer and not folder.exists():
        _write(path, data, tokenizer, folder)
    deadline = time.monotonic() + WAIT_SECONDS
    while not folder.exists():
        if time.monotonic() > deadline:
            raise CommunicationError(f"rank 0 did not write {folder} within {WAIT_SECONDS:.0f} s")
        time.sleep(0.1)
    return Sequences(folder)


def fingerprint(path: str, data: DataSpec, tokenizer: Any) -> str:
    """Hex digest of the file's bytes, the tokenizer with its template, and the settings."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        read(path)  # says what is wrong with it
    settings = [
        data.format,
        data.max_length,
        data.packing,
        tokenizer.chat_template,
        tokenizer.backend_tokenizer.to_str(),
    ]
    digest.update(json.dumps(settings).encode())
    return digest.hexdigest()[:20]


@dataclass(frozen=True)
class _Row:
    id: str
    input_ids: list[int]
    labels: list[int]
    cut: int
    """Tokens beyond max_length that were left out."""


def _write(path: str, data: DataSpec, tokenizer: Any, folder: Path) -> None:
    rows = _tokenise(path, data, tokenizer)
    lengths = [len(row.input_ids) for row in rows]
    groups = pack(lengths, data.max_length) if data.packing else [[index] for index in range(len(rows))]
    sequences = {
        "ids": [[rows[row].id for row in group] for group in groups],
        "lengths": [[lengths[row] for row in group] for group in groups],
        "input_ids": [[token for row in group for token in rows[row].input_ids] for group in groups],
        "labels": [[label for row in group for label in rows[row].labels] for group in groups],
    }
    statistics = Statistics(
        rows=len(rows),
        sequences=len(groups),
        tokens=sum(lengths),
        trainable_tokens=sum(label != IGNORED for row in rows for label in row.labels),
        truncated_rows=sum(row.cut > 0 for row in rows),
        truncated_tokens=sum(row.cut for row in rows),
    )
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    datasets.Dataset.from_dict(sequences, features=FEATURES).save_to_disk(str(temporary / "rows"))
    (temporary / "statistics.json").write_text(json.dumps(asdict(statistics)))
    temporary.rename(folder)


def _tokenise(path: str, data: DataSpec, tokenizer: Any) -> list[_Row]:
    conversations = read(path, data.format)
    rows, mistakes = [], []
    for start in range(0, len(conversations), BATCH):
        batch = conversations[start : start + BATCH]
        encoded = _encode(path, tokenizer, batch, data.max_length)
        for conversation, (ids, labels, cut) in zip(batch, encoded, strict=True):
            rows.append(_Row(conversation.id, ids, labels, cut))
            if all(label == IGNORED for label in labels):
                why = "no token of the answer can be trained on"
                if cut:
                    why = f"the answer lies beyond data.max_length {data.max_length} ({len(ids) + cut} tokens)"
                mistakes.append(Mistake(path, conversation.line, 1, f"has no trainable token: {why}"))
    if mistakes:
        raise DataError(mistakes[:SHOWN], hidden=max(0, len(mistakes) - SHOWN))
    return rows


def _encode(
    path: str, tokenizer: Any, batch: list[Conversation], max_length: int
) -> list[tuple[list[int], list[int], int]]:
    try:
        return encode(tokenizer, batch, max_length)
    except RowError as error:
        raise DataError([Mistake(path, batch[0].line, 1, str(error))]) from None
