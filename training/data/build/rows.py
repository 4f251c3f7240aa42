"""Questions and passages -> rows as RAFT makes them (Zhang et al. 2024): oracle passages among hard distractors.

With probability 1 - oracle_share the oracles are held back, and the answer then says that the documents do not contain
it. Everything is drawn from the seed and the question's own id, so the same input gives the same bytes, and one more
question changes no other row.
"""

import difflib
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from launch.errors import DataError, Mistake
from training.data.build.passages import Passage, slug
from training.data.build.retrieval import Index
from training.data.checks import cited
from training.data.formats import text_of
from training.data.problems import RowError
from training.data.sources import files_of, rows_of

NO_ANSWER = "The documents do not contain the answer to this question."
ANSWER_WORDS = 120
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Question:
    """`oracles` are passages that answer it; none for one that cannot be answered."""

    id: str
    question: str
    answer: str
    oracles: tuple[Passage, ...]


@dataclass(frozen=True)
class Recipe:
    """How rows are made. `oracle_share` is RAFT's P."""

    distractors: int = 4
    oracle_share: float = 0.8
    seed: int = 42


@dataclass
class Built:
    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def read_questions(path: str, index: Index, find_oracles: bool) -> tuple[list[Question], Counter[str]]:
    """Rows of {id, question, answer, oracle}. An oracle is a passage's id, or a document's: then its best passage.

    Raises DataError that names every row which cannot be used.
    """
    questions: list[Question] = []
    mistakes: list[Mistake] = []
    counts: Counter[str] = Counter()
    for file in files_of(path):
        for row in rows_of(file):
            try:
                questions.append(_question(row.read(), f"q{row.line}", index, find_oracles, counts))
            except RowError as error:
                mistakes.append(Mistake(file, row.line, error.column, str(error)))
    repeated = [name for name, count in Counter(question.id for question in questions).items() if count > 1]
    mistakes += [
        Mistake(path, 0, 0, f"the id {name!r} is there more than once; ids must be unique") for name in repeated
    ]
    if mistakes:
        raise DataError(mistakes[:SHOWN], hidden=max(0, len(mistakes) - SHOWN))
    if not questions:
        raise DataError([Mistake(path, 0, 0, "has no questions; expected rows of {id, question, answer, oracle}")])
    return questions, counts


def _question(row: Any, name: str, index: Index, find_oracles: bool, counts: Counter[str]) -> Question:
    if not isinstance(row, dict):
        raise RowError("field", "is no object; expected {id, question, answer, oracle}")
    question, answer = text_of(row, "question").strip(), text_of(row, "answer").strip()
    given = row.get("oracle")
    if given is None and not find_oracles:
        raise RowError(
            "field",
            "`oracle` is missing: name the passages or documents that answer it, [] where none does, or pass"
            " --find-oracles to take what a search for question and answer finds",
        )
    if given is None:
        counts["questions whose oracle is the best match for question and answer"] += 1
        oracles = [index.ranked(f"{question} {answer}")[0]]
    else:
        names = given if isinstance(given, list) else [given]
        oracles = [_oracle(str(name), f"{question} {answer}", index, counts) for name in names]
    unique = tuple({oracle.id: oracle for oracle in oracles}.values())
    return Question(str(row.get("id") or name), question, answer, unique)


def _oracle(name: str, query: str, index: Index, counts: Counter[str]) -> Passage:
    by_id = {passage.id: passage for passage in index.passages}
    if name in by_id:
        return by_id[name]
    document = slug(re.sub(r"\.(?:md|markdown|txt|html?)$", "", name))
    own = [passage for passage in index.passages if passage.document == document]
    if not own:
        documents = {passage.document for passage in index.passages}
        near = difflib.get_close_matches(name, [*by_id, *documents], n=1, cutoff=0.4)
        raise RowError(
            "field", f"`oracle` names {name!r}: no passage and no document{f'; near: {near[0]}' if near else ''}"
        )
    counts["oracles given as a document, of which the best passage was taken"] += len(own) > 1
    return next(passage for passage in index.ranked(query) if passage.document == document)


