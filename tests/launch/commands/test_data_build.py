"""`muster data build` and `muster data stats`: what they print and write, and how they refuse."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished, environment, read_rows
from tests.launch.conftest import in_process
from tests.training.data.data_files import written
from tests.training.data.encoding.chat_templates import tokenizer_of

DOCUMENTS = {
    "gateway.md": "# Gateway\n\n## TLS\n\nThe gateway ends TLS connections and checks every certificate.\n\n"
    "## Roles\n\nAn admin may rotate the certificate of the gateway each quarter.\n",
    "ports.md": "# Ports\n\nHTTPS listens on port 443 and SSH listens on port 22.\n",
    "backup.txt": "Nightly jobs copy each database to another region and test that it can be read.\n",
}
QUESTIONS = [
    {"id": "a", "question": "Who may rotate it?", "answer": "An admin.", "oracle": "gateway#roles"},
    {"id": "b", "question": "Which port is that of SSH?", "answer": "22 [ports#overview].", "oracle": "ports.md"},
    {"id": "c", "question": "Who owns the region?", "answer": "The documents do not say.", "oracle": []},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "docs").mkdir()
    for name, text in DOCUMENTS.items():
        (tmp_path / "docs" / name).write_text(text)
    written(tmp_path / "questions.jsonl", *QUESTIONS)
    return tmp_path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tokenizer and its template: no weights are needed to count tokens."""
    place = tmp_path_factory.mktemp("model")
    tokenizer_of("chatml").save_pretrained(place)
    (place / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    return str(place)


def call(capsys: pytest.CaptureFixture[str], *argv: object) -> Finished:
    """`muster data ARGV` in this process."""
    return in_process(capsys, "data", *argv)


def plain(text: str) -> str:
    """Without the frame and the line ends of a message about the command line."""
    return " ".join(text.replace("│", " ").split())


# build


def test_build_writes_rows_and_tells_what_was_done(folder: Path, capsys: Any) -> None:
    done = call(capsys, "build", "docs", "--questions", "questions.jsonl", "--out", "rows.jsonl", "--oracle-share", 1)
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines() == [
        "       3  documents",
        "       4  passages",
        "       3  rows to train on",
        "       2  rows with fewer distractors than asked for",
        "       2  rows with their oracles",
        "       1  answers to which citations were added",
        "       1  rows without an oracle",
        "written: rows.jsonl",
    ]
    rows = read_rows(folder / "rows.jsonl")
    assert [(row["id"], row["oracle"], len(row["documents"])) for row in rows] == [
        ("a", ["gateway#roles"], 4),
        ("b", ["ports#overview"], 4),
        ("c", [], 4),
    ]


def test_build_prints_the_rows_where_no_file_is_named(folder: Path, capsys: Any) -> None:
    argv = ["build", "docs", "--questions", "questions.jsonl", "--distractors", 1]
    done = call(capsys, *argv)
    call(capsys, *argv, "--out", "rows.jsonl")
    assert done.out == (folder / "rows.jsonl").read_text()
    assert "written" not in done.err


def test_build_without_questions_and_with_rows_to_evaluate_on(folder: Path, capsys: Any) -> None:
    argv = ["--out", "rows.jsonl", "--eval-out", "eval.jsonl", "--eval-share", 0.4, "--oracle-share", 1]
    done = call(capsys, "build", "docs", "--without-questions", *argv)
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[-2:] == ["written: rows.jsonl", "written: eval.jsonl"]
    sides = [
        {document["id"].split("#")[0] for row in read_rows(folder / name) for document in row["documents"]}
        for name in ("rows.jsonl", "eval.jsonl")
    ]
    assert sides[0] | sides[1] == {"gateway", "ports", "backup"}
    assert (len(sides[1]), sides[0] & sides[1]) == (1, set())


def test_what_build_writes_passes_validate_and_is_counted(folder: Path, model: str, capsys: Any) -> None:
    call(capsys, "build", "docs", "--questions", "questions.jsonl", "--out", "rows.jsonl")
    checked = json.loads(call(capsys, "validate", "rows.jsonl", "--model", model, "--json").out)
    assert (checked["status"], checked["errors"], checked["rows"]) == ("pass", 0, {"train": 3})
    counted = json.loads(call(capsys, "stats", "rows.jsonl", "--model", model, "--json").out)
    assert counted["splits"]["train"]["samples"] == 3
    assert counted["splits"]["train"]["changes"] == {}


def test_build_finds_oracles_only_where_that_is_asked(folder: Path, capsys: Any) -> None:
    written(folder / "bare.jsonl", {"question": "Which port is that of SSH?", "answer": "Port 22."})
    argv = ["build", "docs", "--questions", "bare.jsonl", "--out", "rows.jsonl", "--oracle-share", 1]
    done = call(capsys, *argv)
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith("error: bare.jsonl:1:1: `oracle` is missing: name the passages or documents")
    assert not (folder / "rows.jsonl").exists()
    done = call(capsys, *argv, "--find-oracles")
    assert done.code == 0
    assert "1  questions whose oracle is the best match for question and answer" in done.err
    assert read_rows(folder / "rows.jsonl")[0]["oracle"] == ["ports#overview"]


@pytest.mark.parametrize("argv", [[], ["--questions", "questions.jsonl", "--without-questions"]])
def test_build_asks_for_questions_or_none(argv: list[str], folder: Path, capsys: Any) -> None:
    done = call(capsys, "build", "docs", *argv)
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: give either --questions FILE or --without-questions\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [("--oracle-share", 1.5), ("--eval-share", 0), ("--distractors", -1), ("--passage-words", 10), ("--seed", "x")],
)
def test_build_refuses_numbers_that_make_no_sense(option: str, value: Any, folder: Path, capsys: Any) -> None:
    done = call(capsys, "build", "docs", "--without-questions", option, value)
    assert (done.code, done.out) == (2, "")
    assert f"Invalid value for '{option}'" in plain(done.err)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--without-questions", "--find-oracles"],
            "--find-oracles: is for --questions FILE; without questions each passage answers its own",
        ),
        (
            ["--without-questions", "--eval-share", 0.1],
            "--eval-share: nothing is held out without --eval-out FILE; add that, or leave this away",
        ),
    ],
)
def test_build_refuses_options_that_it_would_not_read(argv: list[Any], message: str, folder: Path, capsys: Any) -> None:
    done = call(capsys, "build", "docs", *argv)
    assert (done.code, done.out, done.err) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("oracle", ["a-copy", "ssh", "ssh#ports", "a-copy#ports"])
