"""Text that is too long for a passage -> parts of whole paragraphs."""

import re
from collections.abc import Callable, Iterable, Iterator

from training.data.build.words import count, cut, joined, sentences

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def parts(text: str, most_words: int) -> Iterator[str]:
    """Parts of at most so many words, of whole paragraphs.

    A block that is longer itself is cut between its lines, or, where it has one line, between sentences or else words.
    """
    pieces = (piece for block in _blocks(text) for piece in _pieces(block, most_words))
    yield from _grouped(pieces, "\n\n".join, most_words)


def _blocks(text: str) -> list[str]:
    """What stands between blank lines; a fenced block is one, whatever stands in it."""
    blocks: list[list[str]] = [[]]
    fence = ""
    for line in re.split(r"\r\n|\r|\n", text):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1][0] == fence[0] and len(mark[1]) >= len(fence) and not line[mark.end() :].strip():
            fence = ""
        if line.strip() or fence:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return ["\n".join(lines) for lines in blocks if lines]


def _pieces(block: str, most_words: int) -> Iterator[str]:
    if count(block) <= most_words:
        yield block
        return
    lines = block.split("\n")
    if len(lines) > 1:
        yield from _grouped((piece for line in lines for piece in _of_line(line, most_words)), "\n".join, most_words)
    else:
        yield from _of_line(block, most_words)


def _of_line(line: str, most_words: int) -> Iterator[str]:
    if count(line) <= most_words:
        yield line
        return
    pieces = (piece for sentence in sentences(line) for piece in cut(sentence, most_words))
    yield from _grouped(pieces, joined, most_words)


def _grouped(pieces: Iterable[str], join: Callable[[list[str]], str], most_words: int) -> Iterator[str]:
    """Neighbours joined as far as they fit."""
    group: list[str] = []
    words = 0
    for piece in pieces:
        more = count(piece)
        if group and words + more > most_words:
            yield join(group)
            group, words = [], 0
        group.append(piece)
        words += more
    if group:
        yield join(group)
