"""Questions and passages -> rows: whose oracle is what, what is held back, and that nothing else changes a row."""

import json
import math
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from launch.errors import DataError, ExitCode
from tests.training.data.data_files import written
from training.data.build.passages import Passage
from training.data.build.prose import WORDS as ANSWER_WORDS
from training.data.build.retrieval import Index
from training.data.build.rows import (
    NO_ANSWER,
    SHOWN,
    Built,
    Question,
    Recipe,
    build,
    divided,
    from_headings,
    read_questions,
    split_by_document,
)
from training.data.rows.citations import cited


def passage(name: str, text: str, title: str = "Manual", heading: str = "") -> Passage:
    return Passage(name, name.split("#")[0], title, heading, text)


TLS = passage("gateway#tls", "The gateway ends TLS connections and checks every certificate.", "Gateway", "TLS")
ROLES = passage("gateway#roles", "An admin may rotate the certificate each quarter.", "Gateway", "Roles")
PORTS = passage("ports#overview", "HTTPS listens on port 443 and SSH listens on port 22.", "Ports", "Ports")
BACKUP = passage("backup-plan#overview", "Nightly jobs copy each database to another region.", "Backup plan")
INDEX = Index([TLS, ROLES, PORTS, BACKUP])
ROW = {"id": "a", "question": "Who may rotate the certificate?", "answer": "An admin may."}
ALWAYS = Recipe(distractors=2, oracle_share=1)
Row = dict[str, Any]


def read(folder: Path, *rows: Any, find_oracles: bool = False) -> tuple[list[Question], Counter[str]]:
    return read_questions(str(written(folder / "questions.jsonl", *rows)), INDEX, find_oracles)


def refused(folder: Path, *rows: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(folder, *rows)
    assert caught.value.exit_code == ExitCode.DATA
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def oracles(folder: Path, oracle: Any) -> list[str]:
    (question,), _ = read(folder, {**ROW, "oracle": oracle})
    return [found.id for found in question.oracles]


def built(*questions: Question, index: Index = INDEX, **recipe: Any) -> Built:
    return build(questions, index, Recipe(**recipe))


def asked(name: str = "a", *answered_by: Passage, answer: str = "An admin may.") -> Question:
    return Question(name, "Who may rotate the certificate?", answer, answered_by)


# Which passage is the oracle


@pytest.mark.parametrize(
    ("oracle", "found"),
    [
        ("gateway#tls", ["gateway#tls"]),
        (["gateway#tls", "ports#overview"], ["gateway#tls", "ports#overview"]),
        ("ports", ["ports#overview"]),
        ("Ports.md", ["ports#overview"]),
        ("ports.html", ["ports#overview"]),
        ("Backup_Plan.txt", ["backup-plan#overview"]),
        ("backup plan", ["backup-plan#overview"]),
        ("PORTS.MD", ["ports#overview"]),  # as a file may be called
        ("gateway", ["gateway#roles"]),  # of a document, the passage that fits best
        (["gateway", "gateway#roles"], ["gateway#roles"]),  # once
        ([], []),
    ],
)
def test_an_oracle_is_a_passage_or_a_document_with_or_without_ending(
    oracle: Any, found: list[str], tmp_path: Path
) -> None:
    assert oracles(tmp_path, oracle) == found


def test_a_document_whose_own_id_has_an_ending_is_found_by_it(tmp_path: Path) -> None:
    """{"id": "ports.md"} in JSON Lines is the document ports-md."""
    index = Index([TLS, passage("ports-md#overview", "HTTPS listens on port 443.")])
    path = str(written(tmp_path / "q.jsonl", {**ROW, "oracle": "ports.md"}))
    (question,), _ = read_questions(path, index, find_oracles=False)
    assert [found.id for found in question.oracles] == ["ports-md#overview"]


def test_oracles_from_a_cell_of_a_table_are_read_as_the_list_that_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "q.csv", {**ROW, "oracle": ["gateway#tls", "ports"]}, {**ROW, "id": "b", "oracle": []})
    first, second = read_questions(str(path), INDEX, find_oracles=False)[0]
    assert [found.id for found in first.oracles] == ["gateway#tls", "ports#overview"]
    assert second.oracles == ()