def test_an_oracle_may_be_named_by_any_document_that_holds_its_words(oracle: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("ssh", "a-copy"):
        text = "# Secure shell\n\n## Ports\n\nThe daemon of the secure shell listens on port twenty-two.\n"
        (tmp_path / f"docs/{name}.md").write_text(text)
    question = {"question": "Which port?", "answer": "Port 22.", "oracle": oracle}
    questions = written(tmp_path / "q.jsonl", question)
    out = tmp_path / "rows.jsonl"
    done = call(capsys, "build", str(tmp_path / "docs"), "--questions", str(questions), "--out", str(out))
    assert (done.code, json.loads(out.read_text())["oracle"]) == (0, ["a-copy#ports"])


def test_what_is_not_read_is_counted(folder: Path, capsys: Any) -> None:
    (folder / "docs/guide.pdf").write_bytes(b"%PDF")
    (folder / "docs/empty.md").write_text("# Only a heading\n")
    done = call(capsys, "build", "docs", "--without-questions", "--out", "rows.jsonl")
    assert "       1  files that are none of .md, .markdown, .txt, .html, .htm, .jsonl, not read\n" in done.err
    assert "       1  documents without a text below their headings\n" in done.err


def test_rows_are_written_all_or_none(folder: Path, capsys: Any) -> None:
    (folder / "rows.jsonl").write_text("mine\n")
    done = call(capsys, "build", "docs", "--without-questions", "--out", "rows.jsonl", "--eval-out", "none/eval.jsonl")
    assert (done.code, done.err) == (2, "error: none/eval.jsonl: no such folder: none\n")
    assert (folder / "rows.jsonl").read_text() == "mine\n"


def test_build_names_what_it_cannot_read_or_write(folder: Path, capsys: Any) -> None:
    done = call(capsys, "build", "none", "--without-questions")
    assert (done.code, done.err) == (5, "error: none: no such folder or file\n")
    done = call(capsys, "build", "docs", "--questions", "none.jsonl")
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith("error: none.jsonl: no such data file")
    done = call(capsys, "build", "docs", "--without-questions", "--out", "none/rows.jsonl")
    assert (done.code, done.err) == (2, "error: none/rows.jsonl: no such folder: none\n")


def test_build_does_not_write_one_file_over_the_other(folder: Path, capsys: Any) -> None:
    done = call(capsys, "build", "docs", "--without-questions", "--out", "rows.jsonl", "--eval-out", "./rows.jsonl")
    assert done.code == 2
    assert "--eval-out" in done.err


def test_a_reader_of_built_rows_that_goes_away_is_no_error(folder: Path) -> None:
    """`muster data build ... | head -1`: more than a pipe holds. Unbuffered, Python would not tell."""
    row = {"question": "Which port is that of SSH?", "answer": "22 " * 20, "oracle": "ports"}
    written(folder / "many.jsonl", *[row] * 400)
    argv = [sys.executable, "-m", "launch", "data", "build", "docs", "--questions", "many.jsonl"]
    with subprocess.Popen(
        argv, cwd=folder, env=environment(PYTHONUNBUFFERED=""), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert b"Traceback" not in process.stderr.read()


# stats


def test_stats_is_a_table_for_a_person(folder: Path, model: str, capsys: Any) -> None:
    written(folder / "rows.jsonl", *[{"id": str(n), "text": f"{n} " + "x " * 10 * n} for n in (1, 2, 3)], "nonsense")
    found = json.loads(call(capsys, "stats", "rows.jsonl", "--model", model, "--max-length", 100, "--json").out)
    done = call(capsys, "stats", "rows.jsonl", "--model", model, "--max-length", 100)
    train = found["splits"]["train"]
    assert (done.code, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    trained = f"{train['trainable_tokens']:,} ({100 * train['trainable_share']:.1f} %) trained on"
    assert lines[:3] == ["train", "rows 4, 1 left out for errors", f"tokens {train['tokens']:,}, {trained}"]
    assert any(line.startswith("packing ") and "sequences of 100 hold a token" in line for line in lines)
    assert any(line.startswith("no packing ") for line in lines)
    longest = train["length_percentiles"]["100"]
    assert any(line.endswith(f"100 % {longest}") for line in lines)
    assert sum("\u2588" in line for line in lines) == sum(count > 0 for count in train["histogram"]["counts"])
    assert lines[-1].endswith("at the peak")


def test_stats_as_json_is_one_document(folder: Path, model: str, capsys: Any) -> None:
    for name, text in (("rows.jsonl", "One row."), ("eval.jsonl", "Another one.")):
        written(folder / name, {"text": text})
    done = call(
        capsys, "stats", "rows.jsonl", "--eval", "eval.jsonl", "--model", model, "--json", "--picture", "lengths.svg"
    )
    assert (done.code, done.err) == (0, "drawn: lengths.svg\n")
    found = json.loads(done.out)
    assert list(found) == ["max_length", "packing", "splits", "seconds", "rows_per_second", "peak_memory_bytes"]
    assert list(found["splits"]) == ["train", "eval"]
    for split in found["splits"].values():
        assert list(split) == [
            "rows", "samples", "quarantined_rows", "tokens", "trainable_tokens", "trainable_share", "changes",
            "packing_yield", "sequences", "padding_share_without_packing", "length_percentiles", "histogram",
        ]  # fmt: skip
    assert (found["max_length"], found["splits"]["train"]["rows"]) == (4096, 1)
    assert (folder / "lengths.svg").read_bytes().startswith(b"<?xml")


def test_stats_of_a_spec(folder: Path, model: str, capsys: Any) -> None:
    written(folder / "rows.jsonl", {"text": "One row."})
    spec = {"name": "run", "model": {"variant": model}, "data": {"train": "rows.jsonl", "max_length": 128}}
    (folder / "run.yaml").write_text(json.dumps(spec))
    found = json.loads(call(capsys, "stats", "run.yaml", "--json").out)
    assert (found["max_length"], found["splits"]["train"]["rows"]) == (128, 1)
    assert json.loads(call(capsys, "stats", "run.yaml", "-s", "data.max_length=256", "--json").out)["max_length"] == 256


def test_stats_needs_a_model(folder: Path, capsys: Any) -> None:
    done = call(capsys, "stats", "questions.jsonl")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --model VARIANT is missing: tokens are counted with a model's tokenizer\n"


def test_stats_needs_a_tokenizer(folder: Path, capsys: Any) -> None:
    done = call(capsys, "stats", "questions.jsonl", "--model", folder / "none")
    assert (done.code, done.out) == (2, "")
    assert "no tokenizer could be loaded" in done.err


@pytest.mark.parametrize("name", ["lengths.jpg", "lengths"])
def test_stats_draws_no_other_kinds_of_pictures(name: str, folder: Path, model: str, capsys: Any) -> None:
    done = call(capsys, "stats", "questions.jsonl", "--model", model, "--picture", name)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: --picture {name}: allowed endings: .png, .svg, .pdf\n"


def test_a_picture_for_a_folder_that_is_not_there_is_told_before_the_rows_are_read(
    folder: Path, model: str, capsys: Any
) -> None:
    done = call(capsys, "stats", "no rows.jsonl", "--model", model, "--picture", "none/lengths.svg")
    assert (done.code, done.err) == (2, "error: --picture none/lengths.svg: no such folder: none\n")


def test_stats_of_rows_that_are_not_there(folder: Path, model: str, capsys: Any) -> None:
    done = call(capsys, "stats", "none.jsonl", "--model", model)
    assert (done.code, done.out) == (5, "")
    assert "none.jsonl: no such data file" in done.err
