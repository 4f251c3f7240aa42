"""What can be wrong with a row: the kinds, and how bad each is."""

from dataclasses import dataclass
from typing import Literal, get_args

from launch.spec import AcceptedKind

Level = Literal["error", "warning"]
# Kind, message, excerpt: what a check finds in a text.
Finding = tuple[str, str, str]

# An error makes a row one that must not be trained on; a warning is for a person to look at.
KINDS: dict[str, tuple[Level, str]] = {
    "unreadable": ("error", "not JSON, CSV or Parquet, or not UTF-8 text"),
    "format": ("error", "the row has the keys of no known format, or of more than one"),
    "field": ("error", "a field is missing, empty or of another type"),
    "roles": ("error", "the turns of a conversation are out of order"),
    "template": ("error", "the model's chat template leaves out a tool, a call, a thought or a turn"),
    "duplicate-id": ("error", "two rows have the same id"),
    "too-long": ("error", "the answer does not fit data.max_length"),
    "untrainable": ("error", "no token of the row can be trained on"),
    "citation": ("error", "the answer cites a document that is not in the row"),
    "secret": ("error", "a private key, a provider's token, or a password in a URL"),
    "leakage": ("error", "a row to evaluate on is also, or almost, one to train on"),
    "exact-duplicate": ("warning", "the same questions and answers as an earlier row"),
    "near-duplicate": ("warning", "almost the same words as an earlier row"),
    "control-character": ("warning", "invisible or bidirectional control characters"),
    "encoding": ("warning", "text that was decoded wrongly once"),
    "personal-data": ("warning", "an e-mail address, a card number or a bank account"),
    "injection": ("warning", "a document that gives instructions to the model"),
    "control-token": ("warning", "text that reads like one of the model's control tokens; it is trained on as text"),
}

# Those that a person may judge otherwise.
ACCEPTABLE: tuple[str, ...] = get_args(AcceptedKind)


class RowError(ValueError):
    """Why a row cannot be used. The column counts from 1."""

    def __init__(self, kind: str, message: str, column: int = 1):
        super().__init__(message)
        self.kind, self.column = kind, column


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing about one row. The excerpt never shows a secret whole."""

    kind: str
    file: str
    line: int
    message: str
    excerpt: str = ""
    column: int = 1

    def level(self, accepted: frozenset[str] = frozenset()) -> Level:
        """`accepted` kinds are no errors any more."""
        return "warning" if self.kind in accepted else KINDS[self.kind][0]
