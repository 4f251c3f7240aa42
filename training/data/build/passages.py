"""A folder of documents -> passages, split along their headings, each with an id that answers can cite.

Markdown and HTML have headings, a text file has none, and a row of JSON Lines ({id, title, text}) is a document whose
text is read as Markdown. The structure of HTML is that of its tags alone. A passage is the text under one heading; a
long one is cut between paragraphs, and one of a few words is joined to its neighbour, under its own heading.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import yaml

from launch.errors import DataError, Mistake
from training.data.build.blocks import parts
from training.data.build.escape import escaped, escaped_lines, unescaped, without_escapes
from training.data.build.words import count, inline_tag
from training.data.rows.fields import id_of, kind_of, refuse_unread, whole
from training.data.rows.problems import RowError
from training.data.rows.sources import files_below, rows_of

ENDINGS = (".md", ".markdown", ".txt", ".html", ".htm", ".jsonl")
FEW_WORDS = 8
ID_CHARACTERS = 60  # of a heading's part of an id: a model has to copy it


@dataclass(frozen=True, slots=True)
class Passage:
    """`document` is the id of what it is from, `heading` its own and `parents` those above it but the title.

    `heading` is empty for text above the first one. `markdown` is its text, escaped where that is none (escape.py).
    """

    id: str
    document: str
    title: str
    heading: str
    markdown: str
    parents: str = ""
    also: tuple[str, ...] = ()
    """Ids of other places that hold the same words."""

    @property
    def text(self) -> str:
        """What a model is shown."""
        return unescaped(self.markdown)

    @property
    def section(self) -> tuple[str, str, str]:
        """What parts of one section have in common."""
        return self.document, self.parents, self.heading


@dataclass(frozen=True, slots=True)
class _Section:
    """A heading's words, and the Markdown below it."""

    heading: str
    text: str
    parents: tuple[str, ...] = ()


_Document = tuple[str, str, list[_Section]]
"""Id, title, sections."""


def read_passages(folder: str, most_words: int) -> tuple[list[Passage], Counter[str]]:
    """All passages below a folder or of one file, in the order of their files, and what was done on the way.

    Raises DataError when there is nothing to read, a file is none that can be read, or two documents have one name.
    """
    passages: list[Passage] = []
    counts: Counter[str] = Counter()
    seen: dict[str, int] = {}
    documents: dict[str, str] = {}
    for place, (document, title, sections) in _documents(Path(folder), counts):
        counts["documents without a text below their headings"] += not any(section.text.strip() for section in sections)
        if document in documents:
            both = f"{documents[document]} and {place}"
            raise _wrong(folder, f"two documents are called {document!r}, {both}; their names must differ")
        documents[document] = place
        for passage in _passages(document, title, sections, most_words):
            words = " ".join(passage.text.split())
            if words in seen:
                counts["passages left out that another already has word for word"] += 1
                first = passages[seen[words]]
                passages[seen[words]] = replace(first, also=(*first.also, passage.id))
            else:
                seen[words] = len(passages)
                passages.append(passage)
    if not passages:
        raise _wrong(folder, "no text in its documents")
    return passages, Counter(documents=len(documents)) + counts


def _documents(root: Path, counts: Counter[str]) -> Iterator[tuple[str, _Document]]:
    """Each document with its file, and its line in one of several."""
    if not root.exists():
        raise _wrong(str(root), "no such folder or file")
    below = files_below(root) if root.is_dir() else [root]
    files = [path for path in below if path.suffix.lower() in ENDINGS and path.is_file()]
    counts[f"files that are none of {', '.join(ENDINGS)}, not read"] += len(below) - len(files)
    if not files:
        raise _wrong(str(root), f"no documents; expected {', '.join(ENDINGS)}")
    for path in files:
        if path.suffix.lower() == ".jsonl":
            yield from _from_rows(path)
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise _wrong(
                str(path), f"is not UTF-8 text: byte {error.start}: {error.reason}; save it as UTF-8"
            ) from None
        except OSError as error:
            raise _wrong(str(path), f"cannot be read: {error.strerror}") from None
        name = path.relative_to(root).with_suffix("") if root.is_dir() else Path(path.stem)
        try:
            sections = _sections(path.suffix.lower(), text)
        except RecursionError:
            raise _wrong(str(path), "nests its tags too deep to be read; close those that are left open") from None
        yield str(path), _document("-".join(name.parts), sections)


def _from_rows(path: Path) -> Iterator[tuple[str, _Document]]:
    for row in rows_of(str(path)):
        try:
            value = row.read()
            if not isinstance(value, dict) or not isinstance(value.get("text"), str):
                raise RowError("field", f"is {kind_of(value)} without a `text`; expected {{id, title, text}}")
            refuse_unread(value, ("id", "title", "text"), "text")
            if not isinstance(value.get("title"), str | None):
                raise RowError("field", f"`title` is {kind_of(value['title'])}; expected text")
            name = id_of(value) or f"{path.stem}-{row.line}"
            for key in ("title", "text"):
                whole(value.get(key), f"`{key}`")
        except RowError as error:
            raise DataError([Mistake(str(path), row.line, error.column, str(error))]) from None
        document, title, sections = _document(name, _sections(".md", value["text"]))
        yield f"{path}:{row.line}", (document, value.get("title") or title, sections)


