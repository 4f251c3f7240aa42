"""A folder of documents -> passages, split along their headings, each with an id that answers can cite.

Markdown and HTML have headings, a text file has none, and a row of JSON Lines ({id, title, text}) is a document whose
text is read as Markdown. A passage is the text under one heading; a long one is cut between paragraphs, and one of a
few words is joined to its neighbour.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from launch.errors import DataError, Mistake
from training.data.formats import kind_of
from training.data.problems import RowError
from training.data.sources import rows_of

ENDINGS = (".md", ".markdown", ".txt", ".html", ".htm", ".jsonl")
FEW_WORDS = 8


@dataclass(frozen=True, slots=True)
class Passage:
    """`document` is the id of what it is from; `heading` is empty for text above the first one."""

    id: str
    document: str
    title: str
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class _Section:
    heading: str
    text: str


def read_passages(folder: str, most_words: int) -> tuple[list[Passage], Counter[str]]:
    """All passages below a folder or of one file, in the order of their files, and what was done on the way.

    Raises DataError when there is nothing to read, or a file is none that can be read.
    """
    passages: list[Passage] = []
    counts: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for document, title, sections in _documents(Path(folder)):
        counts["documents"] += 1
        for passage in _passages(document, title, sections, most_words):
            words = " ".join(passage.text.split())
            if words in seen:
                counts["passages left out that another already has word for word"] += 1
                continue
            seen[words] = passage.id
            passages.append(passage)
    repeated = [name for name, count in Counter(passage.id for passage in passages).items() if count > 1]
    if repeated:
        raise _wrong(folder, f"two documents are called {repeated[0].split('#')[0]!r}; their names must differ")
    if not passages:
        raise _wrong(folder, "no text in its documents")
    return passages, counts


def _documents(root: Path) -> Iterator[tuple[str, str, list[_Section]]]:
    """(id, title, sections) of each document."""
    if not root.exists():
        raise _wrong(str(root), "no such folder or file")
    below = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
    files = [path for path in below if path.suffix.lower() in ENDINGS]
    if not files:
        raise _wrong(str(root), f"no documents; expected {', '.join(ENDINGS)}")
    for path in files:
        if path.suffix.lower() == ".jsonl":
            yield from _from_rows(path)
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise _wrong(str(path), f"is not UTF-8 text: byte {error.start}: {error.reason}") from None
        except OSError as error:
            raise _wrong(str(path), f"cannot be read: {error.strerror}") from None
        name = path.relative_to(root).with_suffix("") if root.is_dir() else Path(path.stem)
        yield _document("-".join(name.parts), _sections(path.suffix.lower(), text))


def _from_rows(path: Path) -> Iterator[tuple[str, str, list[_Section]]]:
    for row in rows_of(str(path)):
        try:
            value = row.read()
            if not isinstance(value, dict) or not isinstance(value.get("text"), str):
                raise RowError("field", f"is {kind_of(value)} without a `text`; expected {{id, title, text}}")
        except RowError as error:
            raise DataError([Mistake(str(path), row.line, error.column, str(error))]) from None
        name = str(value.get("id") or f"{path.stem}-{row.line}")
        document, title, sections = _document(name, _sections(".md", value["text"]))
        yield document, str(value.get("title") or title), sections


def _document(name: str, sections: list[_Section]) -> tuple[str, str, list[_Section]]:
    """The first heading is the title when nothing stands above it."""
    named = [section.heading for section in sections if section.heading]
    title = named[0] if named else name.replace("_", " ").replace("-", " ")
    return slug(name), title, sections


def slug(text: str) -> str:
    """Lower case, with a dash for whatever is no letter or digit."""
    return re.sub(r"[^\w]+|_+", "-", text.casefold()).strip("-") or "untitled"


def _sections(ending: str, text: str) -> list[_Section]:
    if ending in (".html", ".htm"):
        return _from_html(text)
    return [_Section("", text)] if ending == ".txt" else _from_markdown(text)


def _from_markdown(text: str) -> list[_Section]:
    """Sections as they stand between headings. A `#` in a code block is none, which is why a parser is asked."""
    from markdown_it import MarkdownIt

    lines = text.splitlines()
    if lines and lines[0].strip() == "---" and "---" in [line.strip() for line in lines[1:60]]:
        lines = lines[[line.strip() for line in lines].index("---", 1) + 1 :]  # the front matter of static sites
    tokens = MarkdownIt().parse("\n".join(lines))
    starts = [(0, 0, "")]  # (first line of the heading, first line after it, heading)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.map and token.level == 0:
            words = "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))
            starts.append((token.map[0], token.map[1], words.strip()))
    ends = [start for start, _, _ in starts[1:]] + [len(lines)]
    return [
        _Section(heading, "\n".join(lines[after:end]).strip())
        for (_, after, heading), end in zip(starts, ends, strict=True)
    ]


def _from_html(text: str) -> list[_Section]:
    from bs4 import BeautifulSoup

    page = BeautifulSoup(text, "html.parser")
    for hidden in page(["script", "style", "nav", "noscript", "template"]):
        hidden.decompose()
    sections: list[_Section] = []
    heading, parts = "", list[str]()
    blocks = ("h1", "h2", "h3", "h4", "h5", "h6", "p", "li", "pre", "td", "th", "blockquote", "dt", "dd")
    for block in (page.body or page).find_all(blocks):
        if block.name[0] == "h" and block.name[1:].isdigit():
            sections.append(_Section(heading, "\n\n".join(parts)))
            heading, parts = block.get_text(" ", strip=True), []
        elif not block.find_parent(blocks[6:]):
            words = block.get_text("" if block.name == "pre" else " ", strip=block.name != "pre")
            parts += [words] if words.strip() else []
    sections.append(_Section(heading, "\n\n".join(parts)))
    if not any(section.text for section in sections):  # no markup that says what is a paragraph
        return [_Section("", (page.body or page).get_text("\n", strip=True))]
    return sections


def _passages(document: str, title: str, sections: list[_Section], most_words: int) -> Iterator[Passage]:
    used: Counter[str] = Counter()
    for section in _joined(sections):
        name = slug(section.heading) if section.heading and section.heading != title else "overview"
        for text in _cut(section.text, most_words):
            used[name] += 1
            number = f"-{used[name]}" if used[name] > 1 else ""
            yield Passage(f"{document}#{name}{number}", document, title, section.heading, text)


def _joined(sections: list[_Section]) -> list[_Section]:
    """Without sections of a few words: each goes before the next one, or at the end behind the last."""
    kept: list[_Section] = []
    before = ""
    for section in sections:
        text = "\n\n".join(filter(None, (before, section.text)))
        before = ""
        if not section.text or len(text.split()) < FEW_WORDS:
            before = text
        else:
            kept.append(replace(section, text=text))
    if before and kept:
        kept[-1] = replace(kept[-1], text=f"{kept[-1].text}\n\n{before}")
    elif before:
        kept.append(_Section("", before))
    return kept


def _cut(text: str, most_words: int) -> Iterator[str]:
    """Parts of whole paragraphs; a paragraph that is longer itself is cut between sentences, or else between words."""
    part: list[str] = []
    for paragraph in _paragraphs(text):
        for piece in _pieces(paragraph, most_words):
            if part and sum(len(each.split()) for each in part) + len(piece.split()) > most_words:
                yield "\n\n".join(part)
                part = []
            part.append(piece)
    if part:
        yield "\n\n".join(part)


def _paragraphs(text: str) -> list[str]:
    """Paragraphs between blank lines; a fenced block is one, whatever stands in it."""
    paragraphs: list[list[str]] = [[]]
    fence = ""
    for line in text.splitlines():
        mark = line.lstrip()[:3]
        if mark in ("```", "~~~") and (not fence or mark == fence):
            fence = "" if fence else mark
        if line.strip() or fence:
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return ["\n".join(lines) for lines in paragraphs if lines]


def _pieces(paragraph: str, most_words: int) -> list[str]:
    if len(paragraph.split()) <= most_words:
        return [paragraph]
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n", paragraph):
        words = sentence.split()
        for start in range(0, len(words), most_words):
            piece = " ".join(words[start : start + most_words])
            if pieces and len(pieces[-1].split()) + len(piece.split()) <= most_words:
                pieces[-1] = f"{pieces[-1]} {piece}"
            else:
                pieces.append(piece)
    return pieces


def _wrong(path: str, reason: str) -> DataError:
    return DataError([Mistake(path, 0, 0, reason)])
