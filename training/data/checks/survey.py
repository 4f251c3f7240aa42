"""Every row of one or two sources looked at once: what is wrong, what is left to train on.

The same pass serves `muster data validate`, the run's own check and the tokens that a run trains on, so that all three
agree on which rows are bad.
"""

import os
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from launch.errors import DataError, Mistake
from launch.spec import DataSpec
from launch.wording import printable
from training.data.checks.duplicates import PERMUTATIONS, Fingerprints, repeated
from training.data.checks.examine import Chunk, Examined, Settings, Split
from training.data.checks.parallel import CHUNK, examine
from training.data.rows.problems import Level, Problem
from training.data.rows.quarantine import Quarantine
from training.data.rows.raw import LINE_BITS
from training.data.rows.sources import files_of, not_read, rows_of

# A source can be wrong in every row; so many are kept for a message, the rest are counted.
SHOWN = 20


@dataclass
class Report:
    """What became of the rows. `kinds` counts problems, `bad` holds the places with an error of each split's files.

    `unread` files broke off: nobody knows how many rows they have.
    """

    rows: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    counts: dict[Split, Counter[str]] = field(default_factory=dict)
    bad: dict[tuple[Split, str], "array[int]"] = field(default_factory=dict)
    not_read: dict[Split, list[str]] = field(default_factory=dict)
    """Files in a folder that are no data files."""
    errors: int = 0
    unread: int = 0
    first_errors: list[Problem] = field(default_factory=list)

    @property
    def warnings(self) -> int:
        return self.kinds.total() - self.errors

    def is_bad(self, split: Split, file: str, place: int) -> None:
        self.bad.setdefault((split, file), array("q")).append(place)

    def bad_rows(self, split: Split) -> int:
        return sum(len(set(places)) for (other, _), places in self.bad.items() if other == split)


def _ignore(*found: object) -> None:
    pass


