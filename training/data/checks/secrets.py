"""What looks like a secret in a text: providers' tokens, private keys, passwords in URLs."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from typing import Any

from launch.secrets import SECRET
from training.data.rows.problems import Finding

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
    "ecret", "ECRET",
)  # fmt: skip
# Those of detect-secrets for these take a time that grows with the square of a long run of what begins one.
_LINEAR = {
    "NpmDetector": re.compile(
        r"//[\w.-]{1,100}(?::\d{1,5})?(?:/[\w.@%-]{1,80}){0,6}/:_authToken=\s{0,9}(?:npm_[\w-]{1,200}|[A-Fa-f0-9-]{36})"
    ),
    "OpenAIDetector": re.compile(r"sk-[A-Za-z0-9_-]{0,180}[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}"),
}
_JWT = re.compile(r"(?<![\w-])eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,8000}\.[A-Za-z0-9_-]{8,2000}")
# What documentation writes where a secret would stand. The last one is jwt.io's sample, John Doe's.
_PLACEHOLDER = re.compile(
    r"(?i)example|\byour|placeholder|changeme|redacted|dummy|\bsample\b|x{4,}|\*{3,}|<[^<>]{0,60}>|\{\{?\w+\}?\}|\$\{?[a-z]{4,}\b"
    r"|\[secret\]|eyJzdWIiOiIxMjM0NTY3ODkw"
)
# A password may hold any of these by chance, so there one of them is all of it: a variable, a gap, or words for one.
_PASSWORD = re.compile(r"(?:[\w+.-]{0,31}://(?:[^:@/\s]*:)?|[?&;]p\w*=)([^@]*)")
_NO_PASSWORD = re.compile(
    r"(?i)[$#%]{0,2}\{{1,2}[^{}]*\}{1,2}|\${1,2}\w+|\$\([^()]*\)|%\w+%?|<[^<>]*>|\[[^\[\]]*\]|(?:[a-z_]{2,11}[_-])?x{3,}"
    r"|(?:[-_.*]|x{3,}|your|my|user|db|api|access|examples?|placeholder|change|me|redacted|dummy|sample|goes|here"
    r"|pass(?:word|wd)?|pwd?|secret|token|key)++"
)


@cache
def _rules() -> list[tuple[str, tuple[str, ...], list["re.Pattern[str]"]]]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes: dict[str, Any] = get_mapping_from_secret_type_to_class()
    plugins = {plugin.__name__: (kind, plugin) for kind, plugin in classes.items()}
    rules = []
    for name, literals in _RULES.items():
        kind, plugin = plugins[name]
        patterns = [_LINEAR[name]] if name in _LINEAR else list(plugin.denylist)
        rules.append((kind, literals, patterns[:1] if name == "AWSKeyDetector" else patterns))
    rules.append(("JSON Web Token", ("eyJ",), [_JWT]))
    return [*rules, ("Private Key", ("ENCRYPTED PRIVATE KEY",), [re.compile("BEGIN ENCRYPTED PRIVATE KEY")])]


def secrets(name: str, text: str) -> Iterator[Finding]:
    """What looks like a secret in a text that is called `name`."""
    seen: list[tuple[int, int]] = []
    for kind, literals, patterns in _rules():
        if literals and not any(literal in text for literal in literals):
            continue
        for match in (match for pattern in patterns for match in pattern.finditer(text)):
            if not _is_placeholder(match[0]) and _varied(kind, match[0]) and _new(match, seen):
                yield "secret", f"{name} holds what looks like a secret: {kind}", masked(match[0])
    for match in SECRET.finditer(text) if any(sign in text for sign in _TOKEN_SIGNS) else ():
        found = match["aws"] or match[0]
        if not _ordinary(found) and not _is_placeholder(found) and _varied("", found) and _new(match, seen):
            yield "secret", f"{name} holds what looks like a token", masked(found)


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


def _is_placeholder(found: str) -> bool:
    password = _PASSWORD.match(found)
    return bool(_NO_PASSWORD.fullmatch(password[1].rstrip("\"'`.,;")) if password else _PLACEHOLDER.search(found))


def _new(match: "re.Match[str]", seen: list[tuple[int, int]]) -> bool:
    """Whether a match overlaps none of those seen, which stay in their order: a row may hold thousands."""
    place = bisect_left(seen, match.span())
    if (place and seen[place - 1][1] > match.start()) or (place < len(seen) and seen[place][0] < match.end()):
        return False
    seen.insert(place, match.span())
    return True


def _varied(kind: str, text: str) -> bool:
    """A header such as BEGIN RSA PRIVATE KEY counts as it is; a token of one repeated letter is a drawing of one."""
    return kind == "Private Key" or len(set(text)) > 6


def masked(secret: str) -> str:
    """Enough of a secret to find it, not enough to use it."""
    return f"{secret[:4]}...({len(secret)} characters)"
