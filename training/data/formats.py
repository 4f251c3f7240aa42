"""Raw rows -> samples. One function a format; `auto` tells the format from a row's keys, and says so when it cannot.

    rag       {question, documents | contexts, answer}, documents as text or {id, title, text}, optional oracle ids
    raft      {question, context, oracle_context, cot_answer}, the columns of the RAFT paper's own script
    messages  {messages: [{role, content}, ...]}, OpenAI's, with tool_calls and tools
    sharegpt  {conversations: [{from, value}, ...]}, with function_call and observation turns
    alpaca    {instruction, input, output}
    text      {text}: all of it is trained on

Any of them may carry an "id"; without one a row is named by its line.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from training.data.problems import RowError
from training.data.samples import SYSTEM, Document, Message, Sample

Row = dict[str, Any]

# What each format's rows cannot be without; an inner tuple lists names for the same thing.
SIGNATURES: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "rag": ("question", ("documents", "contexts"), "answer"),
    "raft": ("question", "context", "cot_answer"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}
ROLES = ("system", "user", "assistant", "tool")
_OTHER_NAMES = {"developer": "system", "function": "tool"}
_SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "system": "system", "function_call": "call", "observation": "tool", "function_response": "tool", "tool": "tool",
}  # fmt: skip
_KEPT = ("reasoning_content", "tool_call_id", "name")


def to_sample(row: Any, file: str, line: int, form: str, columns: Mapping[str, str], prefix: str = "") -> Sample:
    """A raw row as a sample. `columns` maps muster's names to the row's own. Raises RowError."""
    if not isinstance(row, dict):
        raise RowError("field", f"is {kind_of(row)}, not an object")
    if columns:
        row = _renamed(row, columns)
    chosen = form if form != "auto" else detect(row)
    name = row.get("id")
    if isinstance(name, bool) or (name is not None and not isinstance(name, str | int)):
        raise RowError("field", f"`id` is {kind_of(name)}; expected text or a whole number")
    whole(name, "`id`")
    messages, documents, tools, text = _BUILDERS[chosen](row)
    _check_order(messages)
    return Sample(str(prefix + str(line) if name is None else name), file, line, messages, documents, tools, text)


def detect(row: Row) -> str:
    """The format that a row's keys tell. Raises RowError when none or several do."""
    present = {key for key, value in row.items() if value is not None}
    fitting = [
        form for form, signature in SIGNATURES.items() if all(present & _alternatives(names) for names in signature)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise RowError("format", f"can be read as {' or as '.join(fitting)}: say which with data.format")
    partial = {
        form: [
            _shown(names) for names in signature if not present & set(names if isinstance(names, tuple) else (names,))
        ]
        for form, signature in SIGNATURES.items()
    }
    nearest = min(partial, key=lambda form: len(partial[form]) / len(SIGNATURES[form]))
    keys = ", ".join(map(repr, row)) or "none"
    if len(partial[nearest]) < len(SIGNATURES[nearest]):
        hint = f"it lacks {', '.join(partial[nearest])} to be {nearest}"
    else:
        hint = f"expected one of {', '.join(SIGNATURES)}"
    raise RowError("format", f"its keys are {keys}; {hint}: name its columns with data.columns, or its data.format")


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    absent = [theirs for theirs in columns.values() if theirs not in row]
    if len(absent) == len(columns):
        raise RowError("field", f"has none of the columns of data.columns ({', '.join(columns.values())})")
    theirs = {name: ours for ours, name in columns.items()}
    kept = {key: value for key, value in row.items() if key not in columns or columns[key] == key}
    return {theirs.get(key, key): value for key, value in kept.items()}


_Parts = tuple[tuple[Message, ...], tuple[Document, ...], tuple[dict[str, Any], ...], str]


def _rag(row: Row) -> _Parts:
    question, answer = text_of(row, "question").strip(), text_of(row, "answer")
    documents = _documents(row, "contexts" if row.get("documents") is None else "documents")
    oracles = _oracles(row, documents)
    marked = tuple(Document(d.id, d.text, d.id in oracles if oracles is not None else None) for d in documents)
    return (*_asked(question, answer, SYSTEM), marked, (), "")


def _raft(row: Row) -> _Parts:
    """Passages have no ids of their own: they are numbered, and the oracle is the one that is oracle_context."""
    question, answer = text_of(row, "question").strip(), text_of(row, "cot_answer")
    context = parsed(row, "context")
    if isinstance(context, dict):
        context = context.get("sentences")
    while isinstance(context, list) and len(context) == 1 and isinstance(context[0], list):
        context = context[0]
    if not isinstance(context, list) or not all(isinstance(passage, str) for passage in context):
        raise RowError("field", "`context` is not {title, sentences} or a list of passages")
    whole(context, "`context`")
    oracle = row.get("oracle_context")
    documents = tuple(
        Document(str(number), passage.strip(), None if oracle is None else passage.strip() == str(oracle).strip())
        for number, passage in enumerate(context, start=1)
        if passage.strip()
    )
    return (*_asked(question, answer, SYSTEM), documents, (), "")


def _asked(question: str, answer: str, system: str) -> tuple[tuple[Message, ...]]:
    return (
        (
            {"role": "system", "content": system},
            {"role": "user", "content": f"Question: {question}"},
            {"role": "assistant", "content": answer},
        ),
    )


def _messages(row: Row) -> _Parts:
    items = parsed(row, "messages")
    if not isinstance(items, list) or not items:
        raise RowError("field", "`messages` is missing or empty")
    return tuple(_message(number, item) for number, item in enumerate(items, start=1)), (), _tools(row), ""


def _message(number: int, item: Any) -> Message:
    role = item.get("role") if isinstance(item, dict) else None
    role = _OTHER_NAMES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise RowError("roles", f"message {number} has no role of {', '.join(ROLES)}")
    where, calls = f"message {number}: ", item.get("tool_calls")
    message: Message = {"role": role}
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise RowError("field", f"{where}`tool_calls` is a list of an assistant's calls")
        message["tool_calls"] = [_call(where, call) for call in calls]
    content = item.get("content")
    if isinstance(content, list):
        content = _joined(where, content)
    if content is None and calls:
        content = ""
    message["content"] = content if calls and content == "" else text_of({"content": content}, "content", where)
    kept = {key: item[key] for key in _KEPT if isinstance(item.get(key), str)}
    for key, value in {**message, **kept}.items():
        whole(value, f"{where}`{key}`")
    return {**message, **kept}


def _joined(where: str, parts: list[Any]) -> str:
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) != len(parts) or not all(isinstance(text, str) for text in texts):
        raise RowError("field", f"{where}`content` has parts that are not text; only text can be trained on")
    return "".join(str(text) for text in texts)