class Survey:
    """One pass over the rows of `sources`.

    `told` gets every problem as it is found, `kept` every examined chunk. Raises DataError when a source cannot be read
    or has no rows.
    """

    def __init__(
        self,
        sources: dict[Split, str],
        settings: Settings,
        told: Callable[[Problem, Level], None] = _ignore,
        kept: Callable[[Examined], None] = _ignore,
        quarantine: Quarantine | None = None,
        processes: int | None = None,
    ):
        self.sources, self.settings, self.told, self.kept = sources, settings, told, kept
        self.quarantine = quarantine
        self.processes = len(os.sched_getaffinity(0)) if processes is None else processes
        self.report = Report()
        self._marks = Fingerprints()
        self._names: list[np.ndarray[tuple[int], np.dtype[np.uint64]]] = []
        self._places: list[tuple[Split, str, np.ndarray[tuple[int], np.dtype[np.int64]]]] = []
        self._starts = [0]

    def run(self) -> Report:
        try:
            self._pass()
        except BaseException:
            if self.quarantine is not None:
                self.quarantine.give_up()
            raise
        if self.quarantine is not None:
            self.quarantine.close()
        return self.report

    def _pass(self) -> None:
        for split, source in self.sources.items():
            skipped = self.report.not_read[split] = not_read(source)
            self.report.counts[split] = Counter({"files that are not read": len(skipped)})
        for chunk in examine(chunks(self.sources), self.settings, self.processes):
            self._take(chunk)
        empty = [source for split, source in self.sources.items() if not self.report.rows[split]]
        if empty:
            reason = "has no rows; see docs/data.md for the formats that are read"
            raise DataError([Mistake(source, 0, 0, reason) for source in empty])
        self._repeated_names()
        self._duplicates()

    def _take(self, chunk: Examined) -> None:
        split = chunk.split
        self.report.rows[split] += len(chunk.places)
        self.report.counts[split] += chunk.counts
        for problem in chunk.problems:
            self._tell(problem)
        for row, errors in chunk.rejected:
            self.report.is_bad(split, row.file, row.place)
            self.report.unread += row.last
            if self.quarantine is not None:
                self.quarantine.add(row, errors)
        places = np.array([chunk.places[place] for place in chunk.good], dtype=np.int64)
        self._places.append((split, chunk.file, places))
        self._starts.append(self._starts[-1] + len(places))
        self._names.append(np.array([hash((split, name)) & (2**64 - 1) for name in chunk.names], dtype=np.uint64))
        if self.settings.content:
            signatures = np.frombuffer(bytes(chunk.signatures), dtype=np.uint8).reshape(-1, PERMUTATIONS)
            asked = np.array(chunk.asked, dtype=np.uint64)
            self._marks.add(np.array(chunk.exact, dtype=np.uint64), asked, signatures)
        self.kept(chunk)

    def _tell(self, problem: Problem) -> None:
        level = problem.level(self.settings.accepted)
        self.report.kinds[problem.kind] += 1
        if level == "error":
            self.report.errors += 1
            if len(self.report.first_errors) < SHOWN:
                self.report.first_errors.append(problem)
        self.told(problem, level)

    def _repeated_names(self) -> None:
        """Ids must be unique: the ledger counts samples by them."""
        names = np.concatenate(self._names) if self._names else np.array([], dtype=np.uint64)
        for row, earlier in repeated(names):
            _, other, first = self._place(earlier)
            where = f"line {line_of(first)}" if other == self._place(row)[1] else f"{other}:{line_of(first)}"
            self._late("duplicate-id", row, f"its id is also that of {where}; ids must be unique")

    def _duplicates(self) -> None:
        if not self.settings.content:
            return
        evaluated = next(
            (start for start, (split, _, _) in zip(self._starts, self._places, strict=False) if split == "eval"),
            len(self._marks),
        )
        exact = dict(self._marks.exact())
        near = dict(self._marks.near(evaluated))
        leaked: set[int] = set()
        for row, earlier in sorted({**near, **exact}.items()):
            words = "the same question and answer as" if row in exact else "almost the same words as"
            split, (other, before, first) = self._place(row)[0], self._place(earlier)
            where = f"{before}:{line_of(first)}"
            if split != other:
                leaked.add(row)
                self._late("leakage", row, f"{words} {where}, which is trained on")
            elif earlier in leaked:
                leaked.add(row)
                self._late("leakage", row, f"{words} {where}, which is almost a row that is trained on")
            else:
                self._late("exact-duplicate" if row in exact else "near-duplicate", row, f"{words} {where}")
        for row, earlier in self._marks.questions():
            split, (other, before, first) = self._place(row)[0], self._place(earlier)
            if split != other and row not in leaked:
                where = f"{before}:{line_of(first)}"
                self._late("leakage", row, f"the same question as {where}, which is trained on with another answer")

    def _late(self, kind: str, row: int, message: str) -> None:
        split, file, place = self._place(row)
        problem = Problem(kind, file, line_of(place), message)
        self._tell(problem)
        if problem.level(self.settings.accepted) == "error":
            self.report.is_bad(split, file, place)
            if self.quarantine is not None:
                self.quarantine.later(place, problem)

    def _place(self, row: int) -> tuple[Split, str, int]:
        chunk = bisect_right(self._starts, row) - 1
        split, file, places = self._places[chunk]
        return split, file, int(places[row - self._starts[chunk]])


def line_of(place: int) -> int:
    return place & (1 << LINE_BITS) - 1


def chunks(sources: dict[Split, str]) -> Iterator[Chunk]:
    files = {split: files_of(source) for split, source in sources.items()}
    for split, several in files.items():
        for file in several:
            rows = rows_of(file)
            while chunk := list(islice(rows, CHUNK)):
                yield Chunk(split, f"{file}:" if len(several) > 1 else "", chunk)


def refuse(report: Report, data: DataSpec) -> None:
    """Raises DataError, with the first errors, for rows that `data` does not let a run train on."""
    errors = [
        Mistake(printable(problem.file), problem.line, problem.column, printable(f"{problem.message} [{problem.kind}]"))
        for problem in report.first_errors
    ]
    # How many rows a file that broke off has lost, nobody could count.
    if report.errors and (data.on_bad_row == "fail" or report.unread):
        raise DataError(errors, hidden=report.errors - len(errors))
    both: list[tuple[Split, str | None]] = [("train", data.train), ("eval", data.eval)]
    for split, source in both:
        if source and report.bad_rows(split) == report.rows[split]:
            raise DataError([Mistake(source, 0, 0, "every row has an error: none is left to use"), *errors])
