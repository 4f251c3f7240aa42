"""A pseudo-terminal with a program in it, and what a person would see there."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.conftest import ROOT, environment

# All that is sent: cursor to a place, styles, cursor on and off, alternate screen on and off.
_SEQUENCE = re.compile(r"\x1b\[(\?25|\?1049|[\d;]*)([a-zA-Z])")


class Screen:
    """Interprets what a program sends; raises on anything that it does not know, and on a line that is too long."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.main, self.alternate = self._blank(), self._blank()
        self.cells, self.row, self.column = self.main, 0, 0
        self.saved = 0, 0
        self.cursor = True
        self.styles = set[str]()

    def _blank(self) -> list[list[str]]:
        return [[" "] * self.width for _ in range(self.height)]

    @property
    def in_alternate(self) -> bool:
        return self.cells is self.alternate

    def text(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.cells]

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                match = _SEQUENCE.match(text, at)
                assert match is not None, repr(text[at : at + 20])
                self._control(match[1], match[2])
                at = match.end()
            else:
                self._put(text[at])
                at += 1

    def _control(self, arguments: str, kind: str) -> None:
        match kind, arguments:
            case "m", _:
                self.styles.update(arguments.split(";"))
            case "H", _:
                row, _, column = arguments.partition(";")
                self.row, self.column = int(row or 1) - 1, int(column or 1) - 1
            case (("h" | "l"), "?25"):
                self.cursor = kind == "h"
            case (("h" | "l"), "?1049"):
                self.cells = self.alternate if kind == "h" else self.main
                if kind == "h":
                    self.saved = self.row, self.column
                else:
                    self.row, self.column = self.saved
            case _:
                raise AssertionError(f"unknown sequence {arguments}{kind}")

    def _put(self, character: str) -> None:
        if character == "\n":
            self._next_row()
        elif character == "\r":
            self.column = 0
        else:
            if self.column == self.width:
                assert not self.in_alternate, f"row {self.row} is longer than {self.width}"
                self.column = 0
                self._next_row()
            self.cells[self.row][self.column] = character
            self.column += 1

    def _next_row(self) -> None:
        self.row += 1
        if self.row == self.height:
            self.cells.append([" "] * self.width)
            del self.cells[0]
            self.row -= 1


class Terminal:
    """Use as a context manager: what still runs at its end is killed."""

    def __init__(self, argv: list[Any], width: int = 80, height: int = 24, **variables: str):
        self.width, self.height = width, height
        self.master, slave = pty.openpty()
        self.slave: int | None = slave
        self.resize(width, height)
        self.before = self.after = termios.tcgetattr(slave)
        variables = {"TERM": "xterm-256color", "PYTHONUTF8": "1", **variables}
        kept = {name: value for name, value in environment(**variables).items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [str(part) for part in argv], cwd=ROOT, env=kept, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self.sent = bytearray()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in (self.slave, self.master):
            if descriptor is not None:
                os.close(descriptor)

    def resize(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def screen(self) -> Screen:
        screen = Screen(self.width, self.height)
        screen.feed(self._whole())
        return screen

    def wait_for(self, what: str | Callable[[Screen], bool], seconds: float = 30.0) -> Screen:
        deadline = time.monotonic() + seconds
        while True:
            ended = self.process.poll() is not None  # looked at first: what it showed before that is read below
            if ended:
                self._read_out()
            screen = self.screen()
            if what(screen) if callable(what) else any(what in line for line in screen.text()):
                return screen
            assert time.monotonic() < deadline, "\n".join(screen.text())
            assert not ended or seconds < 1, f"ended\n{self._whole()}"
            time.sleep(0.05)

    def ends(self, seconds: float = 60.0) -> int:
        code = self.process.wait(timeout=seconds)
        self._read_out()
        return code

    def _read_out(self) -> None:
        """Reads to the end of what an ended process has sent: there is one once nobody holds the terminal any more."""
        if self.slave is not None:
            self.after = termios.tcgetattr(self.slave)
            os.close(self.slave)
            self.slave = None
        self.reader.join(10)

    def as_it_was(self) -> bool:
        """Whether the terminal is as a shell expects it."""
        screen = self.screen()
        now = self.after if self.slave is None else termios.tcgetattr(self.slave)
        return now == self.before and screen.cursor and not screen.in_alternate

    def _whole(self) -> str:
        """What was sent, without a sequence or a character that is not whole yet."""
        text = bytes(self.sent).decode(errors="ignore")
        escape = text.rfind("\x1b")
        return text if escape < 0 or _SEQUENCE.match(text, escape) else text[:escape]

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while block := os.read(self.master, 1 << 16):
                self.sent += block
