"""Raw rows -> what is known about each: problems, fingerprints, tokens. Works on chunks, in one process or several."""

import math
import pickle
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from training.data.checks import check
from training.data.duplicates import fingerprint
from training.data.formats import to_sample
from training.data.problems import Problem, RowError
from training.data.samples import Sample
from training.data.shorten import fit
from training.data.sources import RawRow
from training.data.template import Chat, ChatFiles, Tokens

CHUNK = 1000
# Starting a process and loading a vocabulary into it takes as long as some thousand rows.
WORTH_PROCESSES = 8 * CHUNK


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


@dataclass
class Examined:
    """A chunk of rows of one file, by column. Rows with an error have no fingerprint and no tokens."""

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
    parts: list[tuple[int, str, Tokens]] = field(default_factory=list)
    """(place, name, tokens) of what is trained on: a good row, or several parts of a long text."""


class Examiner:
    def __init__(self, settings: Settings):
        self.settings = settings
        self.chat = Chat(settings.chat) if settings.chat else None
        self.columns = dict(settings.columns)

    def chunk(self, prefix: str, rows: list[RawRow]) -> Examined:
        """`prefix` goes before the line, or in an array the number, in the name of a row that has no id."""
        found = Examined(rows[0].file)
        for place, row in enumerate(rows):
            found.places.append(row.place)
            name = f"{prefix}{row.number or row.line}"
            try:
                sample = to_sample(row.read(), row.file, row.line, self.settings.form, self.columns, name)
                problems = self._judged(sample)
                tokens = self._tokens(sample, found.counts)
            except RowError as error:
                problem = Problem(error.kind, row.file, row.line, str(error), shown(row), error.column)
                found.problems.append(problem)
                found.rejected.append((row, [problem]))
                continue
            found.problems += problems
            errors = [problem for problem in problems if problem.level(self.settings.accepted) == "error"]
            if errors:
                found.rejected.append((row, errors))
                continue
            self._keep(found, place, sample, tokens)
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

    def _keep(self, found: Examined, place: int, sample: Sample, tokens: list[Tokens]) -> None:
        found.good.append(place)
        found.names.append(sample.id)
        if self.settings.content:
            mark = fingerprint(sample)
            found.exact.append(mark.exact)
            found.asked.append(mark.asked)
            found.signatures += mark.signature
        for number, part in enumerate(tokens, start=1):
            found.parts.append((place, sample.id if len(tokens) == 1 else f"{sample.id}#{number}", part))


def shown(row: RawRow, characters: int = 60) -> str:
    """The beginning of a raw row, on one line of printable characters."""
    text = row.text.decode("utf-8", "backslashreplace") if row.text is not None else str(row.value)
    return ascii(text[:characters])[1:-1] if row.value is not None or row.text is not None else ""


def examine(chunks: Iterable[tuple[str, list[RawRow]]], settings: Settings, processes: int) -> Iterator[Examined]:
    """Every chunk examined, in order. Few rows are examined here, many in `processes` processes."""
    waiting = iter(chunks)
    examiner = Examiner(settings)
    for prefix, rows in islice(waiting, 1):  # here, so that what it teaches about the template travels
        yield examiner.chunk(prefix, rows)
    first = list(islice(waiting, WORTH_PROCESSES // CHUNK))
    if processes < 2 or sum(len(rows) for _, rows in first) < WORTH_PROCESSES:
        for prefix, rows in (*first, *waiting):
            yield examiner.chunk(prefix, rows)
        return
    # spawn: a forked copy of threads that hold locks can hang.
    context = get_context("spawn")
    with _pickled(examiner) as file, ProcessPoolExecutor(processes, context, _start, (file,)) as pool:
        pending: deque[Future[Examined]] = deque()
        for prefix, rows in (*first, *waiting):
            pending.append(pool.submit(_chunk, prefix, rows))
            if len(pending) > 2 * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def _pickled(examiner: Examiner) -> Iterator[str]:
    """In a file: through the pipe to a new process, the parent would wait until that process has started to read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "examiner")
        path.write_bytes(pickle.dumps(examiner))
        yield str(path)


_examiner: Examiner | None = None


def _start(file: str) -> None:
    global _examiner
    _examiner = pickle.loads(Path(file).read_bytes())  # noqa: S301 - our parent's own, of a moment ago


def _chunk(prefix: str, rows: list[RawRow]) -> Examined:
    assert _examiner is not None
    return _examiner.chunk(prefix, rows)
