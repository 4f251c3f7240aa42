"""Samples -> token ids and which of them are trained on: the assistant's and nothing else.

The model's own chat template makes the text. What stands in a document, a question or a tool's answer is text and
stays text: only the template's own parts become control tokens. In the assistant's turns the markup that it is to
write itself (`<think>`, `<tool_call>`) may, its turn's end may not.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.wording import first_line
from training.data.encoding.assembly import Shape
from training.data.encoding.encoder import Encoder, Ids, probed
from training.data.encoding.shapes import looked_for, pieces_of, plain_roles, stand_ins
from training.data.rows.problems import RowError
from training.data.rows.samples import Message, Sample, Span, Tokens

Tools = list[dict[str, Any]] | None
# Put inside what reads like a control token, until the text is cut at the real ones: characters for private use.
MARKS = [chr(code) for code in range(0xF000, 0xF010)]


@dataclass(frozen=True)
class ChatFiles:
    """What decides the tokens of a conversation, as text: it travels to other processes and into fingerprints."""

    tokenizer: str
    template: str
    special_tokens: tuple[tuple[str, str], ...]
    end: str
    """The tokenizer's eos token, which ends a plain text."""
    probed: tuple[Ids, ...]
    """What the tokenizer makes of the encoder's probes."""

    @classmethod
    def of(cls, tokenizer: Any) -> "ChatFiles":
        """Those of a loaded transformers tokenizer."""
        special = tuple(sorted((key, str(value)) for key, value in tokenizer.special_tokens_map.items()))
        own = tokenizer.backend_tokenizer
        template, end = tokenizer.get_chat_template(), str(tokenizer.eos_token or "")
        return cls(own.to_str(), template, special, end, probed(own))


