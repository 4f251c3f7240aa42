"""Which documents an answer cites, and which of them are not there."""

import re
from collections.abc import Iterator
from functools import lru_cache

# One bracket or several, what stands right before them, and whether the last is a link's words: [words](place).
_CITED = re.compile(r"([\w)\[]?)((?:\[[^\[\]\n]{1,200}\])+)(\(?)")
_CODE = re.compile(r"```.*?(?:```|$)|`[^`\n]{1,200}`", re.DOTALL)
# What stands for a document's place where it has an id: `[Document 7]`.
_PLACE = re.compile(r"(?i)(?:doc(?:ument)?|source|passage|context|ref(?:erence)?)s?\.?\s?#?(\d{1,3})")
# Numbers between a sentence's last word and its end, or right behind its end.
_NUMBERS = re.compile(
    r"\b(?P<word>\w{1,30})(?:[.!?] ?(?=(?P<behind>\[))| )(?P<numbers>(?:\[[1-9]\d?(?:, ?[1-9]\d?)*\])+)"
    r"(?:(?(behind)|[.!?]))(?=\s|$)"
)
# After these a number in brackets is a value: `it returns [3].`
_SHOWS = {"is", "are", "be", "equals", "returns", "gives", "prints", "yields", "to", "of", "and", "or", "index", "like"}
# A list of the answer's own notes, which is what its numbers stand for.
_NOTES = re.compile(r"(?m)^[ \t]{0,8}(?:[-*] )?\[\d{1,2}\]|\[\d{1,2}\]:? {1,4}<?https?://")


def cited(answer: str, documents: set[str]) -> tuple[set[str], set[str]]:
    """(cited ids that are there, cited ids that are not).

    What stands in brackets counts as a citation when it is a document's id, has the form of one, or goes on behind one
    (`[T1059.001]`). This row's ids decide the form: `[sic]`, or `[0]` in code, is no citation where ids are words with
    a dash. A number is one there only at a sentence's end, in an answer that cites nothing else.
    """
    there = {name for inside, _ in _bracketed(answer) for name in _names(inside, documents) if name in documents}
    prose = _CODE.sub(" ", answer)
    absent = {
        name
        for inside, attached in _bracketed(prose)
        for name in _names(inside, documents)
        if name not in documents and _cites(name, attached, documents)
    }
    if documents and not there and not any(known.isdigit() for known in documents):
        absent |= _numbers(prose)
    return there, absent


def without_citations(answer: str, names: set[str]) -> str:
    """An answer without the brackets that hold only these names, nor the space before them."""

    def kept(match: re.Match[str]) -> str:
        inside = _names(match[1], names)
        return "" if inside and set(inside) <= names else match[0]

    return re.sub(r"\s?\[([^\[\]\n]{1,200})\]", kept, answer)


def _cites(name: str, attached: bool, documents: set[str]) -> bool:
    form = _form(name)
    if form in {_form(known) for known in documents}:
        # Attached to a word, a number is an index (argv[2]).
        return form == "a-a" or not (attached or (form == "0" and _is_no_number_of(name, documents)))
    if attached:
        return False
    place = _PLACE.fullmatch(name)
    if place:
        return not any(re.search(rf"(?<!\d)0*{int(place[1])}$", known) for known in documents)
    return any(_goes_on(name, known) for known in documents)


def _is_no_number_of(name: str, documents: set[str]) -> bool:
    """Whether it is a year, or has more digits than any document's number can have."""
    longest = max(map(len, documents))
    return len(name) > max(3, longest + 1) or (longest < 4 and 1900 <= int(name) <= 2099)


def _goes_on(name: str, known: str) -> bool:
    """Behind an id of letters and digits any part, behind one of letters alone what can only be a passage of it."""
    marks = "-_.:#/" if re.search(r"\d", known) and re.search(r"[^\W\d_]", known) else "#"
    rest = name[len(known) :]
    return name.startswith(known) and len(rest) > 1 and rest[0] in marks and not re.search(r"\s", rest)


def _numbers(prose: str) -> set[str]:
    if _NOTES.search(prose):
        return set()
    found = [match for match in _NUMBERS.finditer(prose) if match["word"].casefold() not in _SHOWS]
    return {number for match in found for number in re.findall(r"\d+", match["numbers"])}


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
