"""The newest values of metrics.jsonl, which another process appends to and, after a resume, writes anew."""

import json
import os
from pathlib import Path
from typing import Any


class Newest:
    """The last value of each key that is a number; reads only what was added since it was asked last."""

    def __init__(self, path: Path):
        self.path = path
        self.values: dict[str, float] = {}
        self._file, self._offset, self._torn = -1, 0, b""

    def read(self) -> dict[str, float]:
        try:
            with open(self.path, "rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._file or found.st_size < self._offset:
                    self.values, self._file, self._offset, self._torn = {}, found.st_ino, 0, b""
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            return self.values
        self._offset += len(added)
        *lines, self._torn = (self._torn + added).split(b"\n")
        for line in lines:
            self._take(line)
        return self.values

    def _take(self, line: bytes) -> None:
        try:
            row: Any = json.loads(line)
        except ValueError:  # a kill tore it apart
            return
        for key, value in row.items() if isinstance(row, dict) else ():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.values[key] = value
            elif value is None:
                self.values.pop(key, None)
