"""What a person should know about a row before a model learns it. Each check yields (kind, message, excerpt)."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from ftfy.badness import BADNESS_RE

from launch.redact import redact
from training.data.checks.personal import personal_data
from training.data.checks.secrets import secrets
from training.data.rows.citations import cited
from training.data.rows.problems import Finding, Problem
from training.data.rows.samples import Sample

SHOWN_CHARACTERS = 60

# Zero-width and bidirectional controls, fillers, line separators, the tag block, interlinear marks, and C0/C1 controls
# but tab and line ends.
_CONTROLS = (
    "\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u2064\u2066-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f"
)
# Emoji and scripts that join their letters need joiners, symbols and ideographs variation selectors: letters of the
# Latin, Greek and Cyrillic scripts need neither.
_JOINERS, _SELECTORS, _MORE_SELECTORS = "\u200c\u200d", "\ufe00-\ufe0f", "\U000e0100-\U000e01ef"
_APART = "A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u052f\u1e00-\u1fff"
_INVISIBLE = re.compile(
    f"[{_CONTROLS}]|(?<=[{_APART}{_JOINERS}])[{_JOINERS}](?=[{_JOINERS}]{{0,9}}[{_APART}])"
    f"|(?<=[A-Za-z{_SELECTORS}{_MORE_SELECTORS}])[{_SELECTORS}{_MORE_SELECTORS}]"
    f"|(?<![^\u0000-\u007f])[{_MORE_SELECTORS}]"
)
_UNSEEN = re.compile(f"[{_CONTROLS}{_JOINERS}{_SELECTORS}{_MORE_SELECTORS}]")
# U+FFFD, and what ftfy's rules know for UTF-8 that was once read as another encoding.
_DAMAGE = re.compile("\ufffd|" + BADNESS_RE.pattern, BADNESS_RE.flags)
# Those of the well-known families, where the model's own are not known.
_CONTROL_TOKENS = re.compile(r"<\|[a-z0-9_]{2,40}\|>|\[/?INST\]|<</?SYS>>")
# Phrases that address the model. From published prompt-injection collections; a hint for a reader, not a verdict.
_INJECTION = re.compile(
    r"(?is)\b(?:ignore|disregard|forget|override)\b[^.]{0,40}\b(?:previous|prior|above|earlier|preceding|all|your|user|system)\b"
    r"[^.]{0,30}\b(?:instructions?|prompts?|rules?|directions?|guidelines?|question)\b"
    r"|\byou are now\b[^.]{0,60}\b(?:assistant|model|ai|dan|mode|unrestricted|jailbroken)\b"
    r"|\b(?:reveal|print|repeat|show|leak|output)\b[^.]{0,30}\b(?:system prompt|(?:hidden|initial) instructions)\b"
    r"|\b(?:disregard|ignore|forget)\b[^.]{0,20}\b(?:the above|everything|anything)\b"
    r"[^.]{0,20}\b(?:and|you|said|told|before)\b"
    r"|\bdo not (?:tell|inform|mention|reveal)\b[^.]{0,30}\b(?:the user|to the user|anyone)\b"
    r"[^.]{0,10}\b(?:about|of|that) (?:this|these)\b"
    r"|\b(?:system|admin|developer) override\b|\byour (?:new|real|actual) (?:instructions?|task|goal) (?:is|are)\b"
    r"|\bnote to (?:the )?(?:llm|ai|model|assistant|chatbot)\b|\[(?:system|admin)\]"
    r"|\b(?:begin|end|new) (?:system|admin|developer) (?:prompt|message|instructions?)\b"
)


def check(sample: Sample, control_tokens: "re.Pattern[str] | None" = None) -> Iterator[Problem]:
    """Every finding about a sample's texts. `control_tokens` matches the model's own, where they are known."""
    for kind, message, excerpt in _findings(sample, control_tokens):
        yield Problem(kind, sample.file, sample.line, message, excerpt)


def _findings(sample: Sample, control_tokens: "re.Pattern[str] | None") -> Iterator[Finding]:
    yield from _citations(sample)
    for name, text in texts_of(sample):
        yield from secrets(name, text)
        yield from personal_data(name, text)
        if not text.isascii():
            yield from _found("control-character", _INVISIBLE, name, text)
            yield from _found("encoding", _DAMAGE, name, text)
        elif not text.isprintable():  # ASCII's controls but for tab and line ends
            yield from _found("control-character", _INVISIBLE, name, text)
        yield from _found("control-token", control_tokens or _CONTROL_TOKENS, name, text)
    for document in sample.documents:
        yield from _found("injection", _INJECTION, f"document {document.id}", _UNSEEN.sub("", document.text))
    for message in sample.messages:
        if message["role"] == "tool":
            yield from _found("injection", _INJECTION, "tool", _UNSEEN.sub("", message["content"]))


def texts_of(sample: Sample) -> Iterator[tuple[str, str]]:
    """Every text of a sample with its name; its id too, which goes into the ledger."""
    yield "id", sample.id
    if sample.text:
        yield "text", sample.text
    for document in sample.documents:
        yield f"document {document.id}", f"{document.id} {document.text}"
    for tool in sample.tools:
        yield "tool", "\n".join(_parts(tool))
    for message in sample.messages:
        for key in ("content", "reasoning_content"):
            if message.get(key):
                yield message["role"], message[key]
        for call in message.get("tool_calls", ()):
            function = call["function"]
            yield "tool call", "\n".join(_parts([function["name"], function["arguments"]]))


def _parts(value: Any) -> Iterator[str]:
    """Every key and every value inside, as it stands: written as a whole, they would be escaped and nothing found."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            item = [part for pair in item.items() for part in pair]
        if isinstance(item, list):
            rest += reversed(item)
        else:
            yield str(item)


def _citations(sample: Sample) -> Iterator[Finding]:
    if not sample.documents:
        return
    _, absent = cited(sample.answer, {document.id for document in sample.documents})
    for name in sorted(absent):
        ids = ", ".join(document.id for document in sample.documents[:6])
        yield "citation", f"the answer cites [{name}], which is none of its documents ({ids})", f"[{name}]"


def _found(kind: str, pattern: "re.Pattern[str]", name: str, text: str) -> Iterator[Finding]:
    """The first match of a text; the others are counted."""
    matches = list(pattern.finditer(text))
    if matches:
        more = f", {len(matches)} times" if len(matches) > 1 else ""
        shown = redact(text)  # before it is cut: half a secret is not recognised
        around = next((_around(shown, match) for match in pattern.finditer(shown)), "")
        yield kind, f"{name}: {_named(kind, matches[0][0])}{more}", around


def _named(kind: str, found: str) -> str:
    if kind in ("control-character", "encoding") and len(found) == 1:
        return f"U+{ord(found):04X} {unicodedata.name(found, 'control character').lower()}"
    return repr(found)


def _around(text: str, match: "re.Match[str]") -> str:
    start = max(0, match.start() - 15)
    return ascii(text[start : match.end() + 15])[1:-1][:SHOWN_CHARACTERS]
