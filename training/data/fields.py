"""The fields of a raw row, each read once and refused with its name."""

import json
from collections.abc import Mapping
from typing import Any

from training.data.problems import RowError

Row = dict[str, Any]
# The keys of a quarantined row, which holds the row itself.
ENTRY = {"file", "line", "reasons", "row"}
# Where the cells of such a row are kept that the header has no name for, until somebody has given them one.
NAMELESS = "cells without a name"
MORE_CELLS = "has more cells than the header has names"


def text_of(row: Mapping[str, Any], key: str, where: str = "") -> str:
    """A text field as it stands. Raises RowError when it is missing, empty, or no text."""
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError("field", f"{where}`{key}` is {'missing' if value is None else kind_of(value)}; expected text")
    if not value.strip():
        raise RowError("field", f"{where}`{key}` is empty")
    whole(value, f"{where}`{key}`")
    return value


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
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
