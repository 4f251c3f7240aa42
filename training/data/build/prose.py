"""The first sentences of a passage's prose, as an answer to a question about it."""

import re

from training.data.build.escape import unescaped
from training.data.build.words import count, inline_tag, is_whole, joined, sentences, unwrapped

WORDS = 120
SHORTEST = 5
# What ends with a dot and no sentence.
_ABBREVIATION = re.compile(r"(?i)(?:^|[\s(])(?:e\.g|i\.e|etc|vs|cf|no|fig|approx|resp)\.$")
_NUMBER = re.compile(r"^\d+\.$")  # something may begin with it: `It ended. 1986. That year`
_PLACE = r"\s*(?:\d{1,3}(?:\.\d{1,3})*[.)]|[A-Za-z][.)]|[-*+\u2022\u2013])"  # in a list: more digits are a year
_ITEM = re.compile(rf"{_PLACE}\s+\S")
_NO_ITEM = re.compile(rf"{_PLACE}\s*")


def opening(text: str, most_words: int = WORDS) -> str:
    """Whole sentences from the beginning of a passage's Markdown, in at most so many words; empty where there is none.

    Code blocks, tables, headings and pictures are left out; links keep their words, inline code its marks.
    """
    kept: list[str] = []
    words = 0
    for paragraph in _paragraphs(text):
        for sentence in _sentences(paragraph):
            words += count(sentence)
            if words > most_words:
                return _answer(kept)
            kept.append(sentence)
    return _answer(kept)


def _answer(kept: list[str]) -> str:
    answer = joined(kept)
    return answer if count(answer) >= SHORTEST else ""


def _paragraphs(text: str) -> list[str]:
    from markdown_it import MarkdownIt

    paragraphs: list[str] = []
    skipped = 0
    for token in MarkdownIt().enable("table").parse(text):
        if token.type in ("heading_open", "table_open"):
            skipped += 1
        elif token.type in ("heading_close", "table_close"):
            skipped -= 1
        elif token.type == "inline" and not skipped:
            children = token.children or []
            behind = [child.content for child in children[1:]] + [""]
            words = "".join(_word(c.type, c.content, after) for c, after in zip(children, behind, strict=True))
            words = re.sub(r"^\[!\w+\]\s*", "", words.strip())
            paragraphs.extend(unwrapped(item) for item in _items(unescaped(words)) if not _NO_ITEM.fullmatch(item))
    return paragraphs


def _items(paragraph: str) -> list[str]:
    """A paragraph, or what is counted or marked in its lines as a list's items: a text file has no lists."""
    lines = paragraph.split("\n")
    marked = [bool(_ITEM.match(line)) for line in lines]
    is_list = sum(marked) > 1
    items: list[list[str]] = [[]]
    before = ""
    for line, starts in zip(lines, marked, strict=True):
        # One alone may be the end of a sentence: `at most\n10. More`.
        if before and starts and (is_list or before.endswith(":") or is_whole(before)):
            items.append([])
        items[-1].append(line)
        before = line.rstrip()
    return ["\n".join(item) for item in items]


def _word(kind: str, content: str, after: str) -> str:
    if kind in ("softbreak", "hardbreak"):
        return "\n"
    if kind == "html_inline":
        return inline_tag(content, after)
    return f"`{content}`" if kind == "code_inline" else content if kind in ("text", "text_special") else ""


def _sentences(paragraph: str) -> list[str]:
    """Whole sentences; what ends with no stop at the end is left out."""
    found: list[str] = []
    for piece in sentences(paragraph):
        if found and (_ABBREVIATION.search(found[-1]) or _NUMBER.search(found[-1])):
            found[-1] = f"{found[-1]} {piece}"
        else:
            found.append(piece)
    return [sentence for sentence in found if is_whole(sentence) and not _open(sentence)]


def _open(sentence: str) -> bool:
    """Whether a sentence was cut inside brackets or ends with an abbreviation."""
    inside = any(sentence.count(start) > sentence.count(end) for start, end in ("()", "（）"))
    return inside or bool(_ABBREVIATION.search(sentence))