def from_headings(passages: Sequence[Passage]) -> tuple[list[Question], Counter[str]]:
    """Retrieval-style questions without anybody to ask them: a heading asks, the passage below it answers."""
    questions, counts = [], Counter[str]()
    for passage in passages:
        answer = _opening(passage.text)
        if not answer:
            counts["passages without a sentence to answer with"] += 1
            continue
        plain = passage.heading and passage.heading.casefold() != passage.title.casefold()
        about = f"about {passage.heading}" if plain else "in general"
        questions.append(Question(passage.id, f"What does {passage.title} say {about}?", answer, (passage,)))
    return questions, counts


def _opening(text: str) -> str:
    """The first whole sentences of a passage's prose, without code, tables and pictures."""
    prose = re.sub(r"(?s)```.*?```|~~~.*?~~~|!\[[^\]]*\]\([^)]*\)|<[^>]+>", " ", text)
    lines = [line for line in prose.splitlines() if not line.lstrip().startswith("|")]
    prose = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", "\n".join(lines))  # links keep their words
    prose = re.sub(r"(?m)^\s*(?:[-*+>]|\d+[.)])\s+", "", prose)
    sentences, count = [], 0
    for sentence in re.split(r"(?<=[.!?])\s+", " ".join(prose.split())):
        count += len(sentence.split())
        if count > ANSWER_WORDS:
            break
        sentences.append(sentence)
    answer = " ".join(sentences).strip()
    return answer if len(answer.split()) >= 5 and answer[-1] in ".!?" else ""


def build(questions: Sequence[Question], index: Index, recipe: Recipe) -> Built:
    """A row for each question, in their order."""
    built = Built()
    for question in questions:
        built.rows.append(_row(question, index, recipe, built.counts))
    return built


def _row(question: Question, index: Index, recipe: Recipe, counts: Counter[str]) -> dict[str, Any]:
    draw = random.Random(f"{recipe.seed}:{question.id}")  # noqa: S311 - a seeded choice, no secret
    held_back = bool(question.oracles) and draw.random() >= recipe.oracle_share
    distractors = index.distractors(question.question, question.oracles, recipe.distractors)
    if len(distractors) < recipe.distractors:
        counts["rows with fewer distractors than asked for"] += 1
    shown = [*([] if held_back else question.oracles), *distractors]
    draw.shuffle(shown)
    oracles = [] if held_back else [oracle.id for oracle in question.oracles]
    counts["rows with their oracles" if oracles else "rows without an oracle"] += 1
    answer = NO_ANSWER if held_back else _with_citations(question, counts)
    documents = [{"id": p.id, "title": _title(p), "text": p.text} for p in shown]
    return {
        "id": question.id,
        "question": question.question,
        "documents": documents,
        "oracle": oracles,
        "answer": answer,
    }


def _with_citations(question: Question, counts: Counter[str]) -> str:
    names = [oracle.id for oracle in question.oracles]
    if not names or cited(question.answer, set(names))[0]:
        return question.answer
    counts["answers to which citations were added"] += 1
    return f"{question.answer} {''.join(f'[{name}]' for name in names)}"


def _title(passage: Passage) -> str:
    plain = passage.heading and passage.heading != passage.title
    return f"{passage.title}: {passage.heading}" if plain else passage.title


def split_by_document(passages: Sequence[Passage], share: float, seed: int) -> set[str]:
    """Documents to evaluate on: a seeded `share` of them, at least one. Nothing of them is trained on."""
    documents = sorted({passage.document for passage in passages})
    random.Random(f"{seed}:split").shuffle(documents)  # noqa: S311
    return set(documents[: max(1, round(share * len(documents)))])


def divided(questions: Sequence[Question], held_out: set[str]) -> Iterator[tuple[str, Question]]:
    """(train, eval or both, question). `both` has oracles on either side, so it can be used on neither."""
    for question in questions:
        sides = {oracle.document in held_out for oracle in question.oracles}
        if len(sides) == 2:
            yield "both", question
        elif sides:
            yield ("eval" if sides.pop() else "train"), question
        else:
            yield "train", question
