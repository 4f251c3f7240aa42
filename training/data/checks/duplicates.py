"""Rows that say the same: exact and near duplicates, and rows to evaluate on that are also there to train on.

Near means an estimated Jaccard similarity of at least 0.8 between the sets of three-word shingles of two rows'
questions and answers. MinHash (Broder 1997) with 96 permutations of which 8 bits each are kept (b-bit minwise
hashing, Li and Konig 2010): the estimate's standard error at 0.8 is 0.04. Candidates come from 16 bands of 6
(locality-sensitive hashing): a pair at 0.8 is in one of the same bands with probability 0.99, one at 0.9 with 0.999995.
Of the rows that share a band each is compared with the first and with the one before it. A row costs 120 bytes.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rensa import RMinHash

from training.data.rows.samples import Sample
from training.data.rows.scripts import UNSPACED

PERMUTATIONS, BANDS = 96, 16
ROWS = PERMUTATIONS // BANDS
THRESHOLD = 0.8
SHINGLE = 3
SEED = 1
# Words and signs such as < and +; punctuation says nothing that the words do not.
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s.,;:!?'\"()-]")
Bytes = np.ndarray[tuple[int, int], np.dtype[np.uint8]]
Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`exact` is a hash of the words, `asked` one of the question and its documents, `signature` PERMUTATIONS bytes."""

    exact: int
    asked: int
    signature: bytes


def fingerprint(sample: Sample) -> Fingerprint:
    """Of what is asked and answered; documents and the system's turn are the same for many rows on purpose."""
    parts = [sample.text] if sample.text else []
    for message in sample.messages:
        if message["role"] != "system":
            parts += [message["content"], *(str(call["function"]) for call in message.get("tool_calls", ()))]
    words = _WORD.findall("\n".join(parts).casefold())
    text = " ".join(words)
    said = [sample.text, *(m["content"] for m in sample.messages if m["role"] == "user")]
    shown = sorted(document.text for document in sample.documents)
    asked = " ".join(_WORD.findall("\n".join([*said, *shown]).casefold()))
    shingles = [" ".join(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1))]
    minhash = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
    minhash.update(shingles)
    # The upper bits: a permutation's low ones are not mixed as well.
    signature = bytes((value >> 11) & 0xFF for value in minhash.digest())
    return Fingerprint(_hash(text), _hash(asked), signature)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Fingerprints:
    """Those of many rows, kept in chunks of arrays: 5 million rows take 600 MB."""

    def __init__(self) -> None:
        self._exact: list[Hashes] = []
        self._asked: list[Hashes] = []
        self._signatures: list[Bytes] = []
        self._starts = [0]

    def __len__(self) -> int:
        return self._starts[-1]

    def add(self, exact: Hashes, asked: Hashes, signatures: Bytes) -> None:
        self._exact.append(exact)
        self._asked.append(asked)
        self._signatures.append(signatures)
        self._starts.append(self._starts[-1] + len(exact))

    def exact(self) -> Iterator[tuple[int, int]]:
        """(row, earlier row) of each row whose words are those of an earlier one."""
        if len(self):
            yield from repeated(np.concatenate(self._exact))

    def questions(self) -> Iterator[tuple[int, int]]:
        """(row, earlier row) of each row that asks what an earlier one asks of the same documents."""
        if len(self):
            yield from repeated(np.concatenate(self._asked))

    def near(self, second_split: int = 0) -> Iterator[tuple[int, int]]:
        """(row, earlier row) of each row that is almost an earlier one, each row once, exact ones left out.

        For rows from `second_split` on, an earlier row before it comes first: that one is trained on.
        """
        if not len(self):
            return
        skip = np.zeros(len(self), dtype=bool)
        skip[[row for row, _ in self.exact()]] = True
        found: dict[int, int] = {}
        for band in range(BANDS):
            columns = [chunk[:, band * ROWS : (band + 1) * ROWS] for chunk in self._signatures]
            key = np.zeros(len(self), dtype=np.uint64)
            key.view(np.uint8).reshape(-1, 8)[:, :ROWS] = np.concatenate(columns)
            for row, earlier in _candidates(key):
                better = row not in found or earlier < second_split <= found[row]
                if better and not skip[row] and self._similarity(row, earlier) >= THRESHOLD:
                    found[row] = earlier
        yield from sorted(found.items())

    def _similarity(self, first: int, second: int) -> float:
        """Estimated Jaccard similarity; 1 in 256 bytes is equal by chance."""
        equal = float(np.mean(self._signature(first) == self._signature(second)))
        return (equal - 1 / 256) / (1 - 1 / 256)

    def _signature(self, row: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
        chunk = bisect_right(self._starts, row) - 1
        signature: np.ndarray[tuple[int], np.dtype[np.uint8]] = self._signatures[chunk][row - self._starts[chunk]]
        return signature


def _candidates(keys: Hashes) -> Iterator[tuple[int, int]]:
    """(index, earlier index with the same key), with the first and with the last before it."""
    previous: dict[int, int] = {}
    for row, first in repeated(keys):
        yield row, first
        if previous.get(first, first) != first:
            yield row, previous[first]
        previous[first] = row


def repeated(keys: Hashes) -> Iterator[tuple[int, int]]:
    """(index, first index with the same key) of every key that is not the first of its kind."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    first = order[np.maximum.accumulate(np.where(starts, np.arange(len(keys)), 0))]
    again = np.flatnonzero(~starts)
    for position in again[np.argsort(order[again])]:
        yield int(order[position]), int(first[position])
