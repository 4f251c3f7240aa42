"""From a folder and a file of questions to files of rows: the same bytes each time, that muster itself can train on."""

import json
import os
import stat
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from launch.errors import DataError, MusterError, UsageError
from tests.conftest import command, read_rows
from tests.training.data.data_files import written
from tests.training.data.encoding.chat_templates import tokenizer_of
from training.data.build.passages import read_passages
from training.data.build.rows import NO_ANSWER, Recipe, split_by_document
from training.data.build.write import build_files
from training.data.checks.examine import Settings
from training.data.checks.survey import Survey
from training.data.encoding.template import Chat, ChatFiles
from training.data.rows.citations import cited
from training.data.rows.formats import to_sample

TOPICS = [
    "gateway", "firewall", "backup", "registry", "pipeline", "signature", "alert", "triage", "evidence", "timeline",
]  # fmt: skip
NUMBERS = ["first", "second", "third"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten documents of two sections, and two questions to each."""
    (tmp_path / "docs").mkdir()
    rows = []
    for number, topic in enumerate(TOPICS):
        owner, period = f"{topic.title()} team {number * 7919 % 101}", f"{number * 31 % 17 + 2} days"
        (tmp_path / "docs" / f"{topic.title()}.md").write_text(
            f"# The {topic}\n\n## Owner\n\nThe {topic} is run by {owner}, who answer every page about it.\n\n"
            f"## Retention\n\nRecords of the {topic} are kept for {period} and then removed from every region.\n"
        )
        rows.append(
            {
                "id": f"{topic}-1",
                "question": f"Who runs the {topic}?",
                "answer": f"{owner}.",
                "oracle": f"{topic}#owner",
            }
        )
        rows.append(
            {
                "id": f"{topic}-2", "question": f"How long are records of the {topic} kept?",
                "answer": f"For {period} [{topic}#retention].", "oracle": [f"{topic}.md"],
            }
        )  # fmt: skip
    written(tmp_path / "questions.jsonl", *rows)
    return tmp_path


def made(folder: Path, questions: str | None = "questions.jsonl", **changes: Any) -> Counter[str]:
    """What was done; rows go to train.jsonl, and with `eval_out` to that file."""
    given: dict[str, Any] = {
        "recipe": Recipe(), "out": folder / "train.jsonl", "eval_out": None, "eval_share": 0.2, "find_oracles": False,
        "passage_words": 300, **changes,
    }  # fmt: skip
    return build_files(folder / "docs", str(folder / questions) if questions else None, **given)


def documents_of(rows: list[dict[str, Any]]) -> set[str]:
    return {document["id"].split("#")[0] for row in rows for document in row["documents"]}


def errors(train: Path, evaluation: Path | None = None) -> list[str]:
    told: list[str] = []
    sources: dict[Any, str] = {"train": str(train)} | ({"eval": str(evaluation)} if evaluation else {})
    survey = Survey(sources, Settings(), told=lambda problem, _: told.append(problem.message), processes=1)
    return told if survey.run().errors else []


def test_a_pipe_and_a_link_are_written_to_and_never_replaced(folder: Path) -> None:
    """As /dev/stdout, or /dev/null in a container whose user is root."""
    made(folder)
    whole = (folder / "train.jsonl").read_bytes()
    os.mkfifo(folder / "pipe")
    with subprocess.Popen(["cat", folder / "pipe"], stdout=subprocess.PIPE) as reader:
        made(folder, out=folder / "pipe")
        assert reader.communicate(timeout=60)[0] == whole
    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)
    (folder / "link.jsonl").symlink_to(folder / "real.jsonl")
    made(folder, out=folder / "link.jsonl")
    assert ((folder / "link.jsonl").is_symlink(), (folder / "real.jsonl").read_bytes()) == (True, whole)


# The same input, the same bytes


def test_rows_are_in_the_order_of_their_questions(folder: Path) -> None:
    counts = made(folder, recipe=Recipe(oracle_share=1))
    rows = read_rows(folder / "train.jsonl")
    assert [row["id"] for row in rows] == [f"{topic}-{number}" for topic in TOPICS for number in (1, 2)]
    assert [row["oracle"] for row in rows[:2]] == [["gateway#owner"], ["gateway#retention"]]
    assert {len(row["documents"]) for row in rows} == {5}
    assert counts == {
        "documents": 10,
        "passages": 20,
        "oracles given as a document, of which the best passage was taken": 10,
        "rows to train on": 20,
        "rows with their oracles": 20,
        "answers to which citations were added": 10,
    }


def test_two_runs_write_the_same_bytes(folder: Path) -> None:
    made(folder, eval_out=folder / "eval.jsonl")
    first = [(folder / name).read_bytes() for name in ("train.jsonl", "eval.jsonl")]
    made(folder, eval_out=folder / "eval.jsonl")
    assert [(folder / name).read_bytes() for name in ("train.jsonl", "eval.jsonl")] == first


def test_another_process_with_other_hashes_writes_the_same_bytes(folder: Path) -> None:
    made(folder, eval_out=folder / "eval.jsonl")
    seed = str(1 + sys.flags.hash_randomization + hash("muster") % 1000)
    done = command(
        "-m", "launch", "data", "build", "docs", "--questions", "questions.jsonl", "--out", "other.jsonl",
        "--eval-out", "other-eval.jsonl", "--eval-share", "0.2", cwd=folder, PYTHONHASHSEED=seed,
    )  # fmt: skip
    assert (done.code, done.out) == (0, "")
    assert (folder / "other.jsonl").read_bytes() == (folder / "train.jsonl").read_bytes()
    assert (folder / "other-eval.jsonl").read_bytes() == (folder / "eval.jsonl").read_bytes()


def test_another_seed_writes_others(folder: Path) -> None:
    made(folder)
    first = (folder / "train.jsonl").read_bytes()
    made(folder, recipe=Recipe(seed=43))
    assert (folder / "train.jsonl").read_bytes() != first


def test_one_more_question_changes_no_other_row(folder: Path) -> None:
    made(folder)
    before = (folder / "train.jsonl").read_text().splitlines()
    rows = read_rows(folder / "questions.jsonl")
    written(folder / "more.jsonl", {"id": "new", "question": "Who?", "answer": "Me.", "oracle": "alert"}, *rows)
    made(folder, "more.jsonl")
    assert (folder / "train.jsonl").read_text().splitlines()[1:] == before


def test_text_is_written_as_it_is(folder: Path) -> None:
    written(folder / "q.jsonl", {"question": "Größe, 日本語?", "answer": "Nein.", "oracle": []})
    made(folder, "q.jsonl")
    assert '"question": "Größe, 日本語?"' in (folder / "train.jsonl").read_text(encoding="utf-8")


def test_without_a_file_rows_go_to_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(folder)
    made(folder, out=None)
    assert capsys.readouterr().out == (folder / "train.jsonl").read_text()


def test_a_passage_with_a_secret_is_shown_where_a_question_names_it_and_nowhere_else(folder: Path) -> None:
    secret = "AKIA" + "Q3EGT7ZK5MW2PX4N"
    path = folder / "docs" / "Gateway.md"
    path.write_text(
        path.read_text() + f"\n## Key\n\nThe gateway signs what it sends with the key {secret} of its own.\n"
    )
    row = {"id": "key", "question": "What does the gateway sign with?", "answer": "A key.", "oracle": "gateway#key"}
    written(folder / "more.jsonl", row, *read_rows(folder / "questions.jsonl"))
    counts = made(folder, "more.jsonl", recipe=Recipe(oracle_share=1, distractors=9))
    assert counts["passages with what looks like a secret, shown only where a question names them"] == 1
    rows = read_rows(folder / "train.jsonl")
    shown = [row["id"] for row in rows if any(secret in document["text"] for document in row["documents"])]
    assert shown == ["key"]


# Rows to evaluate on


def test_no_document_is_in_both_files(folder: Path) -> None:
    counts = made(folder, eval_out=folder / "eval.jsonl", recipe=Recipe(oracle_share=1))
    train, evaluation = read_rows(folder / "train.jsonl"), read_rows(folder / "eval.jsonl")
    assert (len(train), len(evaluation)) == (16, 4)
    assert (counts["rows to train on"], counts["rows to evaluate on"]) == (16, 4)
    held_out = documents_of(evaluation)
    assert len(held_out) == 2
    assert documents_of(train) == set(TOPICS) - held_out
    assert {name.split("#")[0] for row in evaluation for name in row["oracle"]} == held_out


def test_questions_with_oracles_on_both_sides_are_left_out_and_counted(folder: Path) -> None:
    rows = read_rows(folder / "questions.jsonl")
    every = {"id": "every", "question": "Who runs them?", "answer": "Teams.", "oracle": TOPICS}
    none = {"id": "none", "question": "Why?", "answer": "Nobody says.", "oracle": []}
    written(folder / "more.jsonl", every, none, *rows)
    counts = made(folder, "more.jsonl", eval_out=folder / "eval.jsonl")
    names = {name: [row["id"] for row in read_rows(folder / name)] for name in ("train.jsonl", "eval.jsonl")}
    assert "every" not in names["train.jsonl"] + names["eval.jsonl"]
    assert names["train.jsonl"][0] == "none"
    assert counts["questions left out, with oracles both held out and not"] == 1
    made(folder, "more.jsonl")
    assert [row["id"] for row in read_rows(folder / "train.jsonl")][:2] == ["every", "none"]


def test_a_single_document_cannot_be_held_out(folder: Path) -> None:
    """Nothing would be left to train on, and an empty file says so only when a run starts."""
    for topic in TOPICS[1:]:
        (folder / "docs" / f"{topic.title()}.md").unlink()
    with pytest.raises(MusterError):
        made(folder, None, eval_out=folder / "eval.jsonl")


# What muster makes of them


@pytest.mark.parametrize("questions", ["questions.jsonl", None])
@pytest.mark.parametrize("share", [1, 0.5])
def test_rows_have_no_errors(questions: str | None, share: float, folder: Path) -> None:
    made(folder, questions, eval_out=folder / "eval.jsonl", recipe=Recipe(oracle_share=share))
    assert errors(folder / "train.jsonl", folder / "eval.jsonl") == []


def test_rows_can_be_trained_on_with_their_oracles_known(folder: Path) -> None:
    made(folder, recipe=Recipe(oracle_share=0.5))
    chat = Chat(ChatFiles.of(tokenizer_of("chatml")))
    kinds = set()
    for number, row in enumerate(read_rows(folder / "train.jsonl"), start=1):
        sample = to_sample(row, "train.jsonl", number, "auto", {})
        assert [document.oracle for document in sample.documents] == [
            d["id"] in row["oracle"] for d in row["documents"]
        ]
        assert chat.encode(sample).trainable > 5
        names = {document.id for document in sample.documents}
        assert cited(sample.answer, names) == (set(row["oracle"]), set())
        kinds.add((sample.answer == NO_ANSWER, len(row["oracle"])))
    assert kinds == {(False, 1), (True, 0)}


@pytest.mark.parametrize("more", [{"recipe": Recipe(distractors=0)}, {"recipe": Recipe(oracle_share=0, distractors=0)}])
def test_rows_without_distractors_have_no_errors(more: dict[str, Any], folder: Path) -> None:
    made(folder, **more)
    assert errors(folder / "train.jsonl") == []


def test_an_answer_that_cites_what_its_row_does_not_hold_is_not_written(folder: Path) -> None:
    """`muster data validate` would refuse the row: the mistake is the question's, so it is told there."""
    row = {"id": "a", "question": "Who runs the alert?", "answer": "They [gateway#ownr].", "oracle": "alert#owner"}
    written(folder / "q.jsonl", row)
    with suppress(DataError):
        made(folder, "q.jsonl", recipe=Recipe(oracle_share=1))
    assert not (folder / "train.jsonl").exists() or errors(folder / "train.jsonl") == []


# Without questions


def test_headings_ask_where_there_are_no_questions(folder: Path) -> None:
    counts = made(folder, None, recipe=Recipe(oracle_share=1, distractors=2))
    rows = read_rows(folder / "train.jsonl")
    assert [row["id"] for row in rows[:3]] == ["alert#owner", "alert#retention", "backup#owner"]
    assert rows[0]["question"] == "What does The alert say about Owner?"
    assert rows[0]["answer"] == ("The alert is run by Alert team 44, who answer every page about it. [alert#owner]")
    assert rows[0]["oracle"] == ["alert#owner"]
    assert counts["rows to train on"] == len(rows) == 20
    assert {len(row["documents"]) for row in rows} == {3}


def test_documents_in_which_nothing_answers_are_an_error(folder: Path) -> None:
    """No file of no rows."""
    for path in (folder / "docs").iterdir():
        path.write_text(f"- {path.stem}\n")
    with pytest.raises(MusterError):
        made(folder, None)


def test_documents_without_a_word_to_search_for_are_no_crash(folder: Path) -> None:
    for path in (folder / "docs").iterdir():
        path.unlink()
    (folder / "docs" / "0.txt").write_text("1 2 3 4 5 6 7 8 9")
    written(folder / "q.jsonl", {"question": "What is it?", "answer": "So.", "oracle": "0"})
    made(folder, "q.jsonl")
    assert [row["question"] for row in read_rows(folder / "train.jsonl")] == ["What is it?"]


# Files


@pytest.mark.parametrize("name", ["out", "eval_out"])
def test_a_place_that_cannot_be_written_to(name: str, folder: Path) -> None:
    path = folder / "none" / "rows.jsonl"
    with pytest.raises(UsageError) as caught:
        made(folder, **{name: path})
    assert str(caught.value) == f"{path}: no such folder: {path.parent}"


def test_each_line_is_one_row(folder: Path) -> None:
    made(folder)
    text = (folder / "train.jsonl").read_text()
    assert text.endswith("}\n")
    assert [json.loads(line)["id"] for line in text.split("\n")[:-1]] == [
        row["id"] for row in read_rows(folder / "train.jsonl")
    ]


@pytest.mark.parametrize("name", ["questions.jsonl", "docs/rows.jsonl", "more/rows.jsonl"])
def test_what_is_read_is_never_written_over(name: str, folder: Path) -> None:
    before = (folder / "questions.jsonl").read_text()
    (folder / "more").mkdir()
    written(folder / "more" / "more.jsonl", {"text": "More words."})
    (folder / "docs" / "more").symlink_to(folder / "more")
    with pytest.raises(UsageError):
        build_files(folder / "docs", str(folder / "questions.jsonl"), Recipe(), folder / name, None, 0.1, False, 300)
    assert (folder / "questions.jsonl").read_text() == before


def test_held_out_documents_without_a_question_are_told_before_anything_is_written(folder: Path) -> None:
    (first, *_) = read_rows(folder / "questions.jsonl")
    written(folder / "one.jsonl", first)
    about = first["oracle"] if isinstance(first["oracle"], list) else [first["oracle"]]
    seeds = [seed for seed in range(20) if not any(name.startswith(tuple(held(folder, seed))) for name in about)]
    with pytest.raises(UsageError, match="none of the 1 questions is about the documents held out"):
        made(folder, "one.jsonl", eval_out=folder / "eval.jsonl", recipe=Recipe(seed=seeds[0]))
    assert not (folder / "train.jsonl").exists()
    assert not (folder / "eval.jsonl").exists()


def held(folder: Path, seed: int) -> set[str]:
    return split_by_document(read_passages(str(folder / "docs"), 300)[0], 0.2, seed)
