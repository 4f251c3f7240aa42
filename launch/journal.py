"""Reading and writing the files of a run directory so that a kill at any instant leaves them readable."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launch.redact import redact


def append(path: Path, row: dict[str, Any]) -> None:
    """Adds one row to a .jsonl file with a single write, so that rows of several writers never mix."""
    line = redact(json.dumps(row, ensure_ascii=False)) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def event(path: Path, name: str, **data: Any) -> None:
    append(path, {"event": name, "time": round(time.time(), 3), **data})


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a .jsonl file. A last line that was cut off by a kill is left out."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def keep_rows(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrites a .jsonl file with the rows that pass."""
    if path.exists():
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(path) if keep(row)))


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: temporary name, sync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, redact(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")
