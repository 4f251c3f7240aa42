"""What a person should know about a row before a model learns it. Each check yields (kind, message, excerpt)."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

from ftfy.badness import BADNESS_RE

from launch.redact import redact
from launch.secrets import SECRET
from training.data.problems import Problem
from training.data.samples import Sample

Finding = tuple[str, str, str]
SHOWN_CHARACTERS = 60

# Zero-width and bidirectional controls, fillers, line separators, the tag block and the variation selectors beyond it,
# interlinear marks, and C0/C1 controls but tab and line ends.
# Zero-width (non-)joiners are left out: scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u0084\u0086-\u009f\u00ad\u034f\u061c\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u2064\u2066-\u2069\u3164\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
# U+FFFD, and what ftfy's rules know for UTF-8 that was once read as another encoding.
_DAMAGE = re.compile("\ufffd|" + BADNESS_RE.pattern, BADNESS_RE.flags)
# One bracket or several, what stands right before them, and whether the last is a link's words: [words](place).
_CITED = re.compile(r"([\w)\[]?)((?:\[[^\[\]\n]{1,200}\])+)(\(?)")
_CODE = re.compile(r"```.*?(?:```|$)|`[^`\n]{1,200}`", re.DOTALL)
_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}\b")
# Names that RFC 2606 and RFC 6761 keep for examples, and mailboxes that belong to a role and to no person.
_EXAMPLE = re.compile(r"(?i)[@.](?:example|test|invalid|localhost|local)$|@(?:[\w-]+\.)*example\.(?:com|net|org)$")
_ROLE = re.compile(
    r"(?i)^(?:abuse|admin|contact|git|help|hostmaster|info|no-?reply|postmaster|security|support|webmaster)@"
)
_DIGITS = re.compile(r"\d[ -]?\d[ -]?\d[ -]?\d[ -]?\d")
_CARD = re.compile(r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
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
        yield from _personal(name, text)
        if not text.isascii():
            yield from _found("control-character", _INVISIBLE, name, text)
            yield from _found("encoding", _DAMAGE, name, text)
        elif not text.isprintable():  # ASCII's controls but for tab and line ends
            yield from _found("control-character", _INVISIBLE, name, text)
        yield from _found("control-token", control_tokens or _CONTROL_TOKENS, name, text)
    for document in sample.documents:
        yield from _found("injection", _INJECTION, f"document {document.id}", _INVISIBLE.sub("", document.text))
    for message in sample.messages:
        if message["role"] == "tool":
            yield from _found("injection", _INJECTION, "tool", message["content"])


def texts_of(sample: Sample) -> Iterator[tuple[str, str]]:
    """Every text of a sample with its name; its id too, which goes into the ledger."""
    yield "id", sample.id
    if sample.text:
        yield "text", sample.text
    for document in sample.documents:
        yield f"document {document.id}", f"{document.id} {document.text}"
    for tool in sample.tools:
        yield "tool", str(tool)
    for message in sample.messages:
        for key in ("content", "reasoning_content"):
            if message.get(key):
                yield message["role"], message[key]
        for call in message.get("tool_calls", ()):
            yield "tool call", f"{call['function']['name']} {call['function']['arguments']}"


def cited(answer: str, documents: set[str]) -> tuple[set[str], set[str]]:
    """(cited ids that are there, cited ids that are not).

    What stands in brackets counts as a citation when it is a document's id or has the form of one. This row's ids
    decide the form: `[sic]`, or `[0]` in code, is no citation where ids are words with a dash.
    """
    forms = {_form(known) for known in documents}
    longest = max(map(len, documents), default=0)
    there = {name for inside, _ in _bracketed(answer) for name in _names(inside, documents) if name in documents}
    absent: set[str] = set()
    for inside, attached in _bracketed(_CODE.sub(" ", answer)):
        for name in _names(inside, documents):
            form = _form(name)
            # Attached to a word, a number is an index (argv[2]); one with more digits than any id is a year.
            unlike = (attached and form != "a-a") or (form == "0" and len(name) > longest + 1)
            if name not in documents and form in forms and not unlike:
                absent.add(name)
    return there, absent


def _names(inside: str, documents: set[str]) -> list[str]:
    """What stands between brackets: one name, or several."""
    if inside.strip() in documents:
        return [inside.strip()]
    return [name.strip() for name in re.split(r"[,;]|\s(?:and|&)\s", inside)]


def _bracketed(answer: str) -> Iterator[tuple[str, bool]]:
    """What stands in each pair of brackets, and whether a word or a bracket stands right before."""
    for before, run, link in _CITED.findall(answer):
        brackets = re.findall(r"\[([^\[\]]*)\]", run)
        for inside in brackets[:-1] if link else brackets:
            yield inside, bool(before)


@lru_cache(maxsize=4096)
def _form(name: str) -> str:
    """The shape of an id: letters, digits and what stands between them."""
    plain = re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", name))
    return "a-a" if re.fullmatch(r"[a0]+(?:[-_.:#/]+[a0]+)+", plain) else plain


def _citations(sample: Sample) -> Iterator[Finding]:
    if not sample.documents:
        return
    _, absent = cited(sample.answer, {document.id for document in sample.documents})
    for name in sorted(absent):
        ids = ", ".join(document.id for document in sample.documents[:6])
        yield "citation", f"the answer cites [{name}], which is none of its documents ({ids})", f"[{name}]"


# The rules of detect-secrets that recognise a provider's own form, each with what its text cannot be without. Rules
# that only look for a word such as `password` beside a value are left out: security prose is full of them.
_RULES: dict[str, tuple[str, ...]] = {
    "AWSKeyDetector": ("A3T", "ABIA", "ACCA", "AKIA", "ASIA"), "AzureStorageKeyDetector": ("AccountKey=",),
    "BasicAuthDetector": ("://",), "DiscordBotTokenDetector": (), "GitHubTokenDetector": ("gh",),
    "GitLabTokenDetector": ("gl", "GR1348941"), "MailchimpDetector": ("-us",),
    "NpmDetector": (":_authToken=",), "OpenAIDetector": ("T3BlbkFJ",), "PrivateKeyDetector": ("PRIVATE KEY", "PuTTY"),
    "PypiTokenDetector": ("pypi-",), "SendGridDetector": ("SG.",), "SlackDetector": ("xox", "hooks.slack.com"),
    "SquareOAuthDetector": ("sq0csp",), "StripeDetector": ("k_live_",), "TelegramBotTokenDetector": (":AA",),
    "TwilioKeyDetector": ("AC", "SK"),
}  # fmt: skip
# What a match of launch.secrets.SECRET cannot be without.
_TOKEN_SIGNS = (
    "hf_", "gh", "github_pat_", "sk-", "AKIA", "wandb_v1_", "://", "=", "AIza", "GOCSPX", "npm_", "xapp-", "hvs.",
    "dop_v1_", "dapi", "dckr_pat_", "nvapi-", "ATATT3", "shp", ".atlasv1.", "ya29.", "glsa_", "gsk_", "r8_", "pplx-",
    "xai-", "lin_api_", "PMAK-", "dp.pt.", "AGE-SECRET-KEY-1", "NRAK-", "sntrys_", "figd_", "ntn_", "sq0atp-",
)  # fmt: skip
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,8000}\.[A-Za-z0-9_-]{8,2000}")
# What documentation writes where a secret would stand. The last one is jwt.io's sample, John Doe's.
_PLACEHOLDER = re.compile(
    r"(?i)example|\byour|placeholder|changeme|redacted|dummy|\bsample\b|x{4,}|\*{3,}|<[^<>]{0,60}>|\{\{?\w+\}?\}|\$\{?[a-z]{4,}\b|\[secret\]"
    r"|://[^:/\s]*:(?:pass(?:word|wd)?|pw|pwd|secret|token|key)@|eyJzdWIiOiIxMjM0NTY3ODkw"
)


@cache
def _rules() -> list[tuple[str, tuple[str, ...], list["re.Pattern[str]"]]]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes: dict[str, Any] = get_mapping_from_secret_type_to_class()
    plugins = {plugin.__name__: (kind, plugin) for kind, plugin in classes.items()}
    rules = []
    for name, literals in _RULES.items():
        kind, plugin = plugins[name]
        patterns = list(plugin.denylist)
        rules.append((kind, literals, patterns[:1] if name == "AWSKeyDetector" else patterns))
    # detect-secrets' own rule for JSON Web Tokens takes quadratic time on a long run of `eyJ`.
    rules.append(("JSON Web Token", ("eyJ",), [_JWT]))
    return [*rules, ("Private Key", ("ENCRYPTED PRIVATE KEY",), [re.compile("BEGIN ENCRYPTED PRIVATE KEY")])]


def secrets(name: str, text: str) -> Iterator[Finding]:
    """What looks like a secret in a text that is called `name`."""
    seen: list[tuple[int, int]] = []
    for kind, literals, patterns in _rules():
        if literals and not any(literal in text for literal in literals):
            continue
        for match in (match for pattern in patterns for match in pattern.finditer(text)):
            if not _overlaps(match, seen) and not _PLACEHOLDER.search(match[0]) and _varied(kind, match[0]):
                seen.append(match.span())
                yield "secret", f"{name} holds what looks like a secret: {kind}", masked(match[0])
    for match in SECRET.finditer(text) if any(sign in text for sign in _TOKEN_SIGNS) else ():
        told = not _ordinary(match[0]) and not _PLACEHOLDER.search(match[0]) and _varied("", match[0])
        if told and not _overlaps(match, seen):
            seen.append(match.span())
            yield "secret", f"{name} holds what looks like a token", masked(match[0])


# A log hides these to be safe; in prose they are often words. What a token in them has at least: characters, a digit.
_PORT = re.compile(r"[\w+.-]+://[^:/?#\s]*:\d{1,5}[/?#]")  # and an @ further on
_USER = re.compile(r"[\w+.-]+://[^:]*$")
SHORTEST_TOKEN, SHORTEST_PASSWORD = 16, 8


def _ordinary(text: str) -> bool:
    """Whether what a log hides is an ordinary word: short, without a digit, or code."""
    if _PORT.match(text):
        return True
    name, _, value = text[1:].partition("=") if text[0] in "?&;" else ("", "", text)
    if not (name or text.startswith("sk-") or _USER.match(text)):
        return False
    shortest = SHORTEST_PASSWORD if name.lower().startswith("p") else SHORTEST_TOKEN
    return len(value) < shortest or not re.search(r"\d", value) or bool(re.search(r"[%{}()#]", value))


def _overlaps(match: "re.Match[str]", seen: list[tuple[int, int]]) -> bool:
    return any(match.start() < end and start < match.end() for start, end in seen)


def _varied(kind: str, text: str) -> bool:
    """A header such as BEGIN RSA PRIVATE KEY counts as it is; a token of one repeated letter is a drawing of one."""
    return kind == "Private Key" or len(set(text)) > 6


def masked(secret: str) -> str:
    """Enough of a secret to find it, not enough to use it."""
    return f"{secret[:4]}...({len(secret)} characters)"


def _personal(name: str, text: str) -> Iterator[Finding]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            in_url = text[max(0, match.start() - 1) : match.start()] in (":", "/")  # a password or a user of a URL
            if not in_url and not _EXAMPLE.search(match[0]) and not _ROLE.match(match[0]):
                yield "personal-data", f"{name} holds an e-mail address", match[0][:2] + "...@" + match[0].split("@")[1]
    for match in _CARD.finditer(text) if _DIGITS.search(text) else ():
        digits = re.sub(r"\D", "", match[0])
        if _luhn(digits) and digits[0] in "3456" and len(set(digits)) > 3:
            yield "personal-data", f"{name} holds a card number", f"{digits[:4]}...({len(digits)} digits)"
    for match in _IBAN.finditer(text):
        groups = match[0].split(" ")  # the pattern may have taken in the word behind the number
        if any(_iban("".join(groups[:count])) for count in range(1, len(groups) + 1)):
            yield "personal-data", f"{name} holds a bank account (IBAN)", f"{match[0][:4]}..."


def _luhn(digits: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1)."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(int(digit) for digit in digits[::-2])) % 10 == 0


def _iban(text: str) -> bool:
    """The check digits of an IBAN (ISO 13616, modulo 97)."""
    return 15 <= len(text) <= 34 and int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


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
