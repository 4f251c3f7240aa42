"""Rows that are conversations -> turns as chat templates read them: messages, sharegpt, alpaca."""

import json
from typing import Any

from training.data.rows.fields import Row, kind_of, parsed, refuse_unread, text_of, whole
from training.data.rows.problems import RowError
from training.data.rows.samples import Content, Message

ROLES = ("system", "user", "assistant", "tool")
_OTHER_NAMES = {"developer": "system", "function": "tool"}
_SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "system": "system", "function_call": "call", "observation": "tool", "function_response": "tool", "tool": "tool",
}  # fmt: skip
_FOLLOWS = {
    "start": {"system", "user"}, "system": {"user"}, "user": {"assistant"}, "assistant": {"user"},
    "calls": {"tool"}, "tool": {"tool", "assistant"},
}  # fmt: skip
_KEPT = ("reasoning_content", "tool_call_id", "name")
_READ = ("tool_calls", "function_call", "weight", "thinking", "reasoning", *_KEPT)
# What other libraries call the arguments of a call.
_ARGUMENTS = ("parameters", "input", "args", "kwargs", "params")
_CALL = ("id", "type", "index", "function", "name", "arguments")


def from_messages(row: Row) -> Content:
    items = parsed(row, "messages")
    if not isinstance(items, list) or not items:
        raise RowError("field", "`messages` is missing or empty")
    messages = tuple(_message(number, item) for number, item in enumerate(items, start=1))
    return Content(messages=messages, tools=_tools(row))


def _message(number: int, item: Any) -> Message:
    role = item.get("role") if isinstance(item, dict) else None
    role = _OTHER_NAMES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise RowError("roles", f"message {number} has no role of {', '.join(ROLES)}")
    return _turn(f"message {number}: ", role, item, ("role", "content"))


def _turn(where: str, role: str, item: Row, names: tuple[str, str]) -> Message:
    """A turn of any format; `names` are what it calls the role and the content."""
    _, main = names
    calls = item.get("tool_calls")
    if calls and item.get("function_call"):
        raise RowError("field", f"{where}has both `tool_calls` and `function_call`: only one is read; join them")
    refuse_unread(item, (*names, *_READ), main, where)
    if not calls and isinstance(item.get("function_call"), dict):  # before tool_calls there was one
        calls = [{"function": item["function_call"]}]
    weights = (None, 1) if role == "assistant" else (None, 0, 1)  # what is asked is never trained on
    if item.get("weight") not in weights:
        raise RowError(
            "field", f"{where}`weight` {item['weight']!r} is not read: every answer is trained on; split the row"
        )
    unread = [key for key in ("thinking", "reasoning") if item.get(key)]
    if unread:
        raise RowError("field", f"{where}`{unread[0]}` is not read; call it `reasoning_content`, or leave it out")
    message: Message = {"role": role}
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise RowError("field", f"{where}`tool_calls` is a list of an assistant's calls")
        message["tool_calls"] = [_call(where, call) for call in calls]
    content = _joined(where, main, item.get(main))
    if content is None and calls:
        content = ""
    message["content"] = content if calls and content == "" else text_of({main: content}, main, where)
    message |= {key: _kept(where, key, item[key]) for key in _KEPT if item.get(key) not in (None, [])}
    for key, value in message.items():
        if key not in ("role", "content"):
            whole(value, f"{where}`{key}`")
    return message


def _joined(where: str, key: str, value: Any) -> Any:
    """The text of a list of parts; any other value as it is."""
    if not isinstance(value, list):
        return value
    texts = [part.get("text") for part in value if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) != len(value) or not all(isinstance(text, str) for text in texts):
        raise RowError("field", f"{where}`{key}` has parts that are not text; only text can be trained on")
    return "".join(str(text) for text in texts)


def _kept(where: str, key: str, value: Any) -> str:
    text = _joined(where, key, value)
    if not isinstance(text, str):
        raise RowError("field", f"{where}`{key}` is {kind_of(text)}; expected text")
    return text


