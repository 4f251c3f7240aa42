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
from pathlib import Path
from typing import Any

from launch.errors import DataError, Mistake, UsageError
from training.data.build.passages import ENDINGS, Passage, slug
from training.data.build.prose import opening
from training.data.build.retrieval import Index
from training.data.rows.citations import cited
from training.data.rows.fields import id_of, oracle_names, parsed, text_of
from training.data.rows.problems import RowError
from training.data.rows.sources import files_of, rows_of

NO_ANSWER = "The documents do not contain the answer to this question."
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
    places: dict[str, tuple[str, int]] = {}
    counts: Counter[str] = Counter()
    files = files_of(path)
    for file in files:
        before = f"{Path(file).stem}-" if len(files) > 1 else ""
        for row in rows_of(file):
            try:
                question = _question(row.read(), f"{before}q{row.line}", index, find_oracles, counts)
                if question.id in places:
                    first, line = places[question.id]
                    where = f"line {line}" if first == file else f"{first}:{line}"
                    raise RowError(
                        "duplicate-id", f"its id {question.id!r} is also that of {where}; ids must be unique"
                    )
                places[question.id] = file, row.line
                questions.append(question)
            except RowError as error:
                mistakes.append(Mistake(file, row.line, error.column, str(error)))
    if mistakes:
        raise DataError(mistakes[:SHOWN], hidden=max(0, len(mistakes) - SHOWN))
    if not questions:
        raise DataError([Mistake(path, 0, 0, "has no questions; expected rows of {id, question, answer, oracle}")])
    return questions, counts


def _question(row: Any, name: str, index: Index, find_oracles: bool, counts: Counter[str]) -> Question:
    if not isinstance(row, dict):
        raise RowError("field", "is no object; expected {id, question, answer, oracle}")
    question, answer = text_of(row, "question").strip(), text_of(row, "answer").strip()
    name = id_of(row) or name
    given = parsed(row, "oracle")
    if given is None and not find_oracles:
        raise RowError(
            "field",
            "`oracle` is missing: name the passages or documents that answer it, [] where none does, or pass"
            " --find-oracles to take what a search for question and answer finds",
        )
    if given is None:
        counts["questions whose oracle is the best match for question and answer"] += 1
        found = index.best(f"{question} {answer}")
        if found is None:
            raise RowError(
                "field",
                "`oracle` is missing, and a search for question and answer finds no passage: name the passages that"
                " answer it, or [] where none does",
            )
        oracles = [found]
    else:
        oracles = [_oracle(own, f"{question} {answer}", index, counts) for own in oracle_names(given)]
    unique = tuple({oracle.id: oracle for oracle in oracles}.values())
    # Where nothing answers no passage can be cited, and any may be shown beside the question.
    there, absent = cited(answer, {passage.id for passage in unique or index.passages})
    wrong = absent if unique else there | absent
    if wrong:
        known = ", ".join(oracle.id for oracle in unique) or "none"
        raise RowError("citation", f"the answer cites [{min(wrong)}], which is none of its oracles ({known})")
    return Question(name, question, answer, unique)


def _oracle(name: str, query: str, index: Index, counts: Counter[str]) -> Passage:
    by_id = {own: passage for passage in index.passages for own in (passage.id, *passage.also)}
    if name in by_id:
        return by_id[name]
    documents = {own.partition("#")[0] for own in by_id}
    stem = name.rpartition(".")[0] if name.lower().endswith(ENDINGS) else name
    document = next((slug(form) for form in (name, stem) if slug(form) in documents), None)
    if document is None:
        near = difflib.get_close_matches(name, [*by_id, *sorted(documents)], n=1, cutoff=0.4)
        hint = f"; near: {near[0]}" if near else ""
        raise RowError("field", f"`oracle` names {name!r}: no passage and no document{hint}")
    own = {passage.id for other, passage in by_id.items() if other.partition("#")[0] == document}
    counts["oracles given as a document, of which the best passage was taken"] += len(own) > 1
    return next(passage for passage in index.ranked(query) if passage.id in own)


def from_headings(passages: Sequence[Passage]) -> tuple[list[Question], Counter[str]]:
    """Retrieval-style questions without anybody to ask them: a heading asks, the passage below it answers.

    Of the parts of a long section the first one is asked for, and no question is asked twice.
    """
    questions, counts = [], Counter[str]()
    asked: set[str] = set()
    for passage in passages:
        answer = opening(passage.markdown)
        question = _of_heading(passage)
        if not answer:
            counts["passages without a sentence to answer with"] += 1
        elif question in asked:
            counts["passages whose question another one answers"] += 1
        else:
            asked.add(question)
            questions.append(Question(passage.id, question, answer, (passage,)))
    return questions, counts


def _of_heading(passage: Passage) -> str:
    heading = re.sub(r"^[\d.)]+\s+", "", passage.heading)  # a number says nothing in a question
    place = f"{passage.title} ({passage.parents})" if passage.parents else passage.title
    if heading.endswith(("?", "？")):
        return f"{heading} ({place})"
    if not heading or heading.casefold() == passage.title.casefold():
        return f"What does {place} say in general?"
    return f"What does {place} say about {heading}?"


def build(questions: Sequence[Question], index: Index, recipe: Recipe) -> Built:
    """A row for each question, in their order."""
    built = Built()
    for question in questions:
        distractors = index.distractors(question.question, question.oracles, recipe.distractors)
        if question.oracles or distractors:
            built.rows.append(_row(question, distractors, recipe, built.counts))
        else:
            built.counts["questions left out, with no passage to show"] += 1
    return built


def _row(question: Question, distractors: list[Passage], recipe: Recipe, counts: Counter[str]) -> dict[str, Any]:
    draw = random.Random(f"{recipe.seed}:{question.id}")  # noqa: S311 - a seeded choice, no secret
    # Without a distractor there would be nothing to say "not in these documents" about.
    held_back = bool(question.oracles) and bool(distractors) and draw.random() >= recipe.oracle_share
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
    """Documents to evaluate on: a seeded `share` of them, at least one. Nothing of them is trained on.

    Raises UsageError where that would leave nothing to train on.
    """
    documents = sorted({passage.document for passage in passages})
    if len(documents) < 2:
        raise UsageError("--eval-out: one document cannot be held out and trained on; leave it away, or add documents")
    random.Random(f"{seed}:split").shuffle(documents)  # noqa: S311
    return set(documents[: min(len(documents) - 1, max(1, round(share * len(documents))))])


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
