"""A chat template rendered once for each shape of conversation, not once for each row.

Rows of one shape (the same roles in the same order) differ in their contents alone, so the template is rendered with
stand-ins for these and cut where they stand. That holds for a template that only places contents. One that looks into
them (Qwen3's cuts `</think>` out of an answer) looks for words that stand in the template itself, so a row that holds
one of these, or white space at an end, is rendered in full.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateSyntaxError

from training.data.rows.samples import Message

# Stand-ins are made of characters for private use, with a number between them.
_STAND_IN = re.compile("\ue0f0(\\d+)\ue0f1")
Part = str | int


@dataclass(frozen=True)
class Piece:
    """Text between two control tokens: fixed parts, and numbers of the contents that go between them.

    `answer` is the part at which an answer begins, `closes` says that one ends with the control token behind the text.
    """

    parts: tuple[Part, ...]
    control: str
    answer: int | None
    closes: bool

    def texts(self, contents: Sequence[str]) -> tuple[str, str]:
        """What stands before the answer, and from it on; all of it before where there is none."""
        filled = [part if isinstance(part, str) else contents[part] for part in self.parts]
        at = len(filled) if self.answer is None else self.answer
        return "".join(filled[:at]), "".join(filled[at:])


def stand_ins(roles: Sequence[str]) -> list[Message]:
    return [{"role": role, "content": f"\ue0f0{number}\ue0f1"} for number, role in enumerate(roles)]


def plain_roles(conversation: Sequence[Message]) -> tuple[str, ...] | None:
    """The roles of a conversation of texts alone; None with tool calls, reasoning and the like."""
    if any(len(message) > 2 for message in conversation):
        return None
    return tuple(message["role"] for message in conversation)


def pieces_of(
    text: str, controls: "re.Pattern[str]", answers: Sequence[tuple[int, int]], count: int
) -> list[Piece] | None:
    """A text rendered with stand-ins, cut at its control tokens.

    None unless each of the `count` contents stands in it once, and every answer begins between two parts and ends
    behind a control token.
    """
    starts, ends = {start for start, _ in answers}, {end for _, end in answers}
    pieces, position = [], 0
    for match in [*controls.finditer(text), None]:
        end = match.start() if match else len(text)
        parts, begins = _parts(text[position:end], position, starts)
        behind = match.end() if match else end
        pieces.append(Piece(parts, match[0] if match else "", begins, behind in ends))
        position = behind
    placed = sorted(part for piece in pieces for part in piece.parts if isinstance(part, int))
    opened = sum(piece.answer is not None for piece in pieces)
    closed = sum(piece.closes for piece in pieces)
    return pieces if placed == list(range(count)) and opened == closed == len(answers) else None


def _parts(text: str, offset: int, starts: set[int]) -> tuple[tuple[Part, ...], int | None]:
    parts: list[Part] = []
    begins, position = None, 0
    for match in [*_STAND_IN.finditer(text), None]:
        end = match.start() if match else len(text)
        cut = next((start - offset for start in starts if position <= start - offset <= end), None)
        if cut is not None and begins is None:
            parts.append(text[position:cut])
            begins, position = len(parts), cut
        if text[position:end]:
            parts.append(text[position:end])
        if match:
            parts.append(int(match[1]))
            position = match.end()
    return tuple(parts), begins


def looked_for(template: str) -> frozenset[str] | None:
    """What a template looks for in contents; None for one whose ways cannot be told.

    These are its constants beside `in`, and the arguments of its methods, filters and tests.
    """
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)  # noqa: S701 - it is only read
    except TemplateSyntaxError:
        return None
    sliced = [item for item in tree.find_all(nodes.Getitem) if isinstance(item.arg, nodes.Slice)]
    if any("content" in _names(item.node) for item in sliced):
        return None
    words: set[str] = set()
    for compare in tree.find_all(nodes.Compare):
        if any(operand.op in ("in", "notin") for operand in compare.ops) and "role" not in _names(compare.expr):
            words |= _constants([compare.expr, *(operand.expr for operand in compare.ops)])
    calls: list[Any] = [*tree.find_all(nodes.Call), *tree.find_all(nodes.Filter), *tree.find_all(nodes.Test)]
    for call in calls:
        words |= _constants([*call.args, *(pair.value for pair in call.kwargs)])
    return frozenset(word for word in words if word.strip())


def _constants(values: Sequence[nodes.Node]) -> set[str]:
    found = [constant for value in values for constant in (value, *value.find_all(nodes.Const))]
    return {node.value for node in found if isinstance(node, nodes.Const) and isinstance(node.value, str)}


def _names(node: nodes.Node) -> str:
    """The names and keys in an expression such as message['role']."""
    parts = [node, *node.find_all((nodes.Name, nodes.Getattr, nodes.Const))]
    return " ".join(str(getattr(part, "name", getattr(part, "attr", getattr(part, "value", "")))) for part in parts)
