"""A row as it stands in its file, before anybody asks what it means."""

import json
from collections import Counter
from typing import Any, NamedTuple

from training.data.rows.problems import RowError

LINE_BITS = 32


class RawRow(NamedTuple):
    """`line` counts from 1: a line of a text file, or a row of one that has no lines. `text` is a JSON line, unread.

    `number` tells rows of one line apart. After a row that is the `last` to be read, others may have been lost.
    """

    file: str
    line: int
    value: Any = None
    text: bytes | None = None
    error: RowError | None = None
    number: int = 0
    last: bool = False

    @property
    def place(self) -> int:
        """Identifies the row in its file; the lower half is its line."""
        return self.number << LINE_BITS | self.line

    def read(self) -> Any:
        """The row as Python values. Raises RowError."""
        if self.error is not None:
            raise self.error
        return self.value if self.text is None else parse_json(self.text)


def parse_json(text: bytes) -> Any:
    """One JSON value. Raises RowError with the column."""
    try:
        value, twice = decoded(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError("unreadable", f"is not UTF-8 text: {error.reason}", error.start + 1) from None
    except json.JSONDecodeError as error:
        raise RowError("unreadable", f"not JSON: {error.msg}", error.colno) from None
    except (ValueError, RecursionError):  # a number with more digits than Python reads; nesting without end
        raise RowError("unreadable", "not JSON that can be read: a number or a nesting without end") from None
    if twice is not None:
        raise twice
    return value


_twice: list[str] = []


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, and a note of a key that it has twice: json itself would pass over the first."""
    made = dict(pairs)
    if len(made) != len(pairs):
        _twice.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def decoded(text: str) -> tuple[Any, RowError | None]:
    """A text's one JSON value, and what is wrong with its keys. Raises json's own errors."""
    _twice.clear()
    return _DECODER.decode(text), _twofold()


def decoded_at(text: str, position: int) -> tuple[Any, int, RowError | None]:
    """The JSON value that begins at `position`, the position behind it, and what is wrong with its keys."""
    _twice.clear()
    value, end = _DECODER.raw_decode(text, position)
    return value, end, _twofold()


def _twofold() -> RowError | None:
    return RowError("field", f"has `{_twice[0]}` twice; only one could be read") if _twice else None
