"""What in a text says who somebody is: e-mail addresses, card numbers, bank accounts."""

import re
from collections.abc import Iterator

from training.data.rows.problems import Finding

_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}\b")
# Names that RFC 2606 and RFC 6761 keep for examples, and mailboxes that belong to a role and to no person.
_EXAMPLE = re.compile(r"(?i)[@.](?:example|test|invalid|localhost|local)$|@(?:[\w-]+\.)*example\.(?:com|net|org)$")
_ROLE = re.compile(
    r"(?i)^(?:abuse|admin|contact|git|help|hostmaster|info|no-?reply|postmaster|security|support|webmaster)@"
)
_DIGITS = re.compile(r"\d[ -]?\d[ -]?\d[ -]?\d[ -]?\d")
_CARD = re.compile(r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")


def personal_data(name: str, text: str) -> Iterator[Finding]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if (
                not _in_url(text[max(0, match.start() - 300) : match.start()])
                and not _EXAMPLE.search(match[0])
                and not _ROLE.match(match[0])
            ):
                yield "personal-data", f"{name} holds an e-mail address", match[0][:2] + "...@" + match[0].split("@")[1]
    for match in _CARD.finditer(text) if _DIGITS.search(text) else ():
        digits = next(filter(_is_card, _beginnings(match[0])), "")
        if digits:
            yield "personal-data", f"{name} holds a card number", f"{digits[:4]}...({len(digits)} digits)"
    for match in _IBAN.finditer(text):
        groups = match[0].split(" ")  # the pattern may have taken in the word behind the number
        if any(_iban("".join(groups[:count])) for count in range(1, len(groups) + 1)):
            yield "personal-data", f"{name} holds a bank account (IBAN)", f"{match[0][:4]}..."


def _in_url(before: str) -> bool:
    """Whether what follows is a user or a password of a URL: `mailto:` is no such URL."""
    return before.endswith("/") or (before.endswith(":") and "://" in before.split()[-1])


def _beginnings(text: str) -> list[str]:
    """The digits up to each space: behind a card's number its expiry may follow."""
    groups = text.replace("-", "").split()
    return ["".join(groups[:count]) for count in range(len(groups), 0, -1)]


def _is_card(digits: str) -> bool:
    return 13 <= len(digits) <= 19 and _luhn(digits) and _of_a_network(digits) and len(set(digits)) > 3


def _of_a_network(digits: str) -> bool:
    """American Express, Visa, Mastercard (since 2017 from 2221 to 2720 as well), Discover and their like."""
    return digits[0] in "3456" or (len(digits) == 16 and 2221 <= int(digits[:4]) <= 2720)


def _luhn(digits: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1)."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(int(digit) for digit in digits[::-2])) % 10 == 0


def _iban(text: str) -> bool:
    """The check digits of an IBAN (ISO 13616, modulo 97)."""
    return 15 <= len(text) <= 34 and int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1
