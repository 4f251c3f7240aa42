"""Documents and questions in, files of rows out."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from launch.errors import DataError, HostError, Mistake, UsageError
from launch.rundir.journal import write_output
from launch.terminal import show, speaks_unicode
from training.data.build.passages import Passage, read_passages
from training.data.build.retrieval import Index
from training.data.build.rows import (
    Question,
    Recipe,
    build,
    divided,
    from_headings,
    read_questions,
    split_by_document,
)
from training.data.checks.secrets import secrets
from training.data.rows.sources import files_below


def build_files(
    documents: Path,
    questions: str | None,
    recipe: Recipe,
    out: Path | None,
    eval_out: Path | None,
    eval_share: float,
    find_oracles: bool,
    passage_words: int,
) -> Counter[str]:
    """Writes the rows to `out`, or to stdout, and those of held-out documents to `eval_out`. Returns what was done.

    Raises DataError for documents or questions that cannot be used, HostError where a file cannot be written.
    """
    _check_places(documents, questions, out, eval_out)
    passages, counts = read_passages(str(documents), passage_words)
    counts["passages"] = len(passages)
    harmless = [passage for passage in passages if not any(secrets(passage.id, passage.text))]
    harmful = {passage.id for passage in passages} - {passage.id for passage in harmless}
    counts["passages with what looks like a secret, shown only where a question names them"] = len(harmful)
    if questions is None:
        asked, done = from_headings(harmless)
    else:
        asked, done = read_questions(questions, Index(passages, harmful), find_oracles)
    counts += done
    if not asked:
        source = questions or str(documents)
        raise DataError([Mistake(source, 0, 0, "no question has an answer: there would be no rows")])
    held_out = split_by_document(passages, eval_share, recipe.seed) if eval_out is not None else set()
    sides = _sides(asked, held_out, counts)
    seen = [passage for passage in harmless if passage.document not in held_out]
    rows = {out: _rows(sides["train"], seen, recipe, counts, "to train on")}
    if eval_out is not None:
        unseen = [passage for passage in harmless if passage.document in held_out]
        rows[eval_out] = _rows(sides["eval"], unseen, recipe, counts, "to evaluate on")
    for path, made in rows.items():  # once all are there: half a result would take the place of a whole one
        _write(path, made)
    return +counts


def _sides(asked: list[Question], held_out: set[str], counts: Counter[str]) -> dict[str, list[Question]]:
    """The questions to train and to evaluate on. Raises UsageError when, with documents held out, one side is empty."""
    sides: dict[str, list[Question]] = {"train": [], "eval": [], "both": []}
    for side, question in divided(asked, held_out):
        sides[side].append(question)
    counts["questions left out, with oracles both held out and not"] += len(sides["both"])
    if held_out and not (sides["eval"] and sides["train"]):
        which, what = ("every one", "lower") if sides["eval"] else ("none", "raise")
        raise UsageError(
            f"--eval-out: {which} of the {len(asked)} questions is about the documents held out"
            f" ({', '.join(sorted(held_out)[:5])}); {what} --eval-share, choose another --seed, or leave --eval-out"
            " away"
        )
    return sides


def _check_places(documents: Path, questions: str | None, out: Path | None, eval_out: Path | None) -> None:
    if out is not None and eval_out is not None and out.resolve() == eval_out.resolve():
        raise UsageError(f"--eval-out {eval_out}: is --out too; the rows of one would overwrite the other's")
    inputs = {documents.resolve(), *([Path(questions).resolve()] if questions else [])}
    for path in (out, eval_out):
        if path is not None and path.resolve() in inputs:
            raise UsageError(f"{path}: is what is read; choose another place for the rows")
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{path}: no such folder: {path.parent}")
        if path is not None and documents.is_dir() and _is_below(path.resolve(), documents):
            raise UsageError(f"{path}: is inside {documents}, and the next build would read it as documents")


def _is_below(path: Path, documents: Path) -> bool:
    """Links in a folder of documents are followed."""
    folders = {documents.resolve(), *(file.parent.resolve() for file in files_below(documents))}
    return any(path.is_relative_to(folder) for folder in folders)


def _rows(
    questions: list[Question], passages: list[Passage], recipe: Recipe, counts: Counter[str], purpose: str
) -> list[dict[str, Any]]:
    """Distractors are of the same side as the question: what is evaluated on is never seen before."""
    built = build(questions, Index(passages), recipe)
    counts[f"rows {purpose}"] += len(built.rows)
    counts.update(built.counts)
    return built.rows


def _write(path: Path | None, rows: list[dict[str, Any]]) -> None:
    escaped = path is None and not speaks_unicode()
    lines = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows)
    if path is None:
        show(lines, end="")
        return
    try:
        write_output(path, lines)
    except OSError as error:
        raise HostError(f"{path}: cannot be written: {error.strerror}") from None
