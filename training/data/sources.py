"""Data files -> raw rows, each with its line. Needs no torch; any bytes give rows or a named problem.

A source is a file, a folder, a glob, or a hub id (owner/name, owner/name:SPLIT). Rows come one after the other, so a
file of any length takes the memory of a few rows; a .json array is read whole.
"""

import csv
import glob
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from launch.errors import DataError, Mistake
from launch.specfile import DATA_ENDINGS, is_hub_data
from launch.wording import first_line
from training.data.fields import ENTRY
from training.data.problems import RowError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FORMATS = tuple(ending for ending in DATA_ENDINGS if ending not in COMPRESSIONS)
LINE_BITS = 32
ENTRY_BEGINS = b'{"file": '  # as quarantine.py writes it
BATCH = 1024  # rows of a Parquet file in memory at a time


class RawRow(NamedTuple):
    """`line` counts from 1: a line of a text file, or a row of one that has no lines. `text` is a JSON line, unread.

    `number` tells rows of one line apart. After a row that is the `last` to be read, others may have been lost.
    """

    file: str
    line: int
    value: Any = None
    text: bytes | None = None
    error: RowError | None = None
    number: int = 0
    last: bool = False

    @property
    def place(self) -> int:
        """Identifies the row in its file; the lower half is its line."""
        return self.number << LINE_BITS | self.line

    def read(self) -> Any:
        """The row as Python values. Raises RowError."""
        if self.error is not None:
            raise self.error
        return self.value if self.text is None else parse_json(self.text)


def files_of(source: str) -> list[str]:
    """The files of a source, sorted; a hub id stands for itself. Raises DataError when there are none."""
    path = Path(source)
    if path.is_dir():
        found = sorted(str(file) for file in path.rglob("*") if file.is_file() and _is_data(file))
        if not found:
            raise _wrong(source, f"no data file in this folder; expected {_expected()}")
        return found
    if path.exists():
        if not _form(source):
            raise _wrong(source, f"is none of {_expected()}; convert it, or rename it to what it is")
        return [source]
    if any(character in source for character in "*?["):
        matching = [file for file in _matching(source) if Path(file).is_file()]
        if not matching:
            raise _wrong(source, "no file matches this pattern")
        found = [file for file in matching if not is_quarantine(Path(file))]
        if not found:
            raise _wrong(source, "only rows that were left out match; name their file itself to read it")
        return [file for name in found for file in files_of(name)]
    if is_hub_data(source):
        return [source]
    raise _wrong(source, "no such data file; a path in the spec starts at the spec's folder")


def is_quarantine(path: Path) -> bool:
    """Whether a file holds rows that were left out: read only where it is named itself, and may be written anew."""
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            line = file.readline() if file.peek(len(ENTRY_BEGINS)).startswith(ENTRY_BEGINS) else b"{}"
        return set(json.loads(line)) == ENTRY
    except (OSError, ValueError, RecursionError):
        return False


def _matching(source: str) -> list[str]:
    """Nothing for a path that exists: its name may hold a bracket."""
    return [] if Path(source).exists() else sorted(glob.glob(source, recursive=True))


def _is_data(path: Path) -> bool:
    return bool(_form(str(path))) and not is_quarantine(path)


def not_read(source: str) -> list[str]:
    """The files of a folder or pattern that are no data files, or that an earlier check wrote."""
    if Path(source).is_dir():
        there = [str(file) for file in Path(source).rglob("*") if not file.is_dir()]
    else:
        there = _matching(source)
    read = set(files_of(source))
    return sorted(file for file in there if file not in read and not Path(file).is_dir())


def rows_of(file: str) -> Iterator[RawRow]:
    """The raw rows of one file or hub id. Raises DataError for a hub id that cannot be loaded."""
    if not Path(file).exists():
        yield from _hub(file)
        return
    line = 0
    try:
        with _opened(file) as stream:
            for row in _READERS[_form(file)](file, stream):
                line = row.line
                yield row
    except (OSError, EOFError) as error:
        reason = f"cannot be read: {getattr(error, 'strerror', None) or error}; the rows after it are not read"
        yield RawRow(file, line + 1, error=RowError("unreadable", reason), last=True)


