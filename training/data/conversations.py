"""Rows that are conversations -> turns as chat templates read them: messages, sharegpt, alpaca."""

import json
from typing import Any

from training.data.fields import Row, parsed, refuse_unread, text_of, whole
from training.data.problems import RowError
from training.data.samples import Content, Message

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
_READ = ("role", "content", "tool_calls", "function_call", "weight", "thinking", "reasoning", *_KEPT)


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
    where, calls = f"message {number}: ", item.get("tool_calls")
    if calls and item.get("function_call"):
        raise RowError("field", f"{where}has both `tool_calls` and `function_call`: only one is read; join them")
    refuse_unread(item, _READ, "content", where)
    if not calls and isinstance(item.get("function_call"), dict):  # before tool_calls there was one
        calls = [{"function": item["function_call"]}]
    if item.get("weight") not in (None, 1, True):
        raise RowError(
            "field", f"{where}`weight` {item['weight']!r} is not read: every answer is trained on; split the row"
        )
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
    unread = [key for key in ("thinking", "reasoning") if item.get(key)]
    if unread:
        raise RowError("field", f"{where}`{unread[0]}` is not read; call it `reasoning_content`, or leave it out")
    message |= {key: item[key] for key in _KEPT if isinstance(item.get(key), str)}
    for key, value in message.items():
        if key not in ("role", "content"):
            whole(value, f"{where}`{key}`")
    return message


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
        value = text_of(item, "value", where)
        if speaker == "call":
            messages.append({"role": "assistant", "content": "", "tool_calls": _calls(where, value)})
        else:
            messages.append({"role": speaker, "content": value})
    return Content(messages=tuple(messages), tools=_tools(row))


def _calls(where: str, value: str) -> list[dict[str, Any]]:
    try:
        calls = json.loads(value)
    except (ValueError, RecursionError):
        raise RowError("field", f"{where}a function_call is not JSON") from None
    whole(calls, f"{where}`value`")
    return [_call(where, call) for call in (calls if isinstance(calls, list) and calls else [calls])]


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
