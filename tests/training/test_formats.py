"""Rows -> conversations, and every unusable row named by file:line."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.errors import DataError, ExitCode
from training.data.formats import SYSTEM, read

RAG = {
    "id": "q1",
    "question": "Which port?",
    "documents": [{"id": "net-1", "title": "Ports", "text": "HTTPS uses 443."}, "Plain text."],
    "answer": "443 [net-1].",
}
CHAT = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def problems(path: Path, form: str = "auto") -> str:
    with pytest.raises(DataError) as caught:
        read(path, form)
    assert caught.value.exit_code == ExitCode.DATA
    return str(caught.value).replace(str(path), "FILE")


def test_a_rag_row_becomes_system_documents_question_and_answer(tmp_path: Path) -> None:
    (row,) = read(written(tmp_path / "a.jsonl", RAG))
    assert row.id == "q1"
    assert row.line == 1
    assert row.messages == (
        ("system", SYSTEM),
        ("user", "[net-1] Ports\nHTTPS uses 443.\n\n[2] Plain text.\n\nQuestion: Which port?"),
        ("assistant", "443 [net-1]."),
    )


def test_messages_keep_their_turns_and_a_row_without_id_is_named_by_its_line(tmp_path: Path) -> None:
    first, second = read(written(tmp_path / "a.jsonl", "", CHAT, CHAT))
    assert (first.id, second.id) == ("2", "3")
    assert first.messages == (("user", "Hello"), ("assistant", "Hi"))


def test_not_json_on_line_seven_is_named_with_its_column(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", *[{**RAG, "id": str(n)} for n in range(6)], '{"question": "cut off')
    assert problems(path) == "FILE:7:14: not JSON: Unterminated string starting at"


def test_a_missing_file_says_where_paths_start(tmp_path: Path) -> None:
    assert (
        problems(tmp_path / "none.jsonl") == "FILE: no such data file; a path in the spec starts at the spec's folder"
    )


def test_an_empty_file_says_what_is_expected(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl")
    assert problems(path) == "FILE: has no rows; expected JSON Lines of {messages} or {question, documents, answer}"


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    assert problems(tmp_path) == "FILE: cannot be read: Is a directory"


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question": "\xff"}\n')
    assert problems(path) == "FILE: is not UTF-8 text: byte 14: invalid start byte"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([1], "is a list, not an object"),
        ({"text": "x"}, "has neither `messages` nor `question`, `documents`, `answer`; its keys are 'text'"),
        ({**RAG, "answer": " "}, "`answer` is empty"),
        ({**RAG, "answer": None}, "`answer` is missing; expected text"),
        ({**RAG, "question": 7}, "`question` is a number; expected text"),
        ({**RAG, "documents": "x"}, "`documents` is missing or not a list"),
        ({**RAG, "documents": [""]}, "document 1 is empty or text; expected text or {id, title, text}"),
        ({**RAG, "documents": ["x", {"id": "y"}]}, "document 2: `text` is missing; expected text"),
        ({"messages": []}, "`messages` is missing or empty"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1 has no role of system, user, assistant"),
        (
            {"messages": [{"role": "user", "content": "x"}]},
            "roles are user; expected an optional system, then user and assistant in turn, assistant last",
        ),
        (
            {"messages": [CHAT["messages"][1], CHAT["messages"][0]]},
            "roles are assistant user; expected an optional system, then user and assistant in turn, assistant last",
        ),
    ],
)
def test_each_unusable_row_says_why(row: object, problem: str, tmp_path: Path) -> None:
    assert problems(written(tmp_path / "a.jsonl", {**RAG, "id": "ok"}, row)) == f"FILE:2:1: {problem}"


def test_ids_are_unique_because_the_ledger_counts_by_them(tmp_path: Path) -> None:
    assert (
        problems(written(tmp_path / "a.jsonl", RAG, RAG)) == "FILE:2:1: id 'q1' is also on line 1; ids must be unique"
    )


def test_many_bad_rows_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    lines = problems(written(tmp_path / "a.jsonl", *["nonsense"] * 25)).splitlines()
    assert len(lines) == 21
    assert lines[0] == "FILE:1:1: not JSON: Expecting value"
    assert lines[-1] == "and 5 more"


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_rows_or_a_named_error(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    path.write_bytes(content)
    try:
        good = bool(read(path))
    except DataError as error:
        good = str(path) in str(error)
    assert good
