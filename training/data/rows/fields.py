"""The fields of a raw row, each read once and refused with its name."""

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from training.data.rows.problems import RowError

Row = dict[str, Any]
# The keys of a quarantined row, which holds the row itself.
ENTRY = {"file", "line", "reasons", "row"}
# Where the cells of such a row are kept that the header has no name for, until somebody has given them one.
NAMELESS = "cells without a name"
MORE_CELLS = "has more cells than the header has names"

# What other libraries call a document's text.
TEXTS = ("text", "page_content", "content")
# Keys that say something about a document or a turn and hold nothing of it.
_ABOUT = {
    "source", "url", "uri", "link", "path", "file", "author", "authors", "date", "score", "metadata", "meta", "section",
    "heading", "license", "description", "summary",
}  # fmt: skip
WORDS = 8  # of a text that is more than a label
SHORTEST_ID = 4  # in a shorter one every letter tells


def refuse_unread(item: Row, known: tuple[str, ...], main: str, where: str = "") -> None:
    """Raises RowError for a key that nobody reads where it is content: a text, or called almost like one that is read.

    `main` is the key to use for one that is like no other.
    """
    for key, value in item.items():
        if key in known or key in _ABOUT or not value or not isinstance(value, str | list | dict):
            continue
        near = key if key in TEXTS else _near(str(key), known)
        near = main if near in TEXTS else near
        if near or (isinstance(value, str) and len(value.split()) >= WORDS):
            raise RowError(
                "field", f"{where}`{key}` is not read; near: `{near or main}`; call it so, join them, or leave it out"
            )


@lru_cache(maxsize=1024)
def _near(key: str, known: tuple[str, ...]) -> str:
    return next(iter(get_close_matches(key, (*known, *TEXTS), n=1, cutoff=0.85)), "")


def mistyped(name: str, known: str) -> bool:
    """Whether a name is another one with other case or marks, two letters swapped, or one left out or put in.

    The last letter, and every digit, is what tells `doc-a` from `doc-b` and `page` from `pages`.
    """
    one, other = (re.sub(r"[\W_]+", "-", text.casefold()) for text in sorted((name, known), key=len))
    if len(one) < SHORTEST_ID:
        return one == other
    first = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    if len(one) == len(other):
        swapped = one[:first] + one[first + 1 : first + 2] + one[first : first + 1] + one[first + 2 :]
        return one == other or (swapped == other and one[first : first + 2].isalpha())
    return first < len(one) and other[first].isalpha() and other[:first] + other[first + 1 :] == one


def text_of(row: Mapping[str, Any], key: str, where: str = "") -> str:
    """A text field as it stands. Raises RowError when it is missing, empty, or no text."""
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError("field", f"{where}`{key}` is {'missing' if value is None else kind_of(value)}; expected text")
    if not value.strip():
        raise RowError("field", f"{where}`{key}` is empty")
    whole(value, f"{where}`{key}`")
    return value


def id_of(item: Mapping[str, Any], where: str = "") -> str | None:
    """The `id` as text; None without one. Raises RowError for what is neither text nor a whole number, or is empty."""
    name = item.get("id")
    if name is None:
        return None
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise RowError("field", f"{where}`id` is {kind_of(name)}; expected text or a whole number")
    whole(name, f"{where}`id`")
    if not str(name).strip():
        raise RowError("field", f"{where}`id` is empty; leave it out, or give it a value")
    return str(name)


def oracle_names(given: Any) -> list[str]:
    """Ids that an `oracle` names, one or a list of them. Raises RowError for what is none."""
    listed = given if isinstance(given, list) else [given]
    wrong = [name for name in listed if isinstance(name, bool) or not isinstance(name, str | int) or name == ""]
    if wrong:
        what = "an empty text" if wrong[0] == "" else kind_of(wrong[0])
        raise RowError("field", f"`oracle` holds {what}; expected ids of documents, [] where none answers")
    return list(map(str, listed))


def parsed(row: Row, key: str) -> Any:
    """A nested value, also where the file could only hold it as JSON text (CSV, sharegpt's tools)."""
    value = row.get(key)
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise RowError("field", f"`{key}` looks like JSON and is not") from None
    return value


def whole(value: Any, where: str) -> None:
    """Raises RowError where any text inside holds half a character, which no tokenizer, file or terminal takes."""
    if isinstance(value, str):
        if value.isascii():
            return
        try:
            value.encode()
        except UnicodeEncodeError:
            message = f"{where} holds half of a surrogate pair or a byte that is not UTF-8, which is no character"
            raise RowError("unreadable", message) from None
    elif isinstance(value, dict):
        for key, item in value.items():
            whole(key, where)
            whole(item, where)
    elif isinstance(value, list):
        for item in value:
            whole(item, where)


def kind_of(value: Any) -> str:
    """In JSON's words; Parquet has more types than JSON."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null",
             int: "a number", float: "a number", bytes: "bytes"}  # fmt: skip
    return names.get(type(value), f"a {type(value).__name__}")
