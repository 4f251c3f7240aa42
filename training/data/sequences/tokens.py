"""Tokenised rows on disk: written once, by rank 0, before any process group exists; memory-mapped by every rank.

A folder's name is the fingerprint of everything that decides its content, and it gets that name when it is complete.
Beside it, `checked` says which rows were found without an error before:

    train/tokens.arrow   a row for each sample: name, input_ids, spans that are trained on
    train/order.npy      rows in the order of the sequences that they share; starts.npy: where each of these begins
    train/statistics.json, and the same under eval/; quarantine.jsonl where rows were left out
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launch.errors import CommunicationError
from launch.rundir.journal import new_directory, scrub, write_text
from launch.spec import DataSpec
from launch.spec.file import is_hub_data
from training.data.checks.examine import Encoded, Examined, Settings, Split
from training.data.checks.survey import Report, Survey, refuse
from training.data.encoding.template import ChatFiles
from training.data.rows.quarantine import Quarantine
from training.data.rows.sources import files_of, hub_rows
from training.data.sequences.labels import IGNORED
from training.data.sequences.packing import Packs, one_each, pack

SCHEMA = pa.schema([("name", pa.string()), ("input_ids", pa.list_(pa.int32())), ("spans", pa.list_(pa.int32()))])
WAIT_SECONDS = 3600.0
CHECKED = "checked"
# Changes when the same rows give other tokens: caches of an older muster are then made anew.
VERSION = 4


@dataclass(frozen=True)
class Statistics:
    """What became of the rows of one split."""

    rows: int
    samples: int
    sequences: int
    tokens: int
    trainable_tokens: int
    quarantined_rows: int
    counts: dict[str, int]
    """What was done so that rows fit: distractors left out, documents shortened, texts cut into parts."""


class Sequences:
    """Tokenised sequences by index, each of one sample or, packed, of several. Arrays are views of the mapped file."""

    def __init__(self, folder: Path):
        self.statistics = Statistics(**json.loads((folder / "statistics.json").read_text()))
        self.fingerprint = str(json.loads((folder / "fingerprint.json").read_text()))
        self.packs = Packs(np.load(folder / "order.npy", mmap_mode="r"), np.load(folder / "starts.npy", mmap_mode="r"))
        reader = pa.ipc.open_file(pa.memory_map(str(folder / "tokens.arrow")))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`lengths` are those of the samples in it; labels are IGNORED outside the spans."""
        ids, labels = [], []
        for row in self.packs.rows(index):
            tokens = self._list("input_ids", row)
            label = np.full(len(tokens), IGNORED, dtype=np.int32)
            for start, end in self._list("spans", row).reshape(-1, 2):
                label[start:end] = tokens[start:end]
            label[:1] = IGNORED  # nothing predicts a sample's first token
            ids.append(tokens)
            labels.append(label)
        lengths = [len(tokens) for tokens in ids]
        return {"index": index, "input_ids": np.concatenate(ids), "labels": np.concatenate(labels), "lengths": lengths}

    def names(self, index: int) -> list[str]:
        """The samples in a sequence, as the ledger calls them."""
        return [str(self._cell("name", row)) for row in self.packs.rows(index)]

    def samples(self) -> Iterator[tuple[str, NDArray[np.int32]]]:
        """Each sample's name and token ids."""
        for index in range(len(self)):
            for row in self.packs.rows(index):
                yield str(self._cell("name", row)), self._list("input_ids", row)

    def tokens(self, index: int) -> int:
        """Tokens of a sequence without padding."""
        return sum(len(self._list("input_ids", row)) for row in self.packs.rows(index))

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every sample that is trained on."""
        return self._row_lengths()[np.sort(self.packs.order)]

    def longest(self, count: int) -> list[int]:
        """The sequences with most tokens, longest first."""
        totals = np.add.reduceat(self._row_lengths()[self.packs.order], self.packs.starts[:-1])
        return [int(index) for index in np.argsort(-totals, kind="stable")[:count]]

    def _row_lengths(self) -> NDArray[np.int64]:
        every = [np.diff(batch.column("input_ids").offsets.to_numpy()) for batch in self._batches]
        return np.concatenate([*every, np.array([], dtype=np.int64)])

    def _at(self, row: int) -> tuple[pa.RecordBatch, int]:
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._batches[batch], int(row - self._starts[batch])

    def _cell(self, column: str, row: int) -> Any:
        batch, place = self._at(row)
        return batch.column(column)[place]

    def _list(self, column: str, row: int) -> NDArray[np.int32]:
        batch, place = self._at(row)
        lists = batch.column(column)
        start, end = lists.offsets[place].as_py(), lists.offsets[place + 1].as_py()
        return lists.values.slice(start, end - start).to_numpy(zero_copy_only=True)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Prepared:
    train: Sequences
    evaluation: Sequences | None


def prepare(data: DataSpec, chat: ChatFiles, cache: Path, writer: bool, only: Split | None = None) -> Prepared:
    """Tokenises the rows to train and to evaluate on, or finds that done. `writer` is true on one rank.

    With `only` one split is tokenised; the other's rows are read to be compared with, and may be of any length. The
    other ranks wait for the folder to appear: on the file system, for a collective would be killed by its time-out
    while rank 0 tokenises. Raises DataError that names the rows which cannot be used.
    """
    rows = rows_fingerprints(data)
    prints = {split: fingerprint(found, data, chat) for split, found in rows.items()}
    folder = cache / _digest([*prints.values(), *([only] if only else [])])
    if writer and not folder.exists():
        how = settings(data, chat, content=not _checked(rows, cache))
        _write(data, replace(how, tokenised=frozenset({only})) if only else how, folder, prints)
    deadline = time.monotonic() + WAIT_SECONDS
    while not folder.exists():
        if time.monotonic() > deadline:
            raise CommunicationError(f"rank 0 did not write {folder} within {WAIT_SECONDS:.0f} s")
        time.sleep(0.1)
    return Prepared(Sequences(folder / "train"), Sequences(folder / "eval") if data.eval else None)


def sources(data: DataSpec) -> dict[Split, str]:
    return {"train": data.train, "eval": data.eval} if data.eval else {"train": data.train}


def settings(data: DataSpec, chat: ChatFiles | None = None, content: bool = True) -> Settings:
    """How the spec's data section wants its rows read."""
    columns = tuple(sorted(data.columns.items()))
    return Settings(data.format, columns, data.max_length, chat, frozenset(data.accept), content)


