"""A row of documents that is too long: what may go, in order, until it fits.

Distractors go first, the last ones before the first. Then, where no document is known to be an oracle, the longest are
shortened. The question, the answer, and a document that it rests on or cites are never touched.
"""

import math
from dataclasses import dataclass, replace

from training.data.encoding.template import Chat
from training.data.rows.citations import cited
from training.data.rows.problems import RowError
from training.data.rows.samples import Document, Sample, Tokens

ROUNDS = 8
SLACK = 16  # tokens by which a document's own count and its share of a row may differ: its id and what joins them
SHORTEST = 16  # tokens of a document; with fewer it says nothing


@dataclass(frozen=True, slots=True)
class Fitted:
    tokens: Tokens
    dropped: int = 0
    """Distractors left out."""
    shortened: int = 0
    """Documents cut short."""


def fit(sample: Sample, chat: Chat, max_length: int) -> Fitted:
    """The tokens of a sample in at most max_length. Raises RowError when what must stay is longer."""
    tokens = chat.encode(sample)
    if len(tokens.ids) <= max_length:
        return Fitted(tokens)
    protected = known_oracles(sample)
    fewer, dropped = _without_distractors(sample, chat, max_length, protected or set()) if protected is not None else (
        sample, 0
    )  # fmt: skip
    left = chat.encode(fewer) if dropped else tokens
    if dropped and len(left.ids) <= max_length:
        return Fitted(left, dropped=dropped)
    if not protected and sample.documents:
        shorter = _shortened(fewer, chat, max_length, len(left.ids))
        if shorter is not None:
            return replace(shorter, dropped=dropped)
    raise RowError("too-long", _why(left, max_length, bool(dropped)))


def known_oracles(sample: Sample) -> set[str] | None:
    """Ids of the documents that the answer rests on: those that the row names or it cites; None where nobody knows."""
    there, _ = cited(sample.answer, {document.id for document in sample.documents})
    if any(document.oracle is not None for document in sample.documents):
        return there | {document.id for document in sample.documents if document.oracle}
    return there or None


def _without_distractors(sample: Sample, chat: Chat, max_length: int, oracles: set[str]) -> tuple[Sample, int]:
    """The row without as many distractors as need be, but with one document at least, and how many went."""
    kept, dropped = list(sample.documents), 0
    # Tokens of parts do not add up exactly: the whole row is only counted again where the sum says that it may fit.
    left = len(chat.encode(sample).ids)
    for document in reversed(sample.documents):
        if document.id in oracles or len(kept) == 1:
            continue
        kept.remove(document)
        dropped += 1
        left -= len(chat.encoder.encode(document.text))
        if left <= max_length + SLACK * dropped:
            left = len(chat.encode(replace(sample, documents=tuple(kept))).ids)
            if left <= max_length:
                break
    return replace(sample, documents=tuple(kept)), dropped


def _shortened(sample: Sample, chat: Chat, max_length: int, full: int) -> Fitted | None:
    """Levels the longest documents until the row fits: a few rounds, for tokens of parts do not add up exactly."""
    lengths = [len(chat.encoder.encode(document.text)) for document in sample.documents]
    room = max_length - (full - sum(lengths))
    for _ in range(ROUNDS):
        if room < SHORTEST * len(lengths):
            return None
        level = _level(lengths, room)
        documents = tuple(map(lambda document, length: _cut(document, length, level), sample.documents, lengths))
        tokens = chat.encode(replace(sample, documents=documents))
        if len(tokens.ids) <= max_length:
            return Fitted(tokens, shortened=sum(length > level for length in lengths))
        room -= len(tokens.ids) - max_length
    return None


def _level(lengths: list[int], room: int) -> int:
    """The largest length to which all longer ones can be cut so that the sum is at most `room`."""
    left, waiting = room, sorted(lengths)
    for index, length in enumerate(waiting):
        share = left // (len(waiting) - index)
        if length > share:
            return share
        left -= length
    return waiting[-1]


def _cut(document: Document, length: int, level: int) -> Document:
    """The beginning of a document, in whole words, in about so many tokens."""
    if length <= level:
        return document
    characters = math.floor(len(document.text) * level / length)
    head = document.text[:characters]
    return replace(document, text=head[: head.rfind(" ")] if " " in head else head)


def _why(tokens: Tokens, max_length: int, without: bool) -> str:
    full = len(tokens.ids)
    first = tokens.spans[0][0] if tokens.spans else full
    what = "the answer lies beyond" if first >= max_length else "the answer would be cut off at"
    kept = " without its distractors" if without else ""
    return f"{what} data.max_length {max_length}: the row has {full} tokens{kept}; raise it or shorten the row"
