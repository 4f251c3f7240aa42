"""Logs of any size, read once from front to back with bounded memory: the lines that tell of a known failure."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from launch.diagnosis import lines
from launch.diagnosis.hits import Hit, Source, hit
from launch.diagnosis.known import recognised

CHUNK = 4 << 20
# So much of a log around a line is looked at: a traceback of a hundred frames; the steps trained afterwards.
BEFORE, AFTER = 24 << 10, 48 << 10
# A line is cut off at this length: a file of weights, or a progress bar, is one line of any length.
LONGEST_LINE = 64 << 10
# Of each failure so many lines are kept from the front and from the end: a kernel's assertion prints a line a thread.
KEPT = 8
# Forgotten when there are so many: a log whose every line is new costs time, not memory.
SHAPES = 20_000
DIGITS = b"0123456789"
# Every line that matters has one of these in it (a test holds the corpus to it), and none has a digit. Each costs 8 to
# 70 ms for 100 MB; telling lines of a new shape from those seen before costs as much as four of them.
NEEDLES = (
    b"rror", b"xcept", b"atchdog", b"ailed", b"illed", b"xitcode", b"Signal ", b"GLIBC", b"fault", b"death sig", b"nan",
    b": inf", b"nterrupt", b"size mismatch", b"Xid", b"bad_alloc",
    b"ut of memory", b"ptxas", b"temporarily unavailable",
)  # fmt: skip
# Where a number makes the difference, lines that differ in their digits alone are told apart.
_NUMBERED = (b"xitcode", b"Signal ", b"Xid", b"Client Error")


@dataclass
class _Places:
    """(offset, line number) of the lines that tell of one failure."""

    first: list[tuple[int, int]] = field(default_factory=list)
    last: list[tuple[int, int]] = field(default_factory=list)

    def add(self, place: tuple[int, int]) -> None:
        if len(self.first) < KEPT:
            self.first.append(place)
        else:
            self.last = [*self.last[1 - KEPT :], place]


def hits_in(path: Path, source: Source) -> list[Hit]:
    """The failures that a log tells of, in its order. Raises OSError where it cannot be read."""
    with open(path, "rb") as file:
        descriptor = file.fileno()
        found: dict[str, _Places] = {}
        for name, place in _told(descriptor):
            found.setdefault(name, _Places()).add(place)
        places = sorted(place for kept in found.values() for place in (*kept.first, *kept.last))
        told = (_hit(descriptor, source, *place) for place in places)
        return [each for each in told if each is not None]


def _told(descriptor: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """The name of each failure that a line tells of, with the line's offset and number."""
    offset, number, names, told = 0, 1, _Names(), False
    for block in _blocks(descriptor):
        text = block.replace(b"\r", b"\n")
        # Of a sparse file most is zeros. Where one piece tells of a failure, the next one often does.
        if block.strip(b"\0") and (told or names.may_tell(text)):
            counted, seen, told = 0, number, False
            for start, end in _spans(text):
                name = names.of(text[start:end])
                if name:
                    seen += block.count(b"\n", counted, start)
                    counted, told = start, True
                    yield name, (offset + start, seen)
        number += block.count(b"\n")
        offset += len(block)


class _Names:
    """The known failures that lines tell of, remembered by the lines' words: most lines of a log are like others."""

    def __init__(self) -> None:
        self.seen: dict[bytes, str | None] = {}
        self.varied = False
        """Whether so many lines are new that to look for new ones costs more than it saves."""

    def of(self, line: bytes) -> str:
        """Empty where a line tells of none."""
        shape = line.translate(None, DIGITS)
        name = self.seen.get(shape)
        if name is None and shape not in self.seen:
            if len(self.seen) >= SHAPES:
                self.seen.clear()
            name = self.seen[shape] = None if any(word in line for word in _NUMBERED) else _name(line)
        return _name(line) if name is None else name

    def may_tell(self, text: bytes) -> bool:
        """Whether any line has to be looked at: false where all are like lines that were seen to tell of none."""
        if self.varied:
            return True
        new = [shape for shape in set(text.translate(None, DIGITS).split(b"\n")) if self.seen.get(shape) != ""]
        self.varied = len(new) > SHAPES // 4
        if self.varied or _spans(b"\n".join(new)):
            return True
        if len(self.seen) + len(new) <= SHAPES:
            self.seen.update(dict.fromkeys(new, ""))
        return False


def _name(line: bytes) -> str:
    known = recognised(lines.bare(line.decode("utf-8", "replace")))
    return known.name if known else ""


def _blocks(descriptor: int) -> Iterator[bytes]:
    """The file in pieces that end where a line does, as far as lines are of any sensible length."""
    rest = b""
    while block := os.read(descriptor, CHUNK):
        block = rest + block
        cut = max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
        if len(block) - cut > LONGEST_LINE:
            cut = len(block) - 256  # no needle is cut in two
        yield block[:cut]
        rest = block[cut:]
    if rest:
        yield rest


def _spans(text: bytes) -> list[tuple[int, int]]:
    """Where the lines with a needle begin and end."""
    spans = {}
    for needle in NEEDLES:
        at = text.find(needle)
        while at >= 0:
            start = text.rfind(b"\n", max(0, at - LONGEST_LINE), at) + 1 or max(0, at - LONGEST_LINE)
            end = text.find(b"\n", at, at + LONGEST_LINE)
            spans[start] = end if end >= 0 else min(len(text), at + LONGEST_LINE)
            at = text.find(needle, spans[start])
    return sorted(spans.items())


def _hit(descriptor: int, source: Source, offset: int, number: int) -> Hit | None:
    around = min(offset, BEFORE)
    text = os.pread(descriptor, around + AFTER, offset - around)
    before, (line, *after) = _lines(text[:around]), _lines(text[around:], first=True)
    return hit(source, number, before, line, after)


def _lines(text: bytes, first: bool = False) -> list[str]:
    """Without colours, as Python 3.13 has them in tracebacks, and without what Windows ends lines with. With `first`, a
    progress bar after the first line is another line."""
    text = text.replace(b"\r\n", b"\n")
    if first:
        text = text.replace(b"\r", b"\n", 1)
    return lines.plain(text.decode("utf-8", "replace")).split("\n")