def _call(where: str, call: Any) -> dict[str, Any]:
    """A tool call in OpenAI's form, its arguments as an object: templates write them as JSON."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("field", f"{where}a tool call has no function name")
    name, arguments = function["name"], function.get("arguments")
    beside = next((key for key in ("name", "arguments") if function is not call and call.get(key)), None)
    if beside is not None:
        raise RowError("field", f"{where}call of {name}: `{beside}` beside `function` is not read; put it there")
    for part in (call, function):
        other = next((key for key in _ARGUMENTS if part.get(key)), None)
        if other is not None:
            raise RowError("field", f"{where}call of {name}: `{other}` is not read; call it `arguments`")
        refuse_unread(part, _CALL, "arguments", f"{where}call of {name}: ")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise RowError("field", f"{where}the arguments of {name} are not JSON") from None
    if not isinstance(arguments, dict | None):
        raise RowError("field", f"{where}the arguments of {name} are {kind_of(arguments)}; expected an object")
    if not isinstance(call.get("id"), str | None):
        raise RowError("field", f"{where}call of {name}: `id` is {kind_of(call['id'])}; expected text")
    call_id = {"id": call["id"]} if call.get("id") is not None else {}
    return {**call_id, "type": "function", "function": {"name": name, "arguments": arguments or {}}}


def _tools(row: Row) -> tuple[dict[str, Any], ...]:
    tools = parsed(row, "tools" if row.get("tools") is not None else "functions")
    if tools is None or tools == "":
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("field", "`tools` is not a list of objects")
    whole(tools, "`tools`")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)


def from_sharegpt(row: Row) -> Content:
    items = parsed(row, "conversations")
    if not isinstance(items, list) or not items:
        raise RowError("field", "`conversations` is missing or empty")
    messages: list[Message] = []
    if row.get("system") not in (None, "") and str(row["system"]).strip():
        messages.append({"role": "system", "content": text_of(row, "system")})
    for number, item in enumerate(items, start=1):
        speaker = _SHAREGPT.get(str(item.get("from"))) if isinstance(item, dict) else None
        if speaker is None:
            raise RowError("roles", f"turn {number} is from none of {', '.join(_SHAREGPT)}")
        where = f"turn {number}: "
        if speaker == "call":
            if item.get("tool_calls") or item.get("function_call"):
                raise RowError("field", f"{where}has more calls than its `value`: only these are read; join them")
            speaker = "assistant"
            item = {**item, "value": None, "tool_calls": _calls(where, text_of(item, "value", where))}
        messages.append(_turn(where, speaker, item, ("from", "value")))
    return Content(messages=tuple(messages), tools=_tools(row))


def _calls(where: str, value: str) -> list[Any]:
    try:
        calls = json.loads(value)
    except (ValueError, RecursionError):
        raise RowError("field", f"{where}a function_call is not JSON") from None
    return calls if isinstance(calls, list) and calls else [calls]


def from_alpaca(row: Row) -> Content:
    more = row.get("input")
    asked = text_of(row, "instruction")
    if more not in (None, "") and not (isinstance(more, str) and not more.strip()):
        asked = f"{asked}\n{text_of(row, 'input')}"
    messages: list[Message] = []
    if row.get("system") not in (None, "") and str(row["system"]).strip():
        messages.append({"role": "system", "content": text_of(row, "system")})
    history = parsed(row, "history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise RowError("field", "`history` is not a list of [question, answer]")
    for turn in history:
        before = {"question": turn[0], "answer": turn[1]}
        messages.append({"role": "user", "content": text_of(before, "question", "history: ")})
        messages.append({"role": "assistant", "content": text_of(before, "answer", "history: ")})
    messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": text_of(row, "output")}]
    return Content(messages=tuple(messages))


def check_order(messages: tuple[Message, ...]) -> None:
    """An optional system turn, then user and assistant in turn; tools answer calls; the assistant has the last word."""
    roles = [message["role"] for message in messages]
    previous = "start"
    for number, message in enumerate(messages, start=1):
        if message["role"] not in _FOLLOWS[previous]:
            wanted = " or ".join(sorted(_FOLLOWS[previous]))
            raise RowError("roles", f"roles are {' '.join(roles)}: turn {number} should be {wanted}")
        previous = "calls" if message.get("tool_calls") else message["role"]
    if messages and roles[-1] != "assistant":
        raise RowError("roles", f"roles are {' '.join(roles)}: the last turn should be assistant")
