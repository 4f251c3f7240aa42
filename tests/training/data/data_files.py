"""Rows written as each kind of file that muster reads."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

ENDINGS = [f"{form}{packed}" for form in (".jsonl", ".json", ".csv", ".parquet") for packed in ("", ".gz", ".zst")]
Row = dict[str, Any]


def content(ending: str, rows: list[Any]) -> bytes:
    """The bytes of a file whose name ends so."""
    form, _, packed = ending.removeprefix(".").partition(".")
    return compressed(_WRITERS[form](rows), packed)


def compressed(raw: bytes, packed: str) -> bytes:
    if packed == "gz":
        return gzip.compress(raw, mtime=0)
    return pa.compress(raw, codec="zstd", asbytes=True) if packed == "zst" else raw


def written(path: Path, *rows: Any) -> Path:
    """A file of rows, in the form that its name tells. In .jsonl text stands for a line as it is."""
    name = path.name
    path.write_bytes(content(name[name.index(".") :], list(rows)))
    return path


def _jsonl(rows: list[Any]) -> bytes:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def _csv(rows: list[Row]) -> bytes:
    """Nested values as JSON text, which is all that a cell can hold."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list({key: None for row in rows for key in row}))
    writer.writeheader()
    for row in rows:
        writer.writerow({key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()})
    return out.getvalue().encode()


def _parquet(rows: list[Row]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


_WRITERS = {"jsonl": _jsonl, "json": lambda rows: json.dumps(rows, indent=1).encode(), "csv": _csv, "parquet": _parquet}
