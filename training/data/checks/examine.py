"""Raw rows -> what is known about each: problems, fingerprints, tokens. A chunk of rows at a time."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from launch.redact import redact
from training.data.checks.content import check
from training.data.checks.duplicates import fingerprint
from training.data.encoding.shorten import fit
from training.data.encoding.template import Chat, ChatFiles
from training.data.rows.formats import to_sample
from training.data.rows.problems import Problem, RowError
from training.data.rows.raw import RawRow
from training.data.rows.samples import Sample, Tokens

Split = Literal["train", "eval"]
FIRST = 4000  # of a row that is shown: a secret in it must be whole to be recognised, before it is cut


@dataclass(frozen=True)
class Settings:
    """How rows are read and judged. Without `chat` nothing is tokenised."""

    form: str = "auto"
    columns: tuple[tuple[str, str], ...] = ()
    max_length: int = 0
    chat: ChatFiles | None = None
    accepted: frozenset[str] = frozenset()
    content: bool = True
    """Whether texts are searched for secrets and the like, and rows for duplicates."""
    tokenised: frozenset[Split] = frozenset(get_args(Split))
    """Whose rows have to fit; those of another split are only compared with them."""


class Chunk(NamedTuple):
    """Rows of one file. In the name of a row without an id `prefix` goes before its line, or its number in an array."""

    split: Split
    prefix: str
    rows: list[RawRow]


@dataclass(frozen=True)
class Encoded:
    """Tokens of the samples of a chunk, by column: a good row is one sample, a long text several."""

    places: list[int]
    """Which of the chunk's places each sample comes from."""
    names: list[str]
    ids: NDArray[np.int32]
    """Those of all samples one after the other; `lengths` of them are each one's."""
    lengths: NDArray[np.int32]
    spans: NDArray[np.int32]
    """Starts and ends of what is trained on, counted in the sample; `span_lengths` of these numbers are each one's."""
    span_lengths: NDArray[np.int32]
    trainable: NDArray[np.int32]

    @classmethod
    def of(cls, parts: list[tuple[int, str, Tokens]]) -> "Encoded":
        tokens = [part for _, _, part in parts]
        spans = [np.array(part.spans, dtype=np.int32).reshape(-1) for part in tokens]
        nothing = np.array([], dtype=np.int32)
        return cls(
            [place for place, _, _ in parts], [name for _, name, _ in parts],
            np.concatenate([nothing, *(part.ids for part in tokens)]), _numbers([len(part.ids) for part in tokens]),
            np.concatenate([nothing, *spans]), _numbers([len(span) for span in spans]),
            _numbers([part.trainable for part in tokens]),
        )  # fmt: skip


def _numbers(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


@dataclass
class Examined:
    """What is known about a chunk, by column. Rows with an error have no fingerprint and no tokens."""

    split: Split
    file: str
    places: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    rejected: list[tuple[RawRow, list[Problem]]] = field(default_factory=list)
    """The bad ones themselves, each with its errors."""
    good: list[int] = field(default_factory=list)
    """Which of `places` are good rows. `names`, `exact`, `asked`, `signatures` (PERMUTATIONS bytes each) are theirs."""
    names: list[str] = field(default_factory=list)
    exact: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    signatures: bytearray = field(default_factory=bytearray)
    encoded: Encoded | None = None
    """None where nothing is tokenised."""


class Examiner:
    def __init__(self, settings: Settings):
        self.settings = settings
        self.chat = Chat(settings.chat) if settings.chat else None
        self.columns = dict(settings.columns)

    def chunk(self, chunk: Chunk) -> Examined:
        found = Examined(chunk.split, chunk.rows[0].file)
        parts: list[tuple[int, str, Tokens]] = []
        for place, row in enumerate(chunk.rows):
            found.places.append(row.place)
            name = f"{chunk.prefix}{row.number or row.line}"
            problems: list[Problem] = []
            changes: Counter[str] = Counter()
            try:
                sample = to_sample(row.read(), row.file, row.line, self.settings.form, self.columns, name)
                problems += self._judged(sample)
                tokens = self._tokens(sample, changes) if chunk.split in self.settings.tokenised else []
            except RowError as error:  # whatever else is wrong with the row is told as well
                problems.append(Problem(error.kind, row.file, row.line, str(error), shown(row), error.column))
            found.problems += problems
            errors = [problem for problem in problems if problem.level(self.settings.accepted) == "error"]
            if errors:
                found.rejected.append((row, errors))
                continue
            self._keep(found, place, sample)
            found.counts += changes
            for number, part in enumerate(tokens, start=1):
                parts.append((place, sample.id if len(tokens) == 1 else f"{sample.id}#{number}", part))
        if self.chat is not None:
            found.encoded = Encoded.of(parts)
        return found

    def _judged(self, sample: Sample) -> list[Problem]:
        if not self.settings.content:
            return []
        return list(check(sample, self.chat.control_tokens if self.chat else None))

    def _tokens(self, sample: Sample, counts: Counter[str]) -> list[Tokens]:
        """One piece, or as many as a plain text needs. Raises RowError for a row that nothing can be learnt from."""
        if self.chat is None:
            return []
        if sample.text:
            whole = self.chat.encode(sample)
            # Parts of about the same length: a last one of a single token could not be trained on.
            parts = np.array_split(whole.ids, math.ceil(len(whole.ids) / self.settings.max_length))
            if len(parts[-1]) < 2:
                raise RowError("untrainable", "no token of the text can be trained on")
            counts["texts cut into parts"] += len(parts) > 1
            return [Tokens(part, [(0, len(part))]) for part in parts]
        fitted = fit(sample, self.chat, self.settings.max_length)
        if not fitted.tokens.trainable:
            raise RowError("untrainable", "no token of the answer can be trained on")
        counts["rows without some of their distractors"] += fitted.dropped > 0
        counts["distractors left out"] += fitted.dropped
        counts["rows with shortened documents"] += fitted.shortened > 0
        counts["documents shortened"] += fitted.shortened
        return [fitted.tokens]

    def _keep(self, found: Examined, place: int, sample: Sample) -> None:
        found.good.append(place)
        found.names.append(sample.id)
        if self.settings.content:
            mark = fingerprint(sample)
            found.exact.append(mark.exact)
            found.asked.append(mark.asked)
            found.signatures += mark.signature


def shown(row: RawRow, characters: int = 60) -> str:
    """The beginning of a raw row, on one line of printable characters."""
    if row.text is None and row.value is None:
        return ""
    text = row.text[:FIRST].decode("utf-8", "backslashreplace") if row.text is not None else str(row.value)[:FIRST]
    return ascii(redact(text)[:characters])[1:-1]
