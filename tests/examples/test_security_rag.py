"""The example's data files are what build.py makes of its sources, and keep what the data card promises."""

import importlib.util
import json
import re
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT
from training.data.rows.formats import to_sample
from training.data.rows.sources import rows_of

FOLDER = ROOT / "examples" / "security-rag"
FILES = ("train.jsonl", "eval.jsonl")


def _build() -> ModuleType:
    """build.py by its path: the folder's name has a dash, so it cannot be imported."""
    spec = importlib.util.spec_from_file_location("security_rag_build", FOLDER / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _build()


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    return {
        name: [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()] for name in FILES
    }


def shown(rows: list[dict[str, Any]]) -> set[str]:
    return {document["id"] for row in rows for document in row["documents"]}


def test_the_files_are_what_build_makes() -> None:
    assert {name: (FOLDER / name).read_text(encoding="utf-8") for name in FILES} == build.files()


def test_there_are_enough_documents_of_a_readable_length() -> None:
    lengths = {name: len(document["text"].split()) for name, document in build.documents().items()}
    assert len(lengths) >= 60
    assert {name: words for name, words in lengths.items() if not 120 <= words <= 400} == {}


def test_there_are_enough_questions_some_without_an_answer() -> None:
    questions = build.questions()
    assert len(questions) >= 400
    assert sum(not question["oracle"] for question in questions) >= 50


def test_every_question_is_in_one_row(rows: dict[str, list[dict[str, Any]]]) -> None:
    ids = [row["id"] for name in FILES for row in rows[name]]
    assert len(ids) == len(set(ids))
    assert sorted(ids) == sorted(question["id"] for question in build.questions())


def test_a_row_shows_its_oracles_and_one_distractor(rows: dict[str, list[dict[str, Any]]]) -> None:
    questions = {question["id"]: question for question in build.questions()}
    for row in rows["train.jsonl"] + rows["eval.jsonl"]:
        question, ids = questions[row["id"]], [document["id"] for document in row["documents"]]
        needed = set(question["oracle"] or [question["about"]])
        assert needed < set(ids), row["id"]
        assert len(ids) == len(set(ids)) == len(needed) + 1, row["id"]


def test_an_answer_cites_documents_of_its_row(rows: dict[str, list[dict[str, Any]]]) -> None:
    for row in rows["train.jsonl"] + rows["eval.jsonl"]:
        cited = set(re.findall(r"\[([^\]]+)\]", row["answer"]))
        assert cited, row["id"]
        assert cited <= shown([row]), row["id"]


def test_no_evaluation_document_is_seen_in_training(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert shown(rows["eval.jsonl"]) == set(build.EVALUATION)
    assert shown(rows["train.jsonl"]) == set(build.documents()) - set(build.EVALUATION)


def test_all_text_is_ascii() -> None:
    sources = [*(FOLDER / "documents").iterdir(), *(FOLDER / "questions").iterdir(), *(FOLDER / name for name in FILES)]
    assert [path.name for path in sources if not path.read_bytes().isascii()] == []


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_read(name: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    file = str(FOLDER / name)
    samples = [to_sample(row.read(), file, row.line, "auto", {}) for row in rows_of(file)]
    assert [sample.id for sample in samples] == [row["id"] for row in rows[name]]
