"""Words and sentences of any script, in text and in escaped text."""

import re
import unicodedata
from collections.abc import Sequence

from training.data.build.escape import escaped
from training.data.rows.scripts import UNSPACED

# Vowels and tones of Thai, Lao, Khmer and Burmese, and voicing of kana, belong to the character before them.
_MARKS = "".join(
    mark
    for first, last in ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3099, 0x309A))
    for mark in map(chr, range(first, last + 1))
    if unicodedata.category(mark).startswith("M")
)
_OPENERS = "（「『【《〈〔“‘"
_CLOSERS = "）」』】》〉〕”’" + "\"')]" + escaped("\"')]")
_CHARACTER = f"[{UNSPACED}][{_MARKS}]*"
# A character with the punctuation around it, or what stands between two of them or two spaces.
_WORD = rf"(?:[^\w\s]*{_CHARACTER}[^\w\s{_OPENERS}]*|[^\s{UNSPACED}]+)"
_WORDS, _WORDS_AND_SPACES = re.compile(_WORD), re.compile(rf"{_WORD}\s*")

# Stops with a space behind them (of Hindi, Urdu, Khmer and Burmese too), and Chinese ones, which need none. A semicolon
# ends no sentence (GB/T 15834).
_STOPS, _CHINESE_STOPS = ".!?।॥؟۔។။" + escaped(".!?"), "。！？｡"
_C = re.escape(_CLOSERS)
_BETWEEN = re.compile(
    rf"(?<=[{_STOPS}])\s+"
    + "".join(rf"|(?<=[{_CHINESE_STOPS}]{f'[{_C}]' * closers})(?![{_CHINESE_STOPS}{_C}])\s*" for closers in range(3))
)
# `3.`, `1.2.` or `b.` before what is counted.
_DOT = f"[.{escaped('.')}]"
_PLACE = re.compile(rf"\s*(?:\d{{1,9}}|[A-Za-z])(?:{_DOT}\d{{1,9}})*{_DOT}\s+(?=\S)")
_WHOLE = re.compile(rf"(?:[{_STOPS}][\"')\]]?|[{_CHINESE_STOPS}][{_C}]{{0,2}})$")
_SPACE_BEHIND_CHINESE = re.compile(rf"([{_CHINESE_STOPS}][{_C}]{{0,2}}) ")
_NO_POWER = re.compile(r"(?is)\s*(?:st|nd|rd|th|tm|sm|[®™℠]|\[.*\])\s*")
_WIDE = rf"{UNSPACED}\u3000-\u303f\uff00-\uffef"
_BREAK_IN_CHINESE = re.compile(rf"(?<=[{_WIDE}])\s*\n\s*(?=[{_WIDE}])")


def count(text: str) -> int:
    """How many words."""
    return len(text.split()) if text.isascii() else len(_WORDS.findall(text))


def cut(sentence: str, most_words: int) -> list[str]:
    """Parts of at most so many words."""
    words = _WORDS_AND_SPACES.findall(" ".join(sentence.split()))
    return ["".join(words[start : start + most_words]).rstrip() for start in range(0, len(words), most_words)]


def sentences(line: str) -> list[str]:
    """A line between its stops; that behind a number it begins with ends no sentence."""
    place = _PLACE.match(line)
    start = place.end() if place else 0
    first, *others = _BETWEEN.split(line[start:])
    return [sentence for sentence in (line[:start] + first, *others) if sentence]


def is_whole(sentence: str) -> bool:
    """Whether it ends with a stop."""
    return bool(_WHOLE.search(sentence))


def joined(parts: Sequence[str]) -> str:
    """Sentences and parts of them as one line: with a space between them, but behind a Chinese stop."""
    return _SPACE_BEHIND_CHINESE.sub(r"\1", " ".join(parts))


def unwrapped(lines: str) -> str:
    """One line of several: a break between two characters that need no space is none."""
    return " ".join(_BREAK_IN_CHINESE.sub("", lines).split())


def inline_tag(tag: str, text: str) -> str:
    """What a tag among Markdown, before `text`, says: its mark, or itself where HTML has no such tag (`<host>`)."""
    from lxml.html.defs import tags

    name = re.match(r"</?([A-Za-z][\w-]*)", tag)
    return tag if name and name[1].lower() not in tags else mark_of(tag, text)


def mark_of(tag: str, text: str) -> str:
    """What tells in plain words that a text is raised or lowered: `2<sup>8</sup>` is `2^8`, and not 28.

    None for ordinals, trade marks and notes in brackets, which change no number.
    """
    name = re.sub(r"[<>]|\s.*", "", tag).lower()
    if not text.strip() or (name == "sup" and _NO_POWER.fullmatch(text)):
        return ""
    return {"sup": "^", "sub": "_"}.get(name, "")
