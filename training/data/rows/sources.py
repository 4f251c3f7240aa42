"""Where rows come from: sources -> files -> raw rows, each with its line. Needs no torch.

A source is a file, a folder, a glob, or a hub id (owner/name, owner/name:SPLIT). Rows come one after the other, so a
file of any length takes the memory of a few rows; a .json array is read whole.
"""

import glob
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.errors import DataError, Mistake
from launch.spec.file import DATA_ENDINGS, is_hub_data
from launch.wording import first_line
from training.data.rows.fields import ENTRY
from training.data.rows.problems import RowError
from training.data.rows.raw import RawRow
from training.data.rows.readers import READERS, SIGNATURE_BYTES, misnamed, without_nulls

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
ENDINGS = tuple(ending for ending in DATA_ENDINGS if ending not in COMPRESSIONS)
ENTRY_BEGINS = b'{"file": '  # as quarantine.py writes it


def files_of(source: str) -> list[str]:
    """The files of a source, sorted; a hub id stands for itself. Raises DataError when there are none."""
    path = Path(source)
    if path.is_dir():
        found = [str(file) for file in files_below(path) if file.is_file() and _is_data(file)]
        if not found:
            raise _wrong(source, f"no data file in this folder; expected {_expected()}")
        return found
    if path.exists():
        if not path.is_file():
            raise _wrong(source, "is a pipe or a device, which gives its rows once: write them into a file")
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
    where = "" if Path(source).is_absolute() else f" in {Path.cwd()}"
    raise _wrong(source, f"no such data file{where}")


def files_below(root: Path) -> list[Path]:
    """Every file below a folder, sorted. A link to nothing stands for itself, so does a folder that cannot be read."""
    return sorted(path for _, inside in _folders(root) for path in inside if not _listable(path))


def _listable(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.R_OK | os.X_OK)


def _folders(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """A folder and those below it, each with what is inside.

    One that several names lead to comes once, by its own name where that is below the root: links in a circle end.
    """
    seen: set[Path] = set()
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if (real := folder.resolve()) in seen:
            continue
        seen.add(real)
        inside = sorted(folder.iterdir()) if _listable(folder) else []
        yield folder, inside
        for path in inside:
            if _listable(path):
                (links if path.is_symlink() else folders).append(path)


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
    return [] if Path(source).exists() else sorted(_glob(Path(source)))


def _glob(pattern: Path) -> set[str]:
    """As glob's own, whose `**` would follow links that lead in a circle."""
    if "**" not in pattern.parts:
        return set(glob.glob(str(pattern)))
    place = pattern.parts.index("**")
    rest = Path(*pattern.parts[place + 1 :] or "*")
    found: set[str] = set()
    for base in glob.glob(str(Path(*pattern.parts[:place]))):
        for folder, _ in _folders(Path(base)):
            if not any(part.startswith(".") for part in folder.relative_to(base).parts):
                found |= _glob(Path(glob.escape(str(folder))) / rest)
    return found


def _is_data(path: Path) -> bool:
    return bool(_form(str(path))) and not is_quarantine(path)


def not_read(source: str) -> list[str]:
    """The files of a folder or pattern that are no data files, or that an earlier check wrote.

    Of a pattern the folders too that match it themselves, while nothing in them does.
    """
    folder = Path(source).is_dir()
    there = [str(file) for file in files_below(Path(source))] if folder else _matching(source)
    around = {str(folder) for file in there for folder in Path(file).parents}
    read = set(files_of(source))
    return [file for file in there if file not in read and str(Path(file)) not in around]


def rows_of(file: str) -> Iterator[RawRow]:
    """The raw rows of one file or hub id. Raises DataError for a hub id that cannot be loaded."""
    if not Path(file).exists():
        yield from _hub(file)
        return
    line = 0
    try:
        with _opened(file) as stream:
            form = _form(file)
            wrong = misnamed(stream.peek(SIGNATURE_BYTES), form)
            if wrong is not None:
                yield RawRow(file, 1, error=wrong, last=True)
                return
            for row in READERS[form](file, stream):
                line = row.line
                yield row
    except (OSError, EOFError) as error:
        reason = f"cannot be read: {getattr(error, 'strerror', None) or error}; the rows after it are not read"
        yield RawRow(file, line + 1, error=RowError("unreadable", reason), last=True)


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
        yield RawRow(source, number, value=without_nulls(row))


@contextmanager
def _opened(file: str) -> Iterator[io.BufferedReader]:
    compression = COMPRESSIONS.get(Path(file).suffix.lower())
    if compression is None:
        with open(file, "rb") as plain:
            yield plain
        return
    import pyarrow

    with pyarrow.OSFile(file) as packed, pyarrow.CompressedInputStream(packed, compression) as stream:
        if _form(file) == ".parquet":  # needs to seek
            yield io.BufferedReader(io.BytesIO(stream.read()))
        else:
            yield io.BufferedReader(stream)


def _form(file: str) -> str:
    """The file's format by its name without a compression's ending; empty for what is not read."""
    path = Path(file)
    name = path.stem if path.suffix.lower() in COMPRESSIONS else path.name
    suffix = Path(name).suffix.lower()
    return suffix if suffix in ENDINGS else ""


def _expected() -> str:
    return f"{', '.join(ENDINGS)}, or one of these with {' or '.join(COMPRESSIONS)}"


def _wrong(source: str, reason: str) -> DataError:
    return DataError([Mistake(source, 0, 0, reason)])
