"""The rows that were left out, each with its reasons, in a file of JSON Lines that can be mended and read again."""

import json
from pathlib import Path
from typing import IO, Any

from launch.errors import HostError
from training.data.examine import Examined
from training.data.problems import Problem
from training.data.sources import RawRow, rows_of

Reason = dict[str, str]


class Quarantine:
    """{file, line, reasons: [{kind, message}], row} a line. Without a bad row there is no file.

    `row` is the row as it was read, or its text where it could not be.
    """

    def __init__(self, path: Path):
        self.path, self.rows = path, 0
        self._file: IO[str] | None = None
        self._late: dict[str, dict[int, list[Reason]]] = {}

    def add(self, chunk: Examined, errors: list[Problem]) -> None:
        """Rows that were found bad by themselves."""
        reasons: dict[int, list[Reason]] = {}
        for problem in errors:
            reasons.setdefault(problem.line, []).append(_reason(problem))
        for row in chunk.rejected:
            self._write(row, reasons.get(row.line, []))

    def later(self, problem: Problem) -> None:
        """A row that was found bad beside others, when it had gone by: it is read once more at the end."""
        self._late.setdefault(problem.file, {}).setdefault(problem.line, []).append(_reason(problem))

    def close(self) -> None:
        for file, lines in self._late.items():
            for row in rows_of(file):
                if row.line in lines:
                    self._write(row, lines[row.line])
        if self._file is not None:
            self._file.close()
        else:
            self.path.unlink(missing_ok=True)  # of an earlier pass, whose rows were mended

    def _write(self, row: RawRow, reasons: list[Reason]) -> None:
        if self._file is None:
            try:
                self._file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()
            except OSError as error:
                raise HostError(f"{self.path}: rows with errors cannot be written there: {error.strerror}") from None
        entry = {"file": row.file, "line": row.line, "reasons": reasons, "row": _readable(row)}
        self._file.write(json.dumps(entry, default=str) + "\n")
        self.rows += 1


def _reason(problem: Problem) -> Reason:
    return {"kind": problem.kind, "message": problem.message}


def _readable(row: RawRow) -> Any:
    try:
        return row.read()
    except ValueError:
        return row.text.decode("utf-8", "backslashreplace") if row.text is not None else None
