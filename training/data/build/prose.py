"""The first sentences of a passage's prose, as an answer to a question about it."""

import re

WORDS = 120
SHORTEST = 5
# What ends with a dot and no sentence.
_ABBREVIATION = re.compile(r"(?i)(?:^|[\s(])(?:e\.g|i\.e|etc|vs|cf|no|fig|approx|resp)\.$")


def opening(text: str, most_words: int = WORDS) -> str:
    """Whole sentences from the beginning of a Markdown text, in at most so many words; empty where there is none.

    Code blocks, tables, headings and pictures are left out; links keep their words, inline code its marks.
    """
    kept: list[str] = []
    count = 0
    for paragraph in _paragraphs(text):
        for sentence in _sentences(paragraph):
            count += len(sentence.split())
            if count > most_words:
                return _joined(kept)
            kept.append(sentence)
    return _joined(kept)


def _joined(sentences: list[str]) -> str:
    answer = " ".join(sentences)
    return answer if len(answer.split()) >= SHORTEST else ""


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
            words = "".join(_word(child.type, child.content) for child in token.children or ())
            paragraphs.append(re.sub(r"^\[!\w+\]\s*", "", " ".join(words.split())))
    return paragraphs


def _word(kind: str, content: str) -> str:
    if kind in ("softbreak", "hardbreak"):
        return " "
    return f"`{content}`" if kind == "code_inline" else content if kind in ("text", "text_special") else ""


def _sentences(paragraph: str) -> list[str]:
    """Whole sentences; what ends with no stop at the end is left out."""
    sentences: list[str] = []
    for piece in re.split(r"(?<=[.!?])\s+", paragraph):
        if sentences and _ABBREVIATION.search(sentences[-1]):
            sentences[-1] = f"{sentences[-1]} {piece}"
        else:
            sentences.append(piece)
    return [sentence for sentence in sentences if re.search(r"[.!?][\"')\]]?$", sentence) and not _open(sentence)]


def _open(sentence: str) -> bool:
    """Whether a sentence was cut inside brackets or ends with an abbreviation."""
    return sentence.count("(") > sentence.count(")") or bool(_ABBREVIATION.search(sentence))