def test_an_oracle_that_is_called_almost_like_a_passage_is_told_with_that_one(tmp_path: Path) -> None:
    assert refused(tmp_path, {**ROW, "oracle": "gateway#tsl"}, {**ROW, "id": "b", "oracle": "port.md"}) == [
        "questions.jsonl:1:1: `oracle` names 'gateway#tsl': no passage and no document; near: gateway#tls",
        "questions.jsonl:2:1: `oracle` names 'port.md': no passage and no document; near: ports",
    ]


def test_an_oracle_that_is_like_none(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, {**ROW, "oracle": "xyzzy"})
    assert line == "questions.jsonl:1:1: `oracle` names 'xyzzy': no passage and no document"


def test_a_missing_oracle_is_told_with_what_to_do(tmp_path: Path) -> None:
    for row in (ROW, {**ROW, "oracle": None}):
        assert refused(tmp_path, row) == [
            "questions.jsonl:1:1: `oracle` is missing: name the passages or documents that answer it, [] where none"
            " does, or pass --find-oracles to take what a search for question and answer finds"
        ]


def test_a_missing_oracle_is_searched_for_where_that_is_asked(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "id": "b", "answer": "Port 443, where HTTPS listens."}, {**ROW, "id": "c", "oracle": []}]
    questions, counts = read(tmp_path, *rows, find_oracles=True)
    assert [[found.id for found in question.oracles] for question in questions] == [
        ["gateway#roles"], ["ports#overview"], [],
    ]  # fmt: skip
    assert counts == {"questions whose oracle is the best match for question and answer": 2}


def test_a_question_that_matches_no_passage_gets_none(tmp_path: Path) -> None:
    path = written(tmp_path / "questions.jsonl", {"question": "Xyzzy plugh?", "answer": "Foobar quux."})
    with pytest.raises(DataError) as error:
        read_questions(str(path), INDEX, find_oracles=True)
    assert "and a search for question and answer finds no passage: name the passages" in str(error.value)


def test_a_document_of_one_passage_is_no_choice_to_be_counted(tmp_path: Path) -> None:
    _, counts = read(tmp_path, {**ROW, "oracle": ["ports", "gateway"]})
    assert +counts == {"oracles given as a document, of which the best passage was taken": 1}


# Questions that cannot be used


def test_all_wrong_questions_are_told_at_once(tmp_path: Path) -> None:
    assert refused(
        tmp_path, {**ROW, "oracle": []}, {"question": "Why?", "oracle": []}, {"question": " ", "answer": "So."},
        "[1]", '{"question": ', {**ROW, "question": "Who?\ud83d"},
    ) == [
        "questions.jsonl:2:1: `answer` is missing; expected text",
        "questions.jsonl:3:1: `question` is empty",
        "questions.jsonl:4:1: is no object; expected {id, question, answer, oracle}",
        "questions.jsonl:5:14: not JSON: Expecting value",
        "questions.jsonl:6:1: `question` holds half of a surrogate pair or a byte that is not UTF-8, which is no"
        " character",
    ]  # fmt: skip


def test_more_wrong_questions_than_are_shown_are_counted(tmp_path: Path) -> None:
    lines = refused(tmp_path, *[{"question": "Why?"}] * (SHOWN + 3))
    assert (len(lines), lines[-1]) == (SHOWN + 1, "and 3 more")


def test_ids_are_unique(tmp_path: Path) -> None:
    rows = [{**ROW, "oracle": []}, {**ROW, "oracle": "ports"}]
    assert refused(tmp_path, *rows) == ["questions.jsonl:2:1: its id 'a' is also that of line 1; ids must be unique"]


