"""Which documents an answer cites, and which of them are not there."""

import re
from collections.abc import Iterator
from functools import lru_cache

# One bracket or several, what stands right before them, and whether the last is a link's words: [words](place).
_CITED = re.compile(r"([\w)\[]?)((?:\[[^\[\]\n]{1,200}\])+)(\(?)")
_CODE = re.compile(r"```.*?(?:```|$)|`[^`\n]{1,200}`", re.DOTALL)


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
