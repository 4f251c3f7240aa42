"""Conversations of one shape -> tokens: what their template fixes is encoded once, each row's contents are added."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from training.data.encoding.encoder import Encoder
from training.data.encoding.shapes import Part, Piece
from training.data.rows.samples import Span, Tokens


class Step(NamedTuple):
    """Fixed ids, then a text to encode, then a control token."""

    fixed: list[int]
    parts: tuple[Part, ...]
    answer: int | None
    """The part at which an answer begins; `closes` says that one ends with the control token."""
    control: list[int]
    closes: bool


class Shape:
    """`pieces` of a template's text for one sequence of roles; `ids` are those of its control tokens."""

    def __init__(self, pieces: Sequence[Piece], encoder: Encoder, ids: Mapping[str, int]):
        self.encoder = encoder
        self.steps: list[Step] = []
        fixed: list[int] = []
        for piece in pieces:
            control = [ids[piece.control]] if piece.control else []
            contents = any(isinstance(part, int) for part in piece.parts)
            if not contents and piece.answer is None and not piece.closes:
                fixed = fixed + encoder.encode("".join(map(str, piece.parts))) + control
                continue
            head, parts, answer = self._cut(piece)
            self.steps.append(Step(fixed + encoder.encode(head), parts, answer, control, piece.closes))
            fixed = []
        self.steps.append(Step(fixed, (), None, [], False))

    def _cut(self, piece: Piece) -> tuple[str, tuple[Part, ...], int | None]:
        """The fixed text that a piece begins with, if no token reaches beyond it, and what is left of the piece."""
        count = 1 if piece.answer is None else piece.answer
        head, rest = piece.parts[:count], piece.parts[count:]
        text = "".join(map(str, head))
        spaced = bool(rest) and isinstance(rest[0], str) and rest[0][0].isspace()
        if not all(isinstance(part, str) for part in head) or spaced or not self.encoder.ends_token(text):
            return "", piece.parts, piece.answer
        return text, rest, None if piece.answer is None else 0

    def tokens(self, contents: Sequence[str]) -> Tokens:
        """Those of a row with these contents, none of which begins or ends with white space."""
        ids: list[int] = []
        spans: list[Span] = []
        opened = 0
        for fixed, parts, answer, control, closes in self.steps:
            ids += fixed
            texts = [part if isinstance(part, str) else contents[part] for part in parts]
            if answer is None:
                ids += self.encoder.encode("".join(texts)) if texts else []
            else:
                found, inside = self.encoder.encode_at("".join(texts), sum(map(len, texts[:answer])))
                opened = len(ids) + inside
                ids += found
            ids += control
            if closes:
                spans.append((opened, len(ids)))
        return Tokens(np.array(ids, dtype=np.int32), spans)