def test_an_id_of_another_file_is_named_with_that_file(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        written(tmp_path / name, {**ROW, "oracle": []})
    with pytest.raises(DataError) as caught:
        read_questions(str(tmp_path), INDEX, find_oracles=False)
    assert str(caught.value) == (
        f"{tmp_path}/b.jsonl:1:1: its id 'a' is also that of {tmp_path}/a.jsonl:1; ids must be unique"
    )


def test_questions_without_id_are_called_by_their_line(tmp_path: Path) -> None:
    row = {"question": "Why?", "answer": "So.", "oracle": []}
    assert [question.id for question in read(tmp_path, row, {**row, "id": 7}, row)[0]] == ["q1", "7", "q3"]


def test_a_question_may_have_the_number_0_as_its_id(tmp_path: Path) -> None:
    assert read(tmp_path, {**ROW, "id": 0, "oracle": []})[0][0].id == "0"


def test_questions_without_id_in_two_files_are_no_duplicates(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        written(tmp_path / name, {"question": f"Why {name}?", "answer": "So.", "oracle": []})
    questions, _ = read_questions(str(tmp_path), INDEX, find_oracles=False)
    assert len({question.id for question in questions}) == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"id": ""}, "`id` is empty; leave it out, or give it a value"),
        ({"id": True}, "`id` is a truth value; expected text or a whole number"),
        ({"id": {"a": 1}}, "`id` is an object; expected text or a whole number"),
        ({"oracle": [True]}, "`oracle` holds a truth value; expected ids of documents, [] where none answers"),
        ({"oracle": ""}, "`oracle` holds an empty text; expected ids of documents, [] where none answers"),
    ],
)
def test_ids_are_text_or_whole_numbers(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert refused(tmp_path, {**ROW, "oracle": [], **keys}) == [f"questions.jsonl:1:1: {message}"]


@pytest.mark.parametrize("name", ["gateway#tls", "gateway#gone"])
def test_the_answer_of_a_question_that_nothing_answers_cites_nothing(name: str, tmp_path: Path) -> None:
    """Its row would show some passages, and what the answer cites would not be, or only by chance, among them."""
    row = {**ROW, "answer": f"Nobody says it [{name}].", "oracle": []}
    told = f"questions.jsonl:1:1: the answer cites [{name}], which is none of its oracles (none)"
    assert refused(tmp_path, row) == [told]


def test_half_a_character_in_an_id_is_told_before_it_reaches_a_file(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, {**ROW, "id": "a\ud83d", "oracle": []})
    assert line.startswith("questions.jsonl:1:1: `id` holds half of a surrogate pair")


def test_a_file_without_questions(tmp_path: Path) -> None:
    assert refused(tmp_path) == ["questions.jsonl: has no questions; expected rows of {id, question, answer, oracle}"]


# Rows


def test_a_row_holds_the_oracle_among_distractors_and_cites_it() -> None:
    (row,) = built(asked("a", ROLES), distractors=2, oracle_share=1).rows
    assert list(row) == ["id", "question", "documents", "oracle", "answer"]
    assert {key: row[key] for key in ("id", "question", "oracle", "answer")} == {
        "id": "a",
        "question": "Who may rotate the certificate?",
        "oracle": ["gateway#roles"],
        "answer": "An admin may. [gateway#roles]",
    }
    assert sorted(row["documents"], key=lambda document: document["id"]) == [
        {"id": "gateway#roles", "title": "Gateway: Roles", "text": ROLES.text},
        {"id": "gateway#tls", "title": "Gateway: TLS", "text": TLS.text},
        {"id": "ports#overview", "title": "Ports", "text": PORTS.text},
    ]


def test_the_oracle_stands_at_any_place() -> None:
    rows = built(*[asked(f"n{number}", ROLES) for number in range(200)], distractors=3, oracle_share=1).rows
    places = Counter([document["id"] for document in row["documents"]].index("gateway#roles") for row in rows)
    assert set(places) == {0, 1, 2, 3}
    assert min(places.values()) > 50 - 4 * math.sqrt(200 * 0.25 * 0.75)


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("An admin may.", "An admin may. [gateway#roles]"),
        ("An admin may [gateway#roles].", "An admin may [gateway#roles]."),
        ("[gateway#roles, ports#overview] say so.", "[gateway#roles, ports#overview] say so."),
        ("An admin may [sic].", "An admin may [sic]. [gateway#roles]"),
    ],
)
def test_citations_are_added_only_where_there_are_none(answer: str, kept: str) -> None:
    done = built(asked("a", ROLES, answer=answer), distractors=1, oracle_share=1)
    assert done.rows[0]["answer"] == kept
    assert done.counts["answers to which citations were added"] == (kept != answer)


def test_every_oracle_is_cited_where_none_is() -> None:
    (row,) = built(asked("a", ROLES, PORTS), distractors=1, oracle_share=1).rows
    assert row["answer"] == "An admin may. [gateway#roles][ports#overview]"
    assert row["oracle"] == ["gateway#roles", "ports#overview"]


def test_a_question_that_nothing_answers_keeps_its_answer_and_has_distractors_only() -> None:
    done = built(asked("a", answer="Nobody knows."), distractors=2, oracle_share=0)
    (row,) = done.rows
    assert (row["oracle"], row["answer"], len(row["documents"])) == ([], "Nobody knows.", 2)
    assert done.counts == {"rows without an oracle": 1}


