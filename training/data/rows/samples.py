"""A row in the one form that everything after the readers works on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Span = tuple[int, int]
# A turn of a conversation as chat templates read it: role, content, and tool_calls where an assistant calls a tool.
Message = dict[str, Any]

SYSTEM = (
    "You are a security assistant. Answer from the documents below and cite the id of each document you use in"
    " square brackets."
    " If the documents do not contain the answer, say so."
)

# How the question of a row with documents begins, behind them.
QUESTION = "Question: "


@dataclass(frozen=True, slots=True)
class Document:
    """`oracle` says whether the answer rests on it; None where nobody knows."""

    id: str
    text: str
    oracle: bool | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What a row holds: turns, perhaps with documents or tools, or plain text."""

    messages: tuple[Message, ...] = ()
    documents: tuple[Document, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row: turns, or plain text. `id` names it in the ledger, `file` and `line` where it came from.

    A row of documents keeps them apart from its turns, so that they can be shortened; `conversation` joins them.
    """

    id: str
    file: str
    line: int
    messages: tuple[Message, ...] = ()
    documents: tuple[Document, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    text: str = ""

    @property
    def conversation(self) -> list[Message]:
        """The turns as the model sees them: the documents stand before the question in the first user's turn."""
        if not self.documents:
            return list(self.messages)
        first = next(index for index, message in enumerate(self.messages) if message["role"] == "user")
        turns = list(self.messages)
        turns[first] = {"role": "user", "content": rag_prompt(self.documents, turns[first]["content"])}
        return turns

    @property
    def asked(self) -> str:
        """What the last answer answers."""
        return str(self.messages[-2].get("content", "")).removeprefix(QUESTION) if len(self.messages) > 1 else ""

    @property
    def answer(self) -> str:
        """What the assistant says last."""
        return str(self.messages[-1].get("content", "")) if self.messages else ""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids of one sample, and the spans [start, end) of those that are trained on."""

    ids: "np.ndarray[tuple[int], np.dtype[np.int32]]"
    spans: list[Span]

    @property
    def trainable(self) -> int:
        """The first token of a row is predicted by nothing, so it is never trained on."""
        return sum(end - max(start, 1) for start, end in self.spans)


def rag_prompt(documents: Iterable[Document], question: str) -> str:
    """The user's turn: each document under its id, then the question."""
    parts = [f"[{document.id}] {document.text}" for document in documents]
    return "\n\n".join([*parts, question])