def parse_json(text: bytes) -> Any:
    """One JSON value. Raises RowError with the column."""
    try:
        _twice.clear()
        value = _DECODER.decode(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError("unreadable", f"is not UTF-8 text: {error.reason}", error.start + 1) from None
    except json.JSONDecodeError as error:
        raise RowError("unreadable", f"not JSON: {error.msg}", error.colno) from None
    except (ValueError, RecursionError):  # a number with more digits than Python reads; nesting without end
        raise RowError("unreadable", "not JSON that can be read: a number or a nesting without end") from None
    if _twice:
        raise _twofold()
    return value


_twice: list[str] = []


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, and a note of a key that it has twice: json itself would pass over the first."""
    made = dict(pairs)
    if len(made) != len(pairs):
        _twice.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _twofold() -> RowError:
    return RowError("field", f"has `{_twice[0]}` twice; only one could be read")


def _json_lines(file: str, stream: BinaryIO) -> Iterator[RawRow]:
    for number, line in enumerate(stream, start=1):
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            reason = "is UTF-16 text: save it as UTF-8; no row is read"
            yield RawRow(file, 1, error=RowError("unreadable", reason), last=True)
            return
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
            _twice.clear()
            value, position = _DECODER.raw_decode(text, position)
            number += 1
            yield RawRow(file, line, value=value, number=number, error=_twofold() if _twice else None)
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
            yield RawRow(file, line, error=RowError("unreadable", "has more cells than the header has names"))
        else:
            pairs = zip(names, cells, strict=False)
            yield RawRow(file, line, value={name: cell for name, cell in pairs if cell != ""})
    text.detach()


def _parquet(file: str, stream: BinaryIO) -> Iterator[RawRow]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=BATCH):
            for row in batch.to_pylist():
                number += 1
                yield RawRow(file, number, value=_without_nulls(row))
    except (pyarrow.ArrowException, ValueError, UnicodeDecodeError) as error:
        reason = f"not Parquet that can be read: {first_line(error)}; the rows after it are not read"
        yield RawRow(file, number + 1, error=RowError("unreadable", reason), last=True)


def _without_nulls(value: Any) -> Any:
    """Arrow gives every object of a column the keys of all of them: the null ones were not there."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


_READERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}


def hub_rows(source: str) -> Any:
    """The datasets.Dataset of a hub id. Raises DataError when it cannot be loaded."""
    import datasets

    name, _, split = source.partition(":")
    try:
        return datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # noqa: BLE001 - the hub's client raises whatever its transports raise
        reason = first_line(error)
        raise _wrong(
            source, f"is no file here, and the hub's data set {name} cannot be loaded: {type(error).__name__}: {reason}"
        ) from None


def _hub(source: str) -> Iterator[RawRow]:
    for number, row in enumerate(hub_rows(source), start=1):
        yield RawRow(source, number, value=_without_nulls(row))


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    compression = COMPRESSIONS.get(Path(file).suffix.lower())
    if compression is None:
        with open(file, "rb") as plain:
            yield plain
        return
    import pyarrow

    with pyarrow.OSFile(file) as packed, pyarrow.CompressedInputStream(packed, compression) as stream:
        if _form(file) == ".parquet":  # needs to seek
            yield io.BytesIO(stream.read())
        else:
            yield io.BufferedReader(stream)


def _form(file: str) -> str:
    """The file's format by its name without a compression's ending; empty for what is not read."""
    path = Path(file)
    name = path.stem if path.suffix.lower() in COMPRESSIONS else path.name
    suffix = Path(name).suffix.lower()
    return suffix if suffix in FORMATS else ""


def _expected() -> str:
    return f"{', '.join(FORMATS)}, or one of these with {' or '.join(COMPRESSIONS)}"


def _wrong(source: str, reason: str) -> DataError:
    return DataError([Mistake(source, 0, 0, reason)])