def _document(name: str, sections: list[_Section]) -> _Document:
    """The first heading is the title when nothing stands above it."""
    first = next((section for section in sections if section.text or section.heading), None)
    title = first.heading if first is not None and first.heading else re.sub(r"[_-]", " ", name)
    return slug(name), title, sections


def slug(text: str) -> str:
    """Lower case, with a dash for whatever is no letter or digit. Marks belong to their letters: a name as macOS
    decomposes it is the same one, and vowels and tones of Thai or Hindi stay."""
    folded = unicodedata.normalize("NFC", text.casefold())
    kept = (each if each.isalnum() or unicodedata.category(each).startswith("M") else "-" for each in folded)
    return re.sub("-+", "-", "".join(kept)).strip("-") or "untitled"


def _sections(ending: str, text: str) -> list[_Section]:
    text = without_escapes(text)
    if ending == ".txt":
        return [_Section("", escaped_lines(text))]
    if ending not in (".html", ".htm"):
        return _by_headings(_without_front_matter(_lines(text)))
    from training.data.build.html import as_markdown

    return _by_headings(_lines(as_markdown(text)))


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text)


def _by_headings(lines: list[str]) -> list[_Section]:
    """Sections as they stand between headings. A `#` in a code block is none, which is why a parser is asked."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt().parse("\n".join(lines))
    starts: list[tuple[int, int, int, str]] = [(0, 0, 0, "")]  # (heading's first line, line after it, level, heading)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.map and token.level == 0:
            children = inline.children or []
            behind = [child.content for child in children[1:]] + [""]
            words = unescaped(
                "".join(_word(c.type, c.content, after) for c, after in zip(children, behind, strict=True))
            )
            starts.append((token.map[0], token.map[1], int(token.tag[1:]), " ".join(words.split())))
    ends = [start for start, _, _, _ in starts[1:]] + [len(lines)]
    sections: list[_Section] = []
    above: list[tuple[int, str]] = []
    for (_, after, level, heading), end in zip(starts, ends, strict=True):
        above = [(other, name) for other, name in above if other < level]
        # The title is above everything and says nothing about a section.
        parents = tuple(name for other, name in above if other > 1)
        sections.append(_Section(heading, "\n".join(lines[after:end]).strip("\n").rstrip(), parents))
        above.append((level, heading))
    return sections


def _word(kind: str, content: str, after: str) -> str:
    if kind in ("softbreak", "hardbreak"):
        return " "
    if kind == "html_inline":
        return inline_tag(content, after)
    return content if kind in ("text", "text_special", "code_inline") else ""


def _without_front_matter(lines: list[str]) -> list[str]:
    """Without the YAML mapping that static sites put before a page."""
    if not lines or lines[0].strip() != "---":
        return lines
    end = next((number for number, line in enumerate(lines[1:], start=1) if line.strip() == "---"), None)
    if end is None:
        return lines
    try:
        values = yaml.safe_load("\n".join(lines[1:end]))
    except (yaml.YAMLError, ValueError):
        return lines
    return lines[end + 1 :] if isinstance(values, dict) else lines


def _passages(document: str, title: str, sections: list[_Section], most_words: int) -> Iterator[Passage]:
    used: set[str] = set()
    for section in _joined(sections, title):
        name = slug(section.heading) if section.heading and section.heading != title else "overview"
        for text in parts(section.text, most_words):
            own = _free(name[:ID_CHARACTERS].strip("-"), used)
            used.add(own)
            parents = " / ".join(section.parents)
            yield Passage(f"{document}#{own}", document, title, section.heading, text, parents)


def _free(name: str, used: set[str]) -> str:
    """The name itself, or with the first number that makes it another."""
    number = 1
    while (numbered := name if number == 1 else f"{name}-{number}") in used:
        number += 1
    return numbered


def _joined(sections: list[_Section], title: str) -> list[_Section]:
    """Without sections of a few words: each goes, under its heading, before the next one, or behind the last."""
    kept: list[_Section] = []
    before: list[str] = []
    for section in sections:
        if not section.text.strip():
            continue
        if count(section.text) < FEW_WORDS:
            named = section.heading and section.heading != title
            before.append(f"{escaped(section.heading)}\n\n{section.text}" if named else section.text)
            continue
        kept.append(replace(section, text="\n\n".join([*before, section.text])))
        before = []
    if before and kept:
        kept[-1] = replace(kept[-1], text="\n\n".join([kept[-1].text, *before]))
    elif before:
        kept.append(_Section("", "\n\n".join(before)))
    return kept


def _wrong(path: str, reason: str) -> DataError:
    return DataError([Mistake(path, 0, 0, reason)])
