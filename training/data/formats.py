"""Rows of a data file -> conversations, with every unusable row named by file:line. Needs no torch.

    {"messages": [{"role": "system" | "user" | "assistant", "content": "..."}, ...]}
    {"question": "...", "documents": ["..." | {"id", "title", "text"}, ...], "answer": "..."}

Either may carry an "id"; without one a row's id is its line number.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.errors import DataError, Mistake

SYSTEM = (
    "You are a security assistant. Answer from the documents below and cite the id of each document you use in"
    " square brackets."
    " If the documents do not contain the answer, say so."
)
ROLES = ("system", "user", "assistant")
# A file can be wrong in every row; so many are printed, the rest are counted.
SHOWN = 20


@dataclass(frozen=True)
class Conversation:
    """One sample. `messages` are (role, content) pairs that end with the assistant's answer."""

    id: str
    line: int
    messages: tuple[tuple[str, str], ...]


class RowError(ValueError):
    """Why a row cannot be used. The column counts from 1."""

    def __init__(self, message: str, column: int = 1):
        super().__init__(message)
        self.column = column


def read(path: str | Path, form: str = "auto") -> list[Conversation]:
    """All rows of a JSON Lines file.

    Raises DataError that names each row that cannot be used, or the file when it is missing, unreadable or empty.
    """
    file = Path(path)
    conversations: list[Conversation] = []
    mistakes: list[Mistake] = []
    first_line: dict[str, int] = {}
    try:
        for line, text in _lines(file):
            try:
                conversation = _conversation(text, line, form)
                if conversation.id in first_line:
                    raise RowError(
                        f"id {conversation.id!r} is also on line {first_line[conversation.id]}; ids must be unique"
                    )
            except RowError as error:
                mistakes.append(Mistake(str(file), line, error.column, str(error)))
            else:
                first_line[conversation.id] = line
                conversations.append(conversation)
    except FileNotFoundError:
        raise DataError(
            [Mistake(str(file), 0, 0, "no such data file; a path in the spec starts at the spec's folder")]
        ) from None
    except UnicodeDecodeError as error:
        raise DataError([Mistake(str(file), 0, 0, f"is not UTF-8 text: byte {error.start}: {error.reason}")]) from None
    except OSError as error:
        raise DataError([Mistake(str(file), 0, 0, f"cannot be read: {error.strerror}")]) from None
    if mistakes:
        raise DataError(mistakes[:SHOWN], hidden=max(0, len(mistakes) - SHOWN))
    if not conversations:
        raise DataError(
            [
                Mistake(
                    str(file), 0, 0, "has no rows; expected JSON Lines of {messages} or {question, documents, answer}"
                )
            ]
        )
    return conversations


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with open(file, encoding="utf-8-sig", newline="\n") as stream:
        for number, text in enumerate(stream, start=1):
            if text.strip():
                yield number, text


def _conversation(text: str, line: int, form: str) -> Conversation:
    try:
        row = json.loads(text.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        raise RowError(f"not JSON: {error.msg}", error.colno) from None
    except (ValueError, RecursionError):  # a number with more digits than Python reads; nesting without end
        raise RowError("not JSON that can be read: a number or a nesting without end") from None
    if not isinstance(row, dict):
        raise RowError(f"is {_kind(row)}, not an object")
    if form == "auto":
        form = "messages" if "messages" in row else "rag" if "question" in row else "unknown"
    if form == "unknown":
        raise RowError(
            "has neither `messages` nor `question`, `documents`, `answer`; its keys are"
            f" {', '.join(map(repr, row)) or 'none'}"
        )
    messages = _from_messages(row) if form == "messages" else _from_rag(row)
    return Conversation(str(line if row.get("id") is None else row["id"]), line, messages)


def _from_messages(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    items = row.get("messages")
    if not isinstance(items, list) or not items:
        raise RowError("`messages` is missing or empty")
    messages = []
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict) or item.get("role") not in ROLES:
            raise RowError(f"message {number} has no role of {', '.join(ROLES)}")
        messages.append((str(item["role"]), _text(item, "content", f"message {number}: ")))
    turns = [role for role, _ in messages if role != "system"]
    if (
        "system" in [role for role, _ in messages[1:]]
        or turns != ["user", "assistant"] * (len(turns) // 2)
        or not turns
    ):
        raise RowError(
            f"roles are {' '.join(role for role, _ in messages)}; expected an optional system, then user and"
            " assistant in turn, assistant last"
        )
    return tuple(messages)


def _from_rag(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    question, answer = _text(row, "question"), _text(row, "answer")
    return (("system", SYSTEM), ("user", rag_prompt(_documents(row), question)), ("assistant", answer))


def rag_prompt(documents: list[tuple[str, str]], question: str) -> str:
    """The user's turn: each document under its id, then the question."""
    parts = [f"[{name}] {text}" for name, text in documents]
    return "\n\n".join([*parts, f"Question: {question}"])


def _documents(row: dict[str, Any]) -> list[tuple[str, str]]:
    items = row.get("documents")
    if not isinstance(items, list):
        raise RowError("`documents` is missing or not a list")
    documents = []
    for number, item in enumerate(items, start=1):
        if isinstance(item, str) and item.strip():
            documents.append((str(number), _text({"text": item}, "text", f"document {number}: ")))
        elif isinstance(item, dict):
            text = _text(item, "text", f"document {number}: ")
            title = item.get("title")
            documents.append((str(item.get("id", number)), f"{title}\n{text}" if title else text))
        else:
            raise RowError(f"document {number} is empty or {_kind(item)}; expected text or {{id, title, text}}")
    return documents


def _text(row: dict[str, Any], key: str, where: str = "") -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"{where}`{key}` is {'missing' if value is None else _kind(value)}; expected text")
    if not value.strip():
        raise RowError(f"{where}`{key}` is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RowError(f"{where}`{key}` holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return value.strip()


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