def test_without_its_oracle_the_answer_is_that_there_is_none() -> None:
    (row,) = built(asked("a", ROLES, answer="An admin may [gateway#roles]."), distractors=2, oracle_share=0).rows
    assert (row["oracle"], row["answer"]) == ([], NO_ANSWER)
    assert sorted(document["id"] for document in row["documents"]) == ["gateway#tls", "ports#overview"]


def test_fewer_distractors_than_asked_for_are_counted() -> None:
    done = built(asked("a", ROLES), asked("b", TLS), distractors=9, oracle_share=1)
    assert [len(row["documents"]) for row in done.rows] == [4, 4]
    assert done.counts["rows with fewer distractors than asked for"] == 2


MANY = [asked(f"n{number}", (TLS, ROLES, PORTS, BACKUP)[number % 4]) for number in range(500)]


@pytest.mark.parametrize("share", [1, 0, 0.8])
def test_the_share_of_rows_with_their_oracles(share: float) -> None:
    done = built(*MANY, distractors=1, oracle_share=share)
    shown = sum(bool(row["oracle"]) for row in done.rows)
    error = math.sqrt(share * (1 - share) / len(MANY))
    assert abs(shown / len(MANY) - share) <= 4 * error
    assert (done.counts["rows with their oracles"], done.counts["rows without an oracle"]) == (shown, 500 - shown)
    for row in done.rows:
        documents = {document["id"] for document in row["documents"]}
        assert (row["answer"] == NO_ANSWER) == (not row["oracle"])
        assert set(row["oracle"]) <= documents
        assert cited(row["answer"], documents) == (set(row["oracle"]), set())


def test_a_row_depends_on_its_own_question_alone() -> None:
    few = built(*MANY[10:20], oracle_share=0.5).rows
    more = built(asked("new", PORTS), *reversed(MANY), oracle_share=0.5).rows
    alike = {row["id"]: row for row in more}
    assert few == [alike[row["id"]] for row in few]


def test_the_same_seed_gives_the_same_rows_and_another_one_others() -> None:
    first = built(*MANY[:40], oracle_share=0.5, seed=1).rows
    state = random.getstate()
    assert built(*MANY[:40], oracle_share=0.5, seed=1).rows == first
    assert random.getstate() == state
    other = built(*MANY[:40], oracle_share=0.5, seed=2).rows
    assert [bool(row["oracle"]) for row in other] != [bool(row["oracle"]) for row in first]


# Questions from headings


def answered(text: str, heading: str = "TLS", title: str = "Gateway") -> Question | None:
    questions, _ = from_headings([passage("gateway#tls", text, title, heading)])
    return questions[0] if questions else None


def test_a_heading_asks_and_the_passage_below_it_answers() -> None:
    questions, counts = from_headings([TLS, BACKUP, passage("gateway#list", "- one\n- two", "Gateway", "List")])
    assert questions == [
        Question("gateway#tls", "What does Gateway say about TLS?", TLS.text, (TLS,)),
        Question("backup-plan#overview", "What does Backup plan say in general?", BACKUP.text, (BACKUP,)),
    ]
    assert counts == {"passages without a sentence to answer with": 1}


def test_a_heading_that_asks_itself_gets_no_second_question_mark() -> None:
    question = answered("It encrypts what is sent between two hosts.", heading="What is TLS?")
    assert question is not None
    assert question.question.count("?") == 1


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It ends each old connection.\n\n```sh\nopenssl s_client.\n```\n", "It ends each old connection."),
        ("It ends each\nold connection. ![A picture.](x.png)", "It ends each old connection."),
        ("| a. | b. |\n| --- | --- |\n\nIt ends all the connections.", "It ends all the connections."),
        ("- It [ends](x.md) each one.\n- It checks keys.", "It ends each one. It checks keys."),
        ("1. It ends <b>each</b> old\n   connection.\n2. Never", "It ends each old connection."),
    ],
)
def test_an_answer_is_prose_without_code_tables_and_pictures(text: str, answer: str) -> None:
    question = answered(text)
    assert question is not None
    assert question.answer.split() == answer.split()


