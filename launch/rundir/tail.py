"""The end of a file that somebody else writes, read piece by piece: a look costs what is new, not what is there."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch.rundir.journal import opened, parse_rows

# Whoever was away for longer than this takes does not want to see it all.
MOST_BYTES = 4 << 20


class Tail:
    """New complete rows of a .jsonl file since the last look; at first none, or those of its `last` bytes.

    With `skips`, whoever fell behind by MOST_BYTES goes on with the last ones; otherwise nothing is left out.
    """

    def __init__(self, path: Path, last: int = 0, skips: bool = False):
        self.path, self.last, self.skips = path, last, skips
        self.offset = self.inode = 0
        self.torn = False
        try:
            found = path.stat()
        except OSError:
            return
        self.inode = found.st_ino
        self._jump(found.st_size)

    def rows(self) -> list[dict[str, Any]]:
        return list(parse_rows(self._block().decode(errors="replace")))

    def _jump(self, size: int) -> None:
        """To `last` bytes before the end, or to the first whole row behind that place."""
        self.offset = max(0, size - self.last - 1) if self.last else size
        self.torn = bool(self.last and self.offset)

    def _block(self) -> bytes:
        """What is new, to the end of its last complete line."""
        try:
            with open(self.path, "rb", opener=opened) as file:
                found = os.fstat(file.fileno())
                # A resume wrote it anew, without the rows that it will repeat. Twice, and it may have its old number.
                if found.st_ino != self.inode or found.st_size < self.offset:
                    self.offset, self.inode, self.torn = 0, found.st_ino, False
                if self.skips and found.st_size - self.offset > MOST_BYTES:
                    self._jump(found.st_size)
                file.seek(self.offset)
                block = file.read()
        except OSError:
            return b""
        end = block.rfind(b"\n") + 1
        self.offset += end
        begin = block.find(b"\n") + 1 if self.torn and end else 0
        self.torn = self.torn and not end
        return block[begin:end]


def lines_of(block: bytes) -> Iterator[str]:
    """The lines of a log. A progress bar writes over itself: each of its states is a line."""
    for line in block.decode(errors="replace").replace("\r", "\n").split("\n"):
        if line.strip():
            yield line.rstrip()
