"""What looks like a secret in a text: providers' tokens, private keys, passwords in URLs."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from launch.secrets import SECRET
from training.data.problems import Finding

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
