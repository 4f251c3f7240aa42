"""The rows that were left out, each with its reasons, in a file of JSON Lines that can be mended and read again."""

import json
from filecmp import cmp
from itertools import count
from pathlib import Path
from typing import IO, Any

from launch.errors import HostError, UsageError
from launch.rundir.journal import scrub
from training.data.rows.problems import Problem
from training.data.rows.raw import RawRow
from training.data.rows.sources import is_quarantine, rows_of

Reason = dict[str, str]


class Quarantine:
    """{file, line, reasons: [{kind, message}], row} a line. Without a bad row there is no file.

    `row` is the row as it was read, or its text where it could not be. Mended, the file can be read as data again. It
    appears whole when the pass is over; one that is there already, perhaps mended by hand, is kept beside it.
    """

    def __init__(self, path: Path, hide_secrets: bool = False):
        """Raises UsageError where the file cannot be written, or would take the place of something else."""
        if path.exists() and not is_quarantine(path):
            raise UsageError(f"{path}: is there and no file of quarantined rows; choose another place for these")
        if not path.parent.is_dir():
            raise UsageError(f"{path}: rows with errors cannot be written there: no such folder")
        self.path, self.rows, self.hide_secrets = path, 0, hide_secrets
        self._file: IO[str] | None = None
        self._late: dict[str, dict[int, list[Reason]]] = {}

    def add(self, row: RawRow, errors: list[Problem]) -> None:
        """A row that was found bad by itself."""
        self._write(row, [_reason(problem) for problem in errors])

    def later(self, place: int, problem: Problem) -> None:
        """A row that was found bad beside others, when it had gone by: it is read once more at the end."""
        self._late.setdefault(problem.file, {}).setdefault(place, []).append(_reason(problem))

    def close(self) -> None:
        for file, places in self._late.items():
            for row in rows_of(file):
                if row.place in places:
                    self._write(row, places[row.place])
        if self.path.exists():
            self._keep_earlier()
        if self._file is not None:
            self._file.close()
            self._partial.rename(self.path)

    def give_up(self) -> None:
        """The pass broke off: an earlier file stays as it is, and nothing half-written beside it."""
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def _keep_earlier(self) -> None:
        """The file that is there becomes `.previous`, and what was that before gets a number, unless it is the same."""
        if self.previous.exists() and not cmp(self.previous, self.path, shallow=False):
            numbered = (self.previous.with_name(f"{self.previous.name}.{number}") for number in count(1))
            self.previous.rename(next(path for path in numbered if not path.exists()))
        self.path.rename(self.previous)

    @property
    def previous(self) -> Path:
        return self.path.with_name(f"{self.path.name}.previous")

    @property
    def _partial(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")

    def _write(self, row: RawRow, reasons: list[Reason]) -> None:
        if self._file is None:
            try:
                self._file = open(self._partial, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()
            except OSError as error:
                raise HostError(f"{self.path}: rows with errors cannot be written there: {error.strerror}") from None
        entry = {"file": row.file, "line": row.line, "reasons": reasons, "row": _readable(row)}
        self._file.write(json.dumps(scrub(entry) if self.hide_secrets else entry, default=str) + "\n")
        self.rows += 1


def _reason(problem: Problem) -> Reason:
    return {"kind": problem.kind, "message": problem.message}


def _readable(row: RawRow) -> Any:
    try:
        return row.read()
    except ValueError:
        return row.text.decode("utf-8", "backslashreplace") if row.text is not None else row.value
