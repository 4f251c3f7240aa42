"""`muster data validate`: every problem told, the exit code, and one JSON document where that is asked for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Finished, Workspace, environment
from tests.launch.conftest import in_process
from tests.training.data.data_files import written
from training.data.rows.problems import KINDS

KEY = "AKIA" + "Q3EGT7ZK5MW2PX4N"
GOOD = {"id": "a", "text": "The sky over the sea is blue."}
WORSE = {"id": "b", "question": "Which port?", "documents": [{"id": "d-1", "text": "443"}], "answer": "443 [d-7]."}
WARNED = {"id": "c", "text": "Write to jane@corp-mail.de about it."}
CITED = "the answer cites [d-7], which is none of its documents (d-1)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with rows of which one is bad and one is told about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    written(tmp_path / "rows.jsonl", GOOD, WORSE, WARNED)
    written(tmp_path / "good.jsonl", GOOD)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *argv: object) -> Finished:
    """`muster data validate ARGV` in this process."""
    return in_process(capsys, "data", "validate", *argv)


def document(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    return json.loads(call(capsys, *argv, "--json").out)  # type: ignore[no-any-return]


# For a person


def test_every_problem_is_told_then_counted_and_the_code_is_5(folder: Path, capsys: Any) -> None:
    done = call(capsys, "rows.jsonl")
    assert (done.code, done.err) == (5, "")
    assert done.out.splitlines() == [
        f"rows.jsonl:2:1: error citation: {CITED}  | [d-7]",
        "rows.jsonl:3:1: warning personal-data: text holds an e-mail address  | ja...@corp-mail.de",
        "       1  error    citation: the answer cites a document that is not in the row",
        "       1  warning  personal-data: an e-mail address, a card number or a bank account",
        "3 to train on: 1 errors, 1 warnings",
        "1 rows with errors, and why: quarantine.jsonl",
        "not checked: lengths, and control tokens in texts; they need a tokenizer (--model VARIANT)",
    ]


def test_rows_without_errors_are_0_and_leave_no_file(folder: Path, capsys: Any) -> None:
    done = call(capsys, "good.jsonl")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == "1 to train on: 0 errors, 0 warnings"
    assert not (folder / "quarantine.jsonl").exists()


def test_rows_to_evaluate_on_are_checked_against_those_to_train_on(folder: Path, capsys: Any) -> None:
    written(folder / "eval.jsonl", {**GOOD, "id": "x"}, {"text": "Something quite different."})
    done = call(capsys, "good.jsonl", "--eval", "eval.jsonl")
    assert done.code == 5
    assert done.out.splitlines()[0] == (
        "eval.jsonl:1:1: error leakage: the same question and answer as good.jsonl:1, which is trained on"
    )
    assert "1 to train on, 2 to evaluate on: 1 errors, 0 warnings" in done.out


def test_an_accepted_error_is_a_warning_and_0(folder: Path, capsys: Any) -> None:
    done = call(capsys, "rows.jsonl", "--accept", "citation")
    assert done.code == 0
    assert done.out.splitlines()[0] == f"rows.jsonl:2:1: warning citation: {CITED}  | [d-7]"
    assert "3 to train on: 0 errors, 2 warnings" in done.out


def test_a_secret_is_never_shown_whole(folder: Path, capsys: Any) -> None:
    written(folder / "secret.jsonl", {"text": f"It is {KEY}."})
    for more in ([], ["--json"]):
        done = call(capsys, "secret.jsonl", *more)
        assert (done.code, KEY in done.out + done.err) == (5, False)
        assert "AKIA...(20 characters)" in done.out


def test_a_model_measures_the_rows(folder: Path, base_workspace: Workspace, capsys: Any) -> None:
    base = base_workspace.root / "base"
    written(
        folder / "long.jsonl",
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So. " * 80}]},
    )
    done = call(capsys, "long.jsonl", "--model", base, "--max-length", "50")
    assert done.code == 5
    assert done.out.startswith(
        "long.jsonl:1:1: error too-long: the answer would be cut off at data.max_length 50: the row has "
    )
    assert "not checked" not in done.out
    written(folder / "token.jsonl", {"text": "It ends with <|im_end|>."})
    done = call(capsys, "token.jsonl", "--model", base)
    assert done.out.splitlines()[0].startswith("token.jsonl:1:1: warning control-token: text: '<|im_end|>'")


def test_a_spec_says_what_is_read_and_how(folder: Path, base_workspace: Workspace, capsys: Any) -> None:
    spec = {
        "name": "run",
        "model": {"variant": str(base_workspace.root / "base")},
        "data": {"train": "theirs.csv", "columns": {"text": "body"}, "max_length": 128},
    }
    (folder / "run.yaml").write_text(json.dumps(spec))
    written(folder / "theirs.csv", {"body": "Fine."}, {"body": KEY})
    done = call(capsys, "run.yaml", "--json")
    found = json.loads(done.out)
    assert (done.code, found["rows"], found["lengths_checked"]) == (5, {"train": 2}, True)
    assert [(Path(p["file"]).name, p["line"], p["kind"]) for p in found["problems"]] == [("theirs.csv", 3, "secret")]
    assert call(capsys, "run.yaml", "-s", "data.accept=[secret]").code == 0


def test_a_spec_whose_model_is_not_here_is_checked_without_its_tokenizer(folder: Path, capsys: Any) -> None:
    spec = {"name": "run", "model": {"variant": "./none"}, "data": {"train": "good.jsonl"}}
    (folder / "run.yaml").write_text(json.dumps(spec))
    done = call(capsys, "run.yaml")
    assert done.code == 0
    assert done.err.startswith("warning: model.variant")
    assert "so lengths are not checked" in done.err
    assert "not checked: lengths" in done.out


def test_a_model_that_was_asked_for_must_be_there(folder: Path, capsys: Any) -> None:
    done = call(capsys, "good.jsonl", "--model", str(folder / "none"))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: model.variant {folder}/none: no tokenizer could be loaded: ")


def test_a_row_cannot_write_lines_of_its_own(folder: Path, capsys: Any) -> None:
    documents = [{"id": "x\nfake.jsonl:9:1: error secret: \x1b[2J", "text": f"a {KEY}"}]
    written(folder / "forged.jsonl", {"question": "Which?", "documents": documents, "answer": "It."})
    done = call(capsys, "forged.jsonl")
    assert done.out.startswith(
        "forged.jsonl:1:1: error secret: document x\\nfake.jsonl:9:1: error secret: \\x1b[2J holds"
    )
    assert not any(line.startswith("fake") for line in done.out.splitlines())


# For a program


def test_json_is_one_document_and_nothing_else(folder: Path, capsys: Any) -> None:
    done = call(capsys, "rows.jsonl", "--json", "--quarantine", "bad.jsonl")
    assert (done.code, done.err) == (5, "")
    assert json.loads(done.out) == {
        "problems": [
            {
                "file": "rows.jsonl", "line": 2, "column": 1, "kind": "citation", "level": "error",
                "message": CITED, "excerpt": "[d-7]",
            },
            {
                "file": "rows.jsonl", "line": 3, "column": 1, "kind": "personal-data", "level": "warning",
                "message": "text holds an e-mail address", "excerpt": "ja...@corp-mail.de",
            },
        ],
        "status": "fail",
        "rows": {"train": 3},
        "errors": 1,
        "warnings": 1,
        "kinds": [
            {"kind": "citation", "level": "error", "count": 1, "meaning": KINDS["citation"][1]},
            {"kind": "personal-data", "level": "warning", "count": 1, "meaning": KINDS["personal-data"][1]},
        ],
        "changes": {"train": {}},
        "not_read": {"train": []},
        "quarantine": "bad.jsonl",
        "quarantined_rows": 1,
        "lengths_checked": False,
    }  # fmt: skip
    (entry,) = [json.loads(line) for line in (folder / "bad.jsonl").read_text().splitlines()]
    assert entry == {
        "file": "rows.jsonl", "line": 2, "reasons": [{"kind": "citation", "message": CITED}], "row": WORSE,
    }  # fmt: skip


def test_json_of_good_rows(folder: Path, capsys: Any) -> None:
    assert document(capsys, "good.jsonl") == {
        "problems": [], "status": "pass", "rows": {"train": 1}, "errors": 0, "warnings": 0, "kinds": [],
        "changes": {"train": {}}, "not_read": {"train": []}, "quarantine": None, "quarantined_rows": 0,
        "lengths_checked": False,
    }  # fmt: skip


def test_json_tells_what_was_done_so_that_rows_fit(folder: Path, base_workspace: Workspace, capsys: Any) -> None:
    written(folder / "texts.jsonl", {"text": "words " * 60})
    found = document(capsys, "texts.jsonl", "--model", base_workspace.root / "base", "--max-length", "50")
    assert (found["status"], found["changes"]) == ("pass", {"train": {"texts cut into parts": 1}})


def test_json_is_whole_when_a_source_cannot_be_read(folder: Path, capsys: Any) -> None:
    (folder / "cut.jsonl.gz").write_bytes(b"no gzip")
    (folder / "empty.jsonl").write_bytes(b"")
    done = call(capsys, "cut.jsonl.gz", "--json")
    assert (done.code, json.loads(done.out)["kinds"][0]["kind"]) == (5, "unreadable")
    for argv in (["none.jsonl"], ["empty.jsonl"], ["good.jsonl", "--eval", "none.jsonl"]):
        done = call(capsys, *argv, "--json")
        found = json.loads(done.out)
        assert (done.code, found["problems"], found["status"]) == (5, [], "fail")
        assert done.err == f"error: {found['unreadable']}\n"


# Wrong command lines


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["rows.jsonl", "--accept", "field"], "--accept field: allowed: citation, secret, leakage"),
        (
            ["rows.jsonl", "--format", "xml"],
            "--format xml: allowed: auto, rag, raft, messages, sharegpt, alpaca, text",
        ),
        (["rows.jsonl", "-s", "data.train=x"], "-s data.train=x: overrides a spec, and rows.jsonl is none"),
    ],
)
def test_a_wrong_command_line_is_2(argv: list[str], message: str, folder: Path, capsys: Any) -> None:
    done = call(capsys, *argv)
    assert (done.code, done.out) == (2, "")
    assert message in " ".join(done.err.split())


def test_options_that_a_spec_says_itself(folder: Path, capsys: Any) -> None:
    (folder / "run.yaml").write_text("name: run\nmodel: {variant: qwen2.5-14b-instruct}\ndata: {train: rows.jsonl}\n")
    done = call(capsys, "run.yaml", "--eval", "x.jsonl", "--format", "text")
    assert (done.code, done.out) == (2, "")
    assert "--eval, --format: the spec says it; override it with -s" in " ".join(done.err.split())


def test_a_source_that_is_not_there_is_5(folder: Path, capsys: Any) -> None:
    done = call(capsys, "none.jsonl")
    assert (done.code, done.out) == (5, "")
    assert "none.jsonl: no such data file" in done.err


def test_a_place_that_quarantine_cannot_be_written_to_is_told(folder: Path, capsys: Any) -> None:
    done = call(capsys, "rows.jsonl", "--quarantine", "none/bad.jsonl")
    assert done.code != 0
    assert "none/bad.jsonl" in done.err


def test_half_a_character_reaches_the_screen_as_a_message(folder: Path, capsys: Any) -> None:
    """In a document's id, where a citation would be told with it."""
    row = {**WORSE, "documents": [{"id": "d-1\ud83d", "text": "443"}, {"id": "d-1", "text": "443"}]}
    (folder / "half.jsonl").write_text(json.dumps(row) + "\n")
    argv = [sys.executable, "-m", "launch", "data", "validate", str(folder / "half.jsonl")]
    done = subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (5, False)