class Chat:
    """Turns samples into tokens."""

    def __init__(self, files: ChatFiles):
        self.files = files
        self.encoder = Encoder(files.tokenizer, files.probed)
        added = self.encoder.added_tokens
        self._ids = {token["content"]: int(token["id"]) for token in added}
        special = {token["content"] for token in added if token["special"]}
        self._cut, self._control = _any_of(self._ids), _any_of(special)
        looked = looked_for(files.template)
        self._looked = None if looked is None else _any_of({*looked, *self._ids})
        self._first = "".join({name[0] for name in (*self._ids, *(looked or ()))})
        self._shapes: dict[tuple[str, ...], Shape | None] = {}
        self._cue = self._generation_cue()

    @property
    def control_tokens(self) -> "re.Pattern[str]":
        return self._cut

    def encode(self, sample: Sample) -> Tokens:
        """Raises RowError when the template refuses the conversation, or when no answer can be told in its text."""
        if sample.text:
            ids = self.encoder.encode(sample.text)
            ids += [self._ids[self.files.end]] if self.files.end in self._ids else []
            return Tokens(np.array(ids, dtype=np.int32), [(0, len(ids))])
        conversation = sample.conversation
        roles = None if sample.tools else plain_roles(conversation)
        if roles is not None and all(self._is_plain(message["content"]) for message in conversation):
            shape = self._shape(roles)
            if shape is not None:
                return shape.tokens([message["content"] for message in conversation])
        try:
            return self._rendered(conversation, list(sample.tools) or None)
        except RecursionError:
            raise RowError("field", "nests too deep") from None

    def _rendered(self, conversation: list[Message], tools: Tools) -> Tokens:
        """The template asked about this one conversation."""
        conversation, tools, mark = self._protected(conversation, tools)
        text = self._render(conversation, tools)
        lost = [part for part, content in _texts(conversation) if content.strip() not in text]
        lost += [part for part, other in _others(conversation, tools) if self._render(*other) == text]
        if lost:
            raise RowError("template", f"the model's chat template leaves out {lost[0]}: it would not be learnt")
        return self._tokens(text, self._answers(text, conversation, tools), mark)

    def _is_plain(self, content: str) -> bool:
        """Whether a template does nothing to a content but place it."""
        if not content or content[0].isspace() or content[-1].isspace() or self._looked is None:
            return False
        return not any(character in content for character in self._first) or not self._looked.search(content)

    def _shape(self, roles: tuple[str, ...]) -> Shape | None:
        """The template's text for these roles; None where a row's own rendering is another."""
        if roles not in self._shapes:
            self._shapes[roles] = self._tried_shape(roles)
        return self._shapes[roles]

    def _tried_shape(self, roles: tuple[str, ...]) -> Shape | None:
        conversation = stand_ins(roles)
        text = self._render(conversation)
        pieces = pieces_of(text, self._cut, self._answers(text, conversation, None), len(roles))
        if pieces is None:
            return None
        shape = Shape(pieces, self.encoder, self._ids)
        for probe in ("a", "Is it 443? See [1]: yes.\n\n\u00e9"):
            contents = [probe * (number + 1) for number in range(len(roles))]
            rendered = self._rendered([{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)], None)
            assembled = shape.tokens(contents)
            if assembled.spans != rendered.spans or assembled.ids.tolist() != rendered.ids.tolist():
                return None
        return shape

    def _render(self, conversation: list[Message], tools: Tools = None, cue: bool = False) -> str:
        # Imported where a row needs it: a process that only fills shapes is spared a second and a half.
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered = render_jinja_template(
                [conversation], tools=tools, chat_template=self.files.template,
                add_generation_prompt=cue, **dict(self.files.special_tokens),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - a template raises whatever its author chose
            raise RowError("roles", f"the model's chat template refuses it: {first_line(error)}") from None
        return str(rendered[0][0])

    def _generation_cue(self) -> str:
        """What the template puts before an answer, such as `<|im_start|>assistant` and a line end."""
        probe: list[Message] = [{"role": "user", "content": "a"}]
        try:
            plain, cued = self._render(probe), self._render(probe, cue=True)
        except RowError:  # a template that wants more than one turn: it is asked row by row
            return ""
        cue = cued[len(plain) :] if cued.startswith(plain) else ""
        return cue if self._control.search(cue) else ""

    def _answers(self, text: str, conversation: list[Message], tools: Tools) -> list[Span]:
        """Character spans of the assistant's turns, each with the control token that ends it."""
        wanted = [index for index, message in enumerate(conversation) if message["role"] == "assistant"]
        starts = [match.end() for match in re.finditer(re.escape(self._cue), text)] if self._cue else []
        if len(starts) != len(wanted):  # no cue, or one that stands elsewhere as well: ask the template turn by turn
            starts = []
            for index in wanted:
                prompt = self._render(conversation[:index], tools, cue=True)
                if not text.startswith(prompt):
                    message = (
                        "the model's chat template changes earlier turns: the answer cannot be told from the prompt"
                    )
                    raise RowError("roles", message)
                starts.append(len(prompt))
        spans = []
        for start in starts:
            end = self._control.search(text, start)
            spans.append((start, end.end() if end else len(text)))
        return spans

    def _protected(self, conversation: list[Message], tools: Tools) -> tuple[list[Message], Tools, str]:
        """Conversation and tools with a mark inside everything that reads like a control token, and that mark."""
        whole = "" if not tools and _ascii(conversation) else json.dumps([conversation, tools], ensure_ascii=False)
        mark = next(mark for mark in (*MARKS, *map(chr, range(0xF0000, 0xFFFFE))) if mark not in whole)
        return (
            [self._marked(message, mark) for message in conversation],
            _mark_all(tools, self._cut, self._first, mark),
            mark,
        )

    def _marked(self, message: Message, mark: str) -> Message:
        own = message["role"] == "assistant"
        pattern = self._control if own else self._cut
        marked: Message = {}
        for key, value in message.items():
            marked[key] = value if key == "role" else _mark_all(value, pattern, self._first, mark)
        return marked

    def _tokens(self, text: str, answers: list[Span], mark: str) -> Tokens:
        """Cuts the text at its control tokens and encodes what lies between."""
        ids: list[int] = []
        spans: list[Span] = []
        waiting = list(reversed(answers))
        opened: int | None = None
        position = 0
        for match in [*self._cut.finditer(text), None]:
            chunk = text[position : match.start() if match else len(text)]
            end = position + len(chunk)
            if waiting and opened is None and position <= waiting[-1][0] <= end:
                found, before = self._encode_at(chunk, waiting[-1][0] - position, mark)
                opened = len(ids) + before
            else:
                found = self.encoder.encode(chunk.replace(mark, "")) if chunk else []
            ids += found
            if match:
                ids.append(self._ids[match[0]])
                end = match.end()
            if opened is not None and end >= waiting[-1][1]:
                spans.append((opened, len(ids)))
                waiting.pop()
                opened = None
            position = end
        return Tokens(np.array(ids, dtype=np.int32), spans)

    def _encode_at(self, chunk: str, position: int, mark: str) -> tuple[list[int], int]:
        if not chunk:
            return [], 0
        return self.encoder.encode_at(chunk.replace(mark, ""), position - chunk.count(mark, 0, position))


def _texts(conversation: list[Message]) -> Iterator[tuple[str, str]]:
    """What must stand in a conversation's text as it is. Answers of tools may be written as JSON."""
    for number, message in enumerate(conversation, start=1):
        if message["role"] in ("system", "user"):
            yield f"turn {number}", message["content"]
        if message["role"] == "assistant":
            yield f"turn {number}", message["content"].rsplit("</think>", 1)[-1]


def _others(conversation: list[Message], tools: Tools) -> Iterator[tuple[str, tuple[list[Message], Tools]]]:
    """Each part that a template writes in a form of its own, and the row with another in its place: whose text is the
    same where the template leaves that part out. What it says may stand elsewhere in the text as well. Thoughts before
    the last turn are left out by design (Qwen3)."""
    for tool in tools or ():
        yield "the tools", (conversation, [each for each in tools or () if each is not tool] or None)
    for number, message in enumerate(conversation, start=1):
        for place, call in enumerate(message.get("tool_calls", ())):
            name, given = call["function"]["name"], call["function"].get("arguments", {})
            for function in ({"name": f"{name}_", "arguments": given}, {"name": name, "arguments": {**given, "_": 1}}):
                calls = [*message["tool_calls"]]
                calls[place] = {**call, "function": function}
                turns = [*conversation]
                turns[number - 1] = {**message, "tool_calls": calls}
                yield f"the call in turn {number}", (turns, tools)
    thought = conversation[-1].get("reasoning_content")
    if thought:
        yield (
            "reasoning_content",
            ([*conversation[:-1], {**conversation[-1], "reasoning_content": f"{thought}_"}], tools),
        )


def _any_of(tokens: Any) -> "re.Pattern[str]":
    """Matches any of these, the longest first; nothing where there are none."""
    names = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def _ascii(conversation: list[Message]) -> bool:
    return all(isinstance(v, str) and v.isascii() for message in conversation for v in message.values())


def _mark_all(value: Any, pattern: "re.Pattern[str]", first: str, mark: str) -> Any:
    """Every string inside nested values, with the mark behind the first character of each match."""
    if isinstance(value, str):
        if not any(character in value for character in first):
            return value
        return pattern.sub(lambda match: match[0][0] + mark + match[0][1:], value)
    if isinstance(value, dict):
        return {
            _mark_all(key, pattern, first, mark): _mark_all(item, pattern, first, mark) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_mark_all(item, pattern, first, mark) for item in value]
    return value
