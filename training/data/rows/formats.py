"""Raw rows -> samples. One function a format; `auto` tells the format from a row's keys, and says so when it cannot.

    rag       {question, documents | contexts, answer}, documents as text or {id, title, text}, optional oracle ids
    raft      {question, context, oracle_context, cot_answer}, the columns of the RAFT paper's own script
    messages  {messages: [{role, content}, ...]}, OpenAI's, with tool_calls and tools
    sharegpt  {conversations: [{from, value}, ...]}, with function_call and observation turns
    alpaca    {instruction, input, output}
    text      {text}: all of it is trained on

Any of them may carry an "id"; without one a row is named by its line.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from training.data.rows.citations import cited
from training.data.rows.conversations import check_order, from_alpaca, from_messages, from_sharegpt
from training.data.rows.fields import (
    ENTRY,
    MORE_CELLS,
    NAMELESS,
    TEXTS,
    Row,
    id_of,
    kind_of,
    mistyped,
    oracle_names,
    parsed,
    refuse_unread,
    text_of,
    whole,
)
from training.data.rows.problems import RowError
from training.data.rows.samples import QUESTION, SYSTEM, Content, Document, Message, Sample

# What each format's rows cannot be without; an inner tuple lists names for the same thing.
SIGNATURES: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "rag": ("question", ("documents", "contexts"), "answer"),
    "raft": ("question", "context", "cot_answer"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}


def _alternatives(names: str | tuple[str, ...]) -> set[str]:
    return set(names) if isinstance(names, tuple) else {names}


# What a format reads beside its signature.
_OPTIONAL = {
    "rag": {"oracle", "oracles"}, "raft": {"oracle_context", "instruction", "answer"},
    "messages": {"tools", "functions"},
    "sharegpt": {"tools", "system"}, "alpaca": {"input", "system", "history"}, "text": set(),
}  # fmt: skip
# Keys that hold what somebody meant to train on: a format that would pass over one is not the certain one.
CONTENT = {
    *(name for signature in SIGNATURES.values() for names in signature for name in _alternatives(names)),
    *(name for names in _OPTIONAL.values() for name in names), "prompt", "completion", "response", "chosen", "rejected",
}  # fmt: skip


def to_sample(row: Any, file: str, line: int, form: str, columns: Mapping[str, str], unnamed: str = "") -> Sample:
    """A raw row as a sample. `columns` maps muster's names to the row's own; `unnamed` is its id if it has none.

    Raises RowError.
    """
    if not isinstance(row, dict):
        raise RowError("field", f"is {kind_of(row)}, not an object")
    if set(row) == ENTRY and isinstance(row["row"], dict):
        row = row["row"]
    if NAMELESS in row:
        raise RowError("unreadable", MORE_CELLS)
    if columns:
        row = _renamed(row, columns)
    chosen = form if form != "auto" else detect(row)
    name = id_of(row)
    content = _BUILDERS[chosen](row)
    check_order(content.messages)
    own = (unnamed or str(line)) if name is None else name
    return Sample(own, file, line, content.messages, content.documents, content.tools, content.text)


def detect(row: Row) -> str:
    """The format that a row's keys tell. Raises RowError when none or several do."""
    return _format_of(tuple(row), frozenset(key for key, value in row.items() if value is not None))


@lru_cache(maxsize=64)
def _format_of(keys: tuple[str, ...], present: frozenset[str]) -> str:
    fitting = [
        form for form, signature in SIGNATURES.items() if all(present & _alternatives(names) for names in signature)
    ]
    if len(fitting) == 1:
        other = sorted(present & CONTENT - _read_by(fitting[0]))
        if not other:
            return fitting[0]
        raise RowError(
            "format",
            f"reads like {fitting[0]}, but {', '.join(map(repr, other))} would not be read: say data.format:"
            f" {fitting[0]} to leave that out, or name the columns with data.columns",
        )
    if fitting:
        raise RowError("format", f"can be read as {' or as '.join(fitting)}: say which with data.format")
    partial = {
        form: [_shown(names) for names in signature if not present & _alternatives(names)]
        for form, signature in SIGNATURES.items()
    }
    nearest = min(partial, key=lambda form: len(partial[form]) / len(SIGNATURES[form]))
    names = ", ".join(map(repr, keys)) or "none"
    if len(partial[nearest]) < len(SIGNATURES[nearest]):
        hint = f"it lacks {', '.join(partial[nearest])} to be {nearest}"
    else:
        hint = f"expected one of {', '.join(SIGNATURES)}"
    raise RowError("format", f"its keys are {names}; {hint}: name its columns with data.columns, or its data.format")


def _read_by(form: str) -> set[str]:
    return _OPTIONAL[form].union(*(_alternatives(names) for names in SIGNATURES[form]))


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    absent = [theirs for theirs in columns.values() if theirs not in row]
    if len(absent) == len(columns):
        raise RowError("field", f"has none of the columns of data.columns ({', '.join(columns.values())})")
    both = [ours for ours, name in columns.items() if name in row and ours in row and ours != name]
    if both:
        raise RowError("field", f"has both `{both[0]}` and `{columns[both[0]]}`, which data.columns maps to it")
    theirs = {name: ours for ours, name in columns.items()}
    kept = {key: value for key, value in row.items() if key not in columns or columns[key] == key}
    return {theirs.get(key, key): value for key, value in kept.items()}