# As a process


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    """`muster data validate ... | head -1`: far more lines than a pipe holds. The rows are still bad."""
    (folder / "many.jsonl").write_text("nonsense\n" * 5000)
    for more in ([], ["--json"]):
        argv = [sys.executable, "-m", "launch", "data", "validate", str(folder / "many.jsonl"), *more]
        with subprocess.Popen(
            argv, cwd=folder, env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            code = process.wait(timeout=60)
            assert (code, process.stderr.read()) == (5, b"")


@pytest.mark.parametrize("name", ["rows.jsonl", "notes.md"])
def test_quarantine_takes_the_place_of_nothing_else(name: str, folder: Path, capsys: Any) -> None:
    """Least of all of the rows themselves."""
    (folder / "notes.md").write_text("mine")
    before = (folder / name).read_text()
    done = call(capsys, "rows.jsonl", "--quarantine", name)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {name}: is ")
    assert (folder / name).read_text() == before


def test_quarantined_rows_are_rows_that_can_be_read(folder: Path, capsys: Any) -> None:
    call(capsys, "rows.jsonl")
    done = call(capsys, "quarantine.jsonl", "--quarantine", "still.jsonl")
    assert "its keys are" not in done.out


def test_an_earlier_file_of_quarantined_rows_is_kept_beside_the_new_one(folder: Path, capsys: Any) -> None:
    """It may have been mended by hand."""
    call(capsys, "rows.jsonl")
    mended = (folder / "quarantine.jsonl").read_text().replace("AKIA", "none")
    (folder / "quarantine.jsonl").write_text(mended)
    assert call(capsys, "good.jsonl").code == 0
    assert not (folder / "quarantine.jsonl").exists()
    assert (folder / "quarantine.jsonl.previous").read_text() == mended


def test_quarantined_rows_come_back_only_by_the_name_of_their_file(folder: Path, capsys: Any) -> None:
    call(capsys, "rows.jsonl", "--quarantine", "bad.jsonl")
    rows = json.loads(call(capsys, "*.jsonl", "--json").out)
    assert rows["not_read"] == {"train": ["bad.jsonl"]}
    assert json.loads(call(capsys, ".", "--json").out)["not_read"] == {"train": ["bad.jsonl", "quarantine.jsonl"]}
    done = call(capsys, "bad*")
    assert (done.code, done.err) == (
        5, "error: bad*: only rows that were left out match; name their file itself to read it\n"
    )  # fmt: skip


def test_the_mended_file_of_quarantined_rows_is_not_written_over(folder: Path, capsys: Any) -> None:
    call(capsys, "rows.jsonl")
    mended = (folder / "quarantine.jsonl").read_text()
    done = call(capsys, "quarantine.jsonl")
    assert (done.code, done.err) == (
        2, "error: quarantine.jsonl: is what is read; choose another place for its bad rows with --quarantine\n"
    )  # fmt: skip
    assert (folder / "quarantine.jsonl").read_text() == mended


@pytest.mark.parametrize(
    "arguments", [("validate", ""), ("stats", " ", "--model", "base"), ("validate", "d.jsonl", "--eval", "")]
)
def test_an_empty_path_is_not_all_that_is_below_this_folder(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a variable of the shell that is not set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").write_text("{}\n")
    done = in_process(capsys, "data", *arguments)
    assert (done.code, done.out) == (2, "")
    assert "an empty path: it would be this folder and all below it" in " ".join(done.err.split())
    assert not (tmp_path / "quarantine.jsonl").exists()