def test_an_answer_is_the_first_whole_sentences_of_so_many_words() -> None:
    sentence = "word " * 49 + "end."
    question = answered(f"{sentence} {sentence} {sentence}")
    assert question is not None
    assert question.answer == f"{sentence} {sentence}"
    assert len(question.answer.split()) <= ANSWER_WORDS


def test_what_is_no_whole_sentence_at_the_end_is_left_out_and_the_rest_kept() -> None:
    question = answered("It protects data between two hosts. Use one of these versions:\n\n- 1.2\n- 1.3")
    assert question is not None
    assert question.answer == "It protects data between two hosts."


@pytest.mark.parametrize("short", ["e.g.", "i.e."])
def test_an_answer_does_not_end_in_the_middle_of_a_sentence(short: str) -> None:
    question = answered(f"It protects data between hosts. It has limits ({short} {'word ' * ANSWER_WORDS}).")
    assert question is not None
    assert question.answer == "It protects data between hosts."


@pytest.mark.parametrize(
    "text",
    [
        "The page is allowed to be shown in an `<iframe>` of another site.",
        "A port is privileged when port < 1024 and public when port > 1024.",
    ],
)
def test_an_answer_keeps_what_only_looks_like_markup(text: str) -> None:
    question = answered(text)
    assert question is not None
    assert question.answer == text


def test_a_piece_of_code_is_no_answer() -> None:
    """A long block is cut: its first part has a fence that is never closed."""
    assert answered("```java\nimport java.util.*; // everything. Then we go on.") is None


def parts_of_one_section() -> list[Passage]:
    names = ["gateway#tls", "gateway#tls-2", "gateway#tls-3"]
    texts = [
        "It ends each connection that is old.",
        "It checks every certificate of a client.",
        "It renews all keys at night.",
    ]
    return [passage(name, text, "Gateway", "TLS") for name, text in zip(names, texts, strict=True)]


def test_no_two_questions_are_the_same() -> None:
    """Parts of one section, or sections of one name: the same question would have two answers."""
    questions, _ = from_headings([*parts_of_one_section(), PORTS])
    assert len({question.question for question in questions}) == len(questions)


def test_no_part_of_the_section_that_is_asked_about_is_a_distractor() -> None:
    """Least of all beside an answer that says that the documents do not contain it."""
    passages = [*parts_of_one_section(), PORTS, BACKUP]
    questions, _ = from_headings(passages)
    for share in (0, 1):
        for row in built(*questions, index=Index(passages), distractors=4, oracle_share=share).rows:
            others = {document["id"] for document in row["documents"]} - set(row["oracle"])
            about = re.sub(r"-\d$", "", row["id"])
            assert not [name for name in others if name.startswith("gateway#tls") and about == "gateway#tls"]


# What is held out


DOCUMENTS = [passage(f"d{number}#{part}", f"text {number} {part}") for number in range(20) for part in range(3)]


@pytest.mark.parametrize(("share", "count"), [(0.1, 2), (0.25, 5), (0.01, 1), (0.9, 18)])
def test_a_share_of_the_documents_is_held_out(share: float, count: int) -> None:
    held_out = split_by_document(DOCUMENTS, share, seed=42)
    assert len(held_out) == count
    assert held_out <= {f"d{number}" for number in range(20)}
    assert held_out == split_by_document(list(reversed(DOCUMENTS)), share, seed=42)


def test_another_seed_holds_out_other_documents() -> None:
    assert split_by_document(DOCUMENTS, 0.25, seed=1) != split_by_document(DOCUMENTS, 0.25, seed=2)


@pytest.mark.parametrize(("documents", "share"), [(2, 0.9), (3, 0.9)])
def test_a_document_to_train_on_is_left(documents: int, share: float) -> None:
    kept = DOCUMENTS[: 3 * documents]
    assert 1 <= len(split_by_document(kept, share, seed=42)) < documents


def test_questions_go_where_their_oracles_are() -> None:
    questions = [
        asked("in", PORTS),
        asked("out", TLS),
        asked("both", PORTS, TLS),
        asked("none"),
        asked("two", TLS, ROLES),
    ]
    assert [(side, question.id) for side, question in divided(questions, {"gateway"})] == [
        ("train", "in"), ("eval", "out"), ("both", "both"), ("train", "none"), ("eval", "two"),
    ]  # fmt: skip


def test_rows_are_json(tmp_path: Path) -> None:
    row = built(asked("a", ROLES), **vars(ALWAYS)).rows[0]
    assert json.loads(json.dumps(row)) == row
