"""The bytes of one file -> raw rows, a reader for each format. Any bytes give rows or a named problem."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from launch.wording import first_line
from training.data.rows.fields import MORE_CELLS, NAMELESS
from training.data.rows.problems import RowError
from training.data.rows.raw import RawRow, decoded_at

BATCH = 1024  # rows of a Parquet file in memory at a time
# What a file of another name begins with, what it is then, and what to do.
_SIGNATURES = {
    b"PAR1": ".parquet", b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst",
    b"PK\x03\x04": "is a ZIP archive or a workbook: unpack it, or save its sheet as CSV",
    b"\xff\xfe": "is UTF-16 text: save it as UTF-8", b"\xfe\xff": "is UTF-16 text: save it as UTF-8",
}  # fmt: skip
SIGNATURE_BYTES = max(map(len, _SIGNATURES))


def misnamed(head: bytes, form: str) -> RowError | None:
    """What is wrong with a file that begins so, if it is not what its name's `form` says."""
    found = next((what for start, what in _SIGNATURES.items() if head.startswith(start)), form)
    if found == form != ".parquet" and b"\0" in head[:SIGNATURE_BYTES]:
        found = "has zero bytes, as UTF-16 text has: save it as UTF-8"
    if found == form:
        return None
    reason = f"is a {found} file: let its name end so" if found.startswith(".") else found
    return RowError("unreadable", f"{reason}; no row is read")


def _json_lines(file: str, stream: BinaryIO) -> Iterator[RawRow]:
    for number, line in enumerate(stream, start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if text.strip():
            yield RawRow(file, number, text=text.rstrip(b"\r\n"))


def _json(file: str, stream: BinaryIO) -> Iterator[RawRow]:
    """An array of rows. What starts with an object is JSON Lines under another name."""
    content = stream.read().removeprefix(b"\xef\xbb\xbf")
    if not content.lstrip().startswith(b"["):
        yield from _objects(file, content)
        return
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield RawRow(file, line, error=RowError("unreadable", f"is not UTF-8 text: {error.reason}"), last=True)
        return
    yield from _array(file, text)


def _objects(file: str, content: bytes) -> Iterator[RawRow]:
    """JSON Lines; but one object over several lines is told as what it is."""
    try:
        json.loads(content.lstrip().partition(b"\n")[0])
        one = False
    except (ValueError, RecursionError):
        try:
            one = isinstance(json.loads(content), dict)
        except (ValueError, RecursionError):
            one = False
    if one:
        reason = "is one object over several lines; expected an array of rows, or JSON Lines: one object a line"
        yield RawRow(file, 1, error=RowError("unreadable", reason), last=True)
    else:
        yield from _json_lines(file, io.BytesIO(content))


def _array(file: str, text: str) -> Iterator[RawRow]:
    position, line, counted = text.index("[") + 1, 1, 0
    number = 0

    def skip(position: int) -> int:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        return position

    position, first = skip(position), True
    while first is False or text[position : position + 1] != "]":
        line += text.count("\n", counted, position)
        counted = position
        try:
            began = position
            value, position, twice = decoded_at(text, position)
            number += 1
            if twice is None:
                yield RawRow(file, line, value=value, number=number)
            else:  # its text has what the value has lost
                yield RawRow(file, line, text=text[began:position].encode(), number=number, error=twice)
            position, first = skip(position), False
            if text[position : position + 1] == "]":
                break
            if text[position : position + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
            position = skip(position + 1)
        except json.JSONDecodeError as error:
            reason = RowError("unreadable", f"not JSON: {error.msg}; the rows after it are not read", error.colno)
            yield RawRow(file, error.lineno, error=reason, number=number + 1, last=True)
            return
        except (ValueError, RecursionError):
            reason = RowError("unreadable", "not JSON that can be read; the rows after it are not read")
            yield RawRow(file, line, error=reason, number=number + 1, last=True)
            return
    rest = skip(position + 1)
    if rest < len(text):
        line += text.count("\n", counted, rest)
        reason = RowError("unreadable", "not JSON: something follows the array; it is not read")
        yield RawRow(file, line, error=reason, number=number + 1, last=True)


def _csv(file: str, stream: BinaryIO) -> Iterator[RawRow]:
    csv.field_size_limit(sys.maxsize)
    # Bytes that are no UTF-8 become lone surrogates, which are then told row by row.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            reason = f"not CSV: {error}; the rows after it are not read"
            yield RawRow(file, line, error=RowError("unreadable", reason), last=True)
            break
        if not cells:
            continue
        if not names:
            names = cells
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                reason = f"two columns are called {twice[0]!r}: rename one; no row is read"
                yield RawRow(file, line, error=RowError("unreadable", reason), last=True)
                break
        elif len(cells) > len(names):
            value = {**_named(names, cells), NAMELESS: cells[len(names) :]}
            yield RawRow(file, line, value=value, error=RowError("unreadable", MORE_CELLS))
        else:
            yield RawRow(file, line, value=_named(names, cells))
    text.detach()


def _named(names: list[str], cells: list[str]) -> dict[str, Any]:
    return {name: cell for name, cell in zip(names, cells, strict=False) if cell != ""}


def _parquet(file: str, stream: BinaryIO) -> Iterator[RawRow]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=BATCH):
            for row in batch.to_pylist():
                number += 1
                yield RawRow(file, number, value=without_nulls(row))
    except (pyarrow.ArrowException, ValueError, UnicodeDecodeError) as error:
        reason = f"not Parquet that can be read: {first_line(error)}; the rows after it are not read"
        yield RawRow(file, number + 1, error=RowError("unreadable", reason), last=True)


def without_nulls(value: Any) -> Any:
    """Arrow gives every object of a column the keys of all of them: the null ones were not there."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


READERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