def _rag(row: Row) -> Content:
    question, answer = text_of(row, "question").strip(), text_of(row, "answer")
    if row.get("documents") is not None and row.get("contexts") is not None:
        raise RowError("field", "has both `documents` and `contexts`: only one is read; join them")
    documents = _documents(row, "contexts" if row.get("documents") is None else "documents")
    twice = sorted(name for name, count in Counter(document.id for document in documents).items() if count > 1)
    if twice:
        raise RowError("field", f"two documents are called {twice[0]!r}: a citation could not tell them apart")
    oracles = _oracles(row, documents)
    if oracles and not any(d.id in oracles for d in documents):
        there, _ = cited(answer, {d.id for d in documents})
        if there:
            names = ", ".join(sorted(oracles))
            raise RowError("field", f"`oracle` names {names}, none of the documents, but the answer cites {min(there)}")
    marked = tuple(Document(d.id, d.text, d.id in oracles if oracles is not None else None) for d in documents)
    return Content(messages=_asked(question, answer), documents=marked)


def _raft(row: Row) -> Content:
    """Passages have no ids of their own: they are numbered, and the oracle is the one that is oracle_context."""
    question, answer = text_of(row, "question").strip(), text_of(row, "cot_answer")
    context = parsed(row, "context")
    if isinstance(context, dict):
        context = context.get("sentences")
    while isinstance(context, list) and len(context) == 1 and isinstance(context[0], list):
        context = context[0]
    if not isinstance(context, list) or not all(isinstance(passage, str) for passage in context):
        raise RowError("field", "`context` is not {title, sentences} or a list of passages")
    if not any(passage.strip() for passage in context):
        raise RowError("field", "`context` has no passage")
    whole(context, "`context`")
    oracle = row.get("oracle_context")
    if not isinstance(oracle, str | None):
        raise RowError("field", f"`oracle_context` is {kind_of(oracle)}; expected the passage as text")
    documents = tuple(
        Document(str(number), passage.strip(), None if oracle is None else passage.split() == str(oracle).split())
        for number, passage in enumerate(context, start=1)
        if passage.strip()
    )
    return Content(messages=_asked(question, answer), documents=documents)


def _asked(question: str, answer: str) -> tuple[Message, ...]:
    return (
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{QUESTION}{question}"},
        {"role": "assistant", "content": answer},
    )


def _text(row: Row) -> Content:
    return Content(text=text_of(row, "text"))


_BUILDERS: dict[str, Callable[[Row], Content]] = {
    "rag": _rag, "raft": _raft, "messages": from_messages, "sharegpt": from_sharegpt, "alpaca": from_alpaca,
    "text": _text,
}  # fmt: skip
FORMATS = tuple(_BUILDERS)


def _documents(row: Row, key: str) -> tuple[Document, ...]:
    items = parsed(row, key)
    if not isinstance(items, list) or not items:
        raise RowError("field", f"`{key}` is missing, empty or not a list")
    documents = []
    for number, item in enumerate(items, start=1):
        where = f"document {number}: "
        if isinstance(item, str) and item.strip():
            documents.append(Document(str(number), text_of({"text": item}, "text", where).strip()))
        elif isinstance(item, dict):
            key = next((key for key in TEXTS if item.get(key) is not None), "text")
            refuse_unread(item, ("id", "title", key), key, where)
            text, title = text_of(item, key, where).strip(), item.get("title")
            if title is not None and not isinstance(title, str):
                raise RowError("field", f"{where}`title` is {kind_of(title)}; expected text")
            whole(title, f"{where}`title`")
            documents.append(Document(id_of(item, where) or str(number), f"{title}\n{text}" if title else text))
        else:
            raise RowError(
                "field", f"document {number} is empty or {kind_of(item)}; expected text or {{id, title, text}}"
            )
    return tuple(documents)


def _oracles(row: Row, documents: tuple[Document, ...]) -> set[str] | None:
    if row.get("oracle") is not None and row.get("oracles") is not None:
        raise RowError("field", "has both `oracle` and `oracles`: only one is read; join them")
    given = parsed(row, "oracle") if row.get("oracle") is not None else parsed(row, "oracles")
    if given is None:
        return None
    names = set(oracle_names(given))
    absent = sorted(names - {document.id for document in documents})
    numbered = [document.id for document in documents] == [str(n) for n in range(1, len(documents) + 1)]
    if absent and numbered:
        count = len(documents)
        raise RowError("field", f"`oracle` names {', '.join(absent)}; these documents are numbered from 1 to {count}")
    near = next((d.id for name in absent for d in documents if mistyped(name, d.id)), None)
    if near is not None:
        raise RowError("field", f"`oracle` names {', '.join(absent)}, which is not among the documents; near: {near}")
    # With the oracle left out on purpose (RAFT's 1 - p) none of them is there; some of them is a mistake.
    if absent and len(absent) < len(names):
        raise RowError("field", f"`oracle` names {', '.join(absent)}, which is not among the documents")
    return names


def _shown(names: str | tuple[str, ...]) -> str:
    return " or ".join(f"`{name}`" for name in sorted(_alternatives(names), reverse=True))