def rows_fingerprints(data: DataSpec) -> dict[Split, str]:
    """Of each split a hex digest of its files' bytes, and of what says how they are read. Raises DataError."""
    how = data.model_dump(include={"format", "columns", "accept"})
    prints: dict[Split, str] = {}
    for split, source in sources(data).items():
        digest = hashlib.sha256(json.dumps([VERSION, how]).encode())
        for file in files_of(source):
            # The ending says how a file is read, its name and where it begins what rows without an id are called.
            digest.update(json.dumps([os.path.relpath(file, source), Path(file).suffixes]).encode())
            for block in _blocks(file):
                digest.update(block)
        prints[split] = digest.hexdigest()
    return prints


def fingerprint(rows: str, data: DataSpec, chat: ChatFiles) -> str:
    """Hex digest of everything that decides the tokens of one split."""
    return _digest([rows, data.model_dump(include={"max_length", "packing", "on_bad_row"}), asdict(chat)])


def note_checked(rows: dict[Any, str], cache: Path) -> None:
    """Notes that the content of these rows was checked and has no error: `prepare` need not search it once more."""
    write_text(cache / CHECKED, _digest(rows))


def _checked(rows: dict[Any, str], cache: Path) -> bool:
    try:
        return (cache / CHECKED).read_text(encoding="utf-8") == _digest(rows)
    except FileNotFoundError:
        return False


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:20]


def _blocks(file: str) -> Iterator[bytes]:
    if is_hub_data(file):
        yield f"{file} {hub_rows(file)._fingerprint}".encode()
        return
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            yield block


def _write(data: DataSpec, how: Settings, folder: Path, prints: dict[Split, str]) -> None:
    with new_directory(folder) as temporary:
        writers = {split: _Writer(temporary / split) for split in sources(data)}
        report = Survey(
            sources(data), how, kept=lambda chunk: writers[chunk.split].add(chunk),
            quarantine=Quarantine(temporary / "quarantine.jsonl", hide_secrets=True),
        ).run()  # fmt: skip
        refuse(report, data)
        for split, writer in writers.items():
            writer.finish(report, split, data)
            (temporary / split / "fingerprint.json").write_text(json.dumps(prints[split]))


class _Writer:
    """Writes the tokens of one split as they come, and at the end which of them share a sequence."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True)
        self._file = pa.ipc.new_file(str(folder / "tokens.arrow"), SCHEMA)
        self._places: list[tuple[str, NDArray[np.int64]]] = []
        self._lengths: list[NDArray[np.int32]] = []
        self._trainable: list[NDArray[np.int32]] = []

    def add(self, chunk: Examined) -> None:
        encoded = chunk.encoded
        if encoded is None or not encoded.places:
            return
        self._file.write_batch(_batch(encoded))
        self._places.append((chunk.file, np.array(chunk.places, dtype=np.int64)[encoded.places]))
        self._lengths.append(encoded.lengths)
        self._trainable.append(encoded.trainable)

    def finish(self, report: Report, split: Split, data: DataSpec) -> None:
        self._file.close()
        bad = {file: np.array(places) for (other, file), places in report.bad.items() if other == split}
        good = [~np.isin(places, bad.get(file, ())) for file, places in self._places]
        rows = np.flatnonzero(np.concatenate([*good, np.array([], dtype=bool)])).astype(np.int32)
        lengths = np.concatenate([*self._lengths, np.array([], dtype=np.int32)])[rows]
        packs = pack(lengths, data.max_length) if data.packing else one_each(len(rows))
        np.save(self.folder / "order.npy", rows[packs.order])
        np.save(self.folder / "starts.npy", packs.starts)
        trainable = np.concatenate([*self._trainable, np.array([], dtype=np.int32)])[rows]
        statistics = Statistics(
            rows=report.rows[split], samples=len(rows), sequences=len(packs), tokens=int(lengths.sum()),
            trainable_tokens=int(trainable.sum()), quarantined_rows=report.bad_rows(split),
            counts={name: count for name, count in report.counts[split].items() if count},
        )  # fmt: skip
        (self.folder / "statistics.json").write_text(json.dumps(asdict(statistics)))


def _batch(encoded: Encoded) -> pa.RecordBatch:
    names = pa.array(scrub(encoded.names), type=pa.string())
    columns = [names, _lists(encoded.ids, encoded.lengths), _lists(encoded.spans, encoded.span_lengths)]
    return pa.record_batch(columns, schema=SCHEMA)


def _lists(values: NDArray[np.int32], lengths: NDArray[np.int32]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
