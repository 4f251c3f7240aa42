"""A run's page on a terminal: drawn in the alternate screen, and the terminal left as it was, whatever ends it."""

import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from launch.watching.charts import ASCII, BLOCKS, Glyphs
from launch.watching.page import page, snapshot
from launch.watching.reading import Reader
from launch.watching.view import View
from launch.wording import span

LOOK_SECONDS, KEY_SECONDS = 1.0, 0.1
# A view that is older says so: the file system does not answer.
LATE_SECONDS = 10.0
# Lines of a picture where the terminal does not say how high it is.
HEIGHT = 24


def glyphs_for(console: Console) -> Glyphs:
    return ASCII if console.options.ascii_only else BLOCKS


def watch(reader: Reader, console: Console) -> View | None:
    """Draws until the run is over, and returns its last view; None once a key or Ctrl-C leaves it earlier."""
    source = _Background(reader)
    try:
        with _signals() as suspended, _Keys() as keys, _Pages(console) as pages:
            while True:
                view = source.latest()
                if view is not None and view.over and view.status.state != "prepared":
                    return view
                pages.draw(view)
                if keys.leaves(KEY_SECONDS):
                    return None
                if suspended.is_set():
                    suspended.clear()
                    _suspend(keys, pages)
    except KeyboardInterrupt:
        return None


def once(view: View, console: Console) -> None:
    """One picture, where the cursor is."""
    height = console.height - 2 if console.is_terminal else HEIGHT  # a prompt comes below it
    for line in snapshot(view, console.width, height, glyphs_for(console)):
        line.rstrip()
        console.print(line, soft_wrap=True)


class _Background:
    """Reads in a thread of its own: on storage that does not answer, keys still do."""

    def __init__(self, reader: Reader):
        self.reader = reader
        self.view: View | None = None
        self.error: BaseException | None = None
        threading.Thread(target=self._read, name="reader", daemon=True).start()

    def latest(self) -> View | None:
        """None until the first one is there. Raises what the reading raised."""
        if self.error is not None:
            raise self.error
        view = self.view
        late = time.time() - view.now if view is not None else 0.0
        if view is None or late < LATE_SECONDS:
            return view
        return replace(view, troubles=(f"the run directory has not answered for {span(late // 1)}", *view.troubles))

    def _read(self) -> None:
        try:
            while True:
                self.view = self.reader.look()
                time.sleep(LOOK_SECONDS)
        except BaseException as error:  # noqa: BLE001 - raised again where the terminal is put in order
            self.error = error


class _Keys:
    """Single keys of the terminal, without their echo; none where standard input is another thing."""

    def __enter__(self) -> "_Keys":
        self.before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        self.rest()

    def listen(self) -> None:
        if self.before is not None:
            tty.setcbreak(sys.stdin)

    def rest(self) -> None:
        if self.before is not None:
            with suppress(termios.error):  # a terminal that was closed
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self.before)

    def leaves(self, seconds: float) -> bool:
        """Whether q was pressed, within so long."""
        if self.before is None:
            time.sleep(seconds)
            return False
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        if not ready:
            return False
        pressed = os.read(sys.stdin.fileno(), 64)
        return not pressed or pressed[:1] in (b"q", b"Q")  # nothing at all: the terminal is gone


class _Pages:
    """The alternate screen. Only lines that differ from the page before are sent: the terminal may be far away."""

    def __init__(self, console: Console):
        self.console = console
        self.shown: list[Text] = []
        self.size = (0, 0)
        self.drawn: View | None = None

    def __enter__(self) -> "_Pages":
        self.console.set_alt_screen(True)
        self.console.show_cursor(False)
        self.shown, self.drawn = [], None
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # a terminal that was closed
            self.console.show_cursor(True)
            self.console.set_alt_screen(False)

    def draw(self, view: View | None) -> None:
        size = self.console.size
        width, height = size
        if view is None or (view is self.drawn and size == self.size):
            return
        lines = page(view, width, height, glyphs_for(self.console))
        fresh = size != self.size
        with self.console:  # all of it in one write
            for row, line in enumerate(lines):
                if fresh or row >= len(self.shown) or line != self.shown[row] or line.spans != self.shown[row].spans:
                    self.console.update_screen_lines([self._segments(line, width)], 0, row)
        self.shown, self.size, self.drawn = lines, size, view

    def _segments(self, line: Text, width: int) -> list[Segment]:
        options = self.console.options.update(width=width, height=1, no_wrap=True)
        return self.console.render_lines(line, options, pad=False)[0]


def _suspend(keys: _Keys, pages: _Pages) -> None:
    """As Ctrl-Z asks: the shell gets its terminal back until it lets us go on."""
    pages.__exit__()
    keys.rest()
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)  # here once we go on
    keys.listen()
    pages.__enter__()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """The first signal that ends us unwinds as an exception, so that the terminal is put in order, and later ones do
    not disturb that. The event is set by Ctrl-Z."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    suspended = threading.Event()

    def end(number: int, _frame: FrameType | None) -> None:
        for other in ending:
            signal.signal(other, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in ending}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, lambda _number, _frame: suspended.set())
    try:
        yield suspended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