def _call(where: str, call: Any) -> dict[str, Any]:
    """A tool call in OpenAI's form, its arguments as an object: templates write them as JSON."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("field", f"{where}a tool call has no function name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise RowError("field", f"{where}the arguments of {function['name']} are not JSON") from None
    call_id = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**call_id, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _tools(row: Row) -> tuple[dict[str, Any], ...]:
    tools = parsed(row, "tools")
    if tools is None or tools == "":
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("field", "`tools` is not a list of objects")
    whole(tools, "`tools`")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)


def _sharegpt(row: Row) -> _Parts:
    items = parsed(row, "conversations")
    if not isinstance(items, list) or not items:
        raise RowError("field", "`conversations` is missing or empty")
    messages: list[Message] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        messages.append({"role": "system", "content": text_of(row, "system")})
    for number, item in enumerate(items, start=1):
        speaker = _SHAREGPT.get(str(item.get("from"))) if isinstance(item, dict) else None
        if speaker is None:
            raise RowError("roles", f"turn {number} is from none of {', '.join(_SHAREGPT)}")
        where = f"turn {number}: "
        value = text_of(item, "value", where)
        if speaker == "call":
            messages.append({"role": "assistant", "content": "", "tool_calls": _calls(where, value)})
        else:
            messages.append({"role": speaker, "content": value})
    return tuple(messages), (), _tools(row), ""


def _calls(where: str, value: str) -> list[dict[str, Any]]:
    try:
        calls = json.loads(value)
    except (ValueError, RecursionError):
        raise RowError("field", f"{where}a function_call is not JSON") from None
    whole(calls, f"{where}`value`")
    return [_call(where, call) for call in (calls if isinstance(calls, list) and calls else [calls])]


def _alpaca(row: Row) -> _Parts:
    more = row.get("input")
    asked = text_of(row, "instruction")
    if isinstance(more, str) and more.strip():
        asked = f"{asked}\n{text_of(row, 'input')}"
    messages: list[Message] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        messages.append({"role": "system", "content": text_of(row, "system")})
    history = parsed(row, "history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise RowError("field", "`history` is not a list of [question, answer]")
    for turn in history:
        before = {"question": turn[0], "answer": turn[1]}
        messages.append({"role": "user", "content": text_of(before, "question", "history: ")})
        messages.append({"role": "assistant", "content": text_of(before, "answer", "history: ")})
    messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": text_of(row, "output")}]
    return tuple(messages), (), (), ""


def _text(row: Row) -> _Parts:
    return (), (), (), text_of(row, "text")


_BUILDERS: dict[str, Callable[[Row], _Parts]] = {
    "rag": _rag, "raft": _raft, "messages": _messages, "sharegpt": _sharegpt, "alpaca": _alpaca, "text": _text,
}  # fmt: skip
FORMATS = tuple(_BUILDERS)


def _check_order(messages: tuple[Message, ...]) -> None:
    """An optional system turn, then user and assistant in turn; tools answer calls; the assistant has the last word."""
    roles = [message["role"] for message in messages]
    previous = "start"
    follows = {
        "start": {"system", "user"}, "system": {"user"}, "user": {"assistant"}, "assistant": {"user"},
        "calls": {"tool"}, "tool": {"tool", "assistant"},
    }  # fmt: skip
    for number, message in enumerate(messages, start=1):
        if message["role"] not in follows[previous]:
            wanted = " or ".join(sorted(follows[previous]))
            raise RowError("roles", f"roles are {' '.join(roles)}: turn {number} should be {wanted}")
        previous = "calls" if message.get("tool_calls") else message["role"]
    if messages and roles[-1] != "assistant":
        raise RowError("roles", f"roles are {' '.join(roles)}: the last turn should be assistant")


def _documents(row: Row, key: str) -> tuple[Document, ...]:
    items = parsed(row, key)
    if not isinstance(items, list):
        raise RowError("field", f"`{key}` is missing or not a list")
    documents = []
    for number, item in enumerate(items, start=1):
        where = f"document {number}: "
        if isinstance(item, str) and item.strip():
            documents.append(Document(str(number), text_of({"text": item}, "text", where).strip()))
        elif isinstance(item, dict):
            text, title = text_of(item, "text", where).strip(), item.get("title")
            if title is not None and not isinstance(title, str):
                raise RowError("field", f"{where}`title` is {kind_of(title)}; expected text")
            name = number if item.get("id") is None else item["id"]
            whole(title, f"{where}`title`")
            whole(name, f"{where}`id`")
            documents.append(Document(str(name), f"{title}\n{text}" if title else text))
        else:
            raise RowError(
                "field", f"document {number} is empty or {kind_of(item)}; expected text or {{id, title, text}}"
            )
    return tuple(documents)


def _oracles(row: Row, documents: tuple[Document, ...]) -> set[str] | None:
    given = parsed(row, "oracle") if row.get("oracle") is not None else parsed(row, "oracles")
    if given is None:
        return None
    names = {str(name) for name in (given if isinstance(given, list) else [given])}
    absent = sorted(names - {document.id for document in documents})
    # With the oracle left out on purpose (RAFT's 1 - p) none of them is there; some of them is a mistake.
    if absent and len(absent) < len(names):
        raise RowError("field", f"`oracle` names {', '.join(absent)}, which is not among the documents")
    return names


def parsed(row: Row, key: str) -> Any:
    """A nested value, also where the file could only hold it as JSON text (CSV, sharegpt's tools)."""
    value = row.get(key)
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise RowError("field", f"`{key}` looks like JSON and is not") from None
    return value


def text_of(row: Mapping[str, Any], key: str, where: str = "") -> str:
    """A text field as it stands. Raises RowError when it is missing, empty, or no text."""
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError("field", f"{where}`{key}` is {'missing' if value is None else kind_of(value)}; expected text")
    if not value.strip():
        raise RowError("field", f"{where}`{key}` is empty")
    whole(value, f"{where}`{key}`")
    return value


def whole(value: Any, where: str) -> None:
    """Raises RowError where any text inside holds half a character, which no tokenizer, file or terminal takes."""
    if isinstance(value, str):
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


def _alternatives(names: str | tuple[str, ...]) -> set[str]:
    return set(names) if isinstance(names, tuple) else {names}


def _shown(names: str | tuple[str, ...]) -> str:
    return " or ".join(f"`{name}`" for name in sorted(_alternatives(names), reverse=True))
