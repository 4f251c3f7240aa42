"""Files that stay readable whenever the writer is killed."""

import errno
import fcntl
import json
import multiprocessing
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launch.errors import HostError
from launch.rundir.journal import (
    append,
    beat,
    document,
    event,
    keep_rows,
    new_directory,
    rows,
    write_first,
    write_json,
    write_text,
)
from launch.rundir.tail import Tail
from launch.status.following import last_rows
from tests.conftest import command

TOKEN = "hf_abcdefghijklmnopqrst"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def steps(file: Path) -> list[int]:
    return [row["step"] for row in rows(file)]


# Rows


def test_rows_are_read_back_in_order(file: Path) -> None:
    written = [{"step": 1, "loss": 0.5}, {"step": 2, "text": "naïve ✓\nline"}]
    for row in written:
        append(file, row)
    assert list(rows(file)) == written
    assert file.read_text().count("\n") == 2


def test_a_file_that_is_not_there_has_no_rows(file: Path) -> None:
    assert list(rows(file)) == []


def test_a_last_line_that_was_cut_off_is_left_out(file: Path) -> None:
    append(file, {"step": 1})
    with open(file, "a") as torn:
        torn.write('{"step": 2, "lo')
    assert steps(file) == [1]


def test_half_of_a_surrogate_pair_costs_no_row(file: Path) -> None:
    file.write_text('{"step": 1, "text": "\\ud83d"}\n')
    assert steps(file) == [1]


def test_a_line_that_is_no_object_is_left_out(file: Path) -> None:
    file.write_text('3\n{"step": 1}\n\nnull\n')
    assert steps(file) == [1]


@pytest.mark.parametrize(
    "damaged",
    [
        '{"event": "saved", "step": 2}', '{"event": "saved", "time": null, "step": 2}',
        '{"event": "saved", "time": NaN, "step": 2}', '{"time": "noon", "step": 2}', '{"step": "x"}',
        '{"step": true}', '{"step": 2, "steps": "many"}', "[" * 200_000,
    ],
)  # fmt: skip
def test_a_row_whose_numbers_are_none_is_left_out(file: Path, damaged: str) -> None:
    file.write_text(f'{{"step": 1}}\n{damaged}\n{{"event": "saved", "time": 5, "step": 3}}\n')
    assert steps(file) == [1, 3]


def test_an_event_is_told_without_a_count_that_is_none(file: Path) -> None:
    file.write_text('{"event": "started", "time": 5, "step": 1, "steps": "many"}\n')
    assert list(rows(file)) == [{"event": "started", "time": 5, "step": 1}]


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(file: Path) -> None:
    os.mkfifo(file)
    for read in (lambda: list(rows(file)), lambda: list(last_rows(file)), Tail(file).rows):
        with pytest.raises(HostError, match=r"rows\.jsonl: is no regular file"):
            read()


def test_a_row_after_a_torn_line_is_not_lost(file: Path) -> None:
    append(file, {"step": 1})
    with open(file, "a") as torn:
        torn.write('{"step": 2, "lo')
    append(file, {"step": 3})
    assert steps(file) == [1, 3]


def test_a_line_that_was_cut_off_inside_a_character(file: Path) -> None:
    append(file, {"step": 1})
    with open(file, "ab") as torn:
        torn.write('{"text": "naï'.encode()[:-1])
    assert steps(file) == [1]


def _append_many(file: Path, writer: int) -> None:
    for number in range(200):
        append(file, {"step": writer * 200 + number, "padding": "x" * 500})


def test_rows_of_several_writers_never_mix(file: Path) -> None:
    writers = [multiprocessing.Process(target=_append_many, args=(file, writer)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(steps(file)) == list(range(800))


def test_an_event_has_a_name_and_a_time(file: Path) -> None:
    before = time.time()
    event(file, "saved", step=25)
    (row,) = rows(file)
    assert (row["event"], row["step"]) == ("saved", 25)
    assert before - 0.001 <= row["time"] <= time.time() + 0.001


def test_rows_are_written_without_secrets(file: Path) -> None:
    append(file, {"step": 1, "message": f"401 for {TOKEN}"})
    assert list(rows(file)) == [{"step": 1, "message": "401 for [secret]"}]


def test_keep_rows_drops_the_others_and_what_was_torn(file: Path) -> None:
    for step in range(1, 6):
        append(file, {"step": step})
    with open(file, "a") as torn:
        torn.write('{"step": 6')
    keep_rows(file, lambda row: row["step"] <= 3)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_keep_rows_of_a_file_that_is_not_there_makes_none(file: Path) -> None:
    keep_rows(file, lambda row: True)
    assert not file.exists()


# Whole files


def test_writers_with_the_same_process_number_leave_a_whole_file(tmp_path: Path) -> None:
    """Two nodes may have it; threads do."""
    path = tmp_path / "plan.json"
    with ThreadPoolExecutor(8) as nodes:
        list(nodes.map(lambda number: write_json(path, {"number": number, "text": "x" * 9000}), range(300)))
    assert json.loads(path.read_text())["text"] == "x" * 9000
    assert [found.name for found in tmp_path.iterdir()] == ["plan.json"]


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a/b/plan.json"
    write_json(path, {"name": "naïve", "token": TOKEN})
    assert json.loads(path.read_text()) == {"name": "naïve", "token": "[secret]"}
    assert path.read_text().endswith("\n")
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.json"]


def test_a_file_is_replaced_and_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    write_text(path, "old")
    with open(path) as reader:  # whoever reads while it is written sees the old text to its end
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["spec.yaml"]


@pytest.mark.parametrize("links", [True, False])
def test_the_first_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """Also on a file system that has no hard links."""
    if not links:
        refuse = OSError(errno.EPERM, "Operation not permitted")
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(refuse))
    path = tmp_path / "stop"
    write_first(path, "a person")
    write_first(path, "a warning")
    assert path.read_text() == "a person"
    assert [entry.name for entry in tmp_path.iterdir()] == ["stop"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        append(tmp_path / "rows.jsonl", {})
        write_text(tmp_path / "spec.yaml", "")
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}


def test_a_secret_of_digits_does_not_break_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "17000000")
    write_json(tmp_path / "plan.json", {"peak_bytes": 17_000_000_512})
    assert isinstance(json.loads((tmp_path / "plan.json").read_text()), dict)


def test_a_secret_with_a_quote_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", 'pass"word\\1')
    write_json(tmp_path / "outcome.json", {"reason": 'login with pass"word\\1 failed'})
    assert json.loads((tmp_path / "outcome.json").read_text()) == {"reason": "login with [secret] failed"}


def test_a_number_that_json_does_not_know_is_null(tmp_path: Path) -> None:
    append(tmp_path / "metrics.jsonl", {"eval_loss": float("nan"), "mfu": [float("inf"), 0.5]})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"eval_loss": null, "mfu": [null, 0.5]}\n'


def test_others_may_read_the_files_of_a_directory(tmp_path: Path) -> None:
    """safetensors makes its own for their owner alone."""
    before = os.umask(0o027)
    try:
        with new_directory(tmp_path / "adapter") as folder:
            (folder / "adapter_model.safetensors").touch(0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "adapter/adapter_model.safetensors").stat().st_mode) == 0o640


def test_a_directory_has_one_writer(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with new_directory(target) as folder:
        (folder / "shard").write_text("mine")
        with pytest.raises(BlockingIOError, match="another process is writing it"), new_directory(target):
            pass
        assert (folder / "shard").read_text() == "mine"
    assert (target / "shard").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]


def test_who_comes_at_the_rename_finds_nothing_of_ours(tmp_path: Path) -> None:
    """The folder that was locked is the finished one by then: it must be neither written to nor removed."""
    target, partial = tmp_path / "model", tmp_path / ".model.partial"
    partial.mkdir()
    (partial / "shard").write_text("theirs")
    held_by_them = os.open(partial, os.O_RDONLY)
    fcntl.flock(held_by_them, fcntl.LOCK_EX)

    def renamed(descriptor: int, operation: int) -> None:
        partial.rename(target)  # they are done between our opening the folder and our locking it

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fcntl, "flock", renamed)
        with pytest.raises(BlockingIOError), new_directory(target):
            pass
    os.close(held_by_them)
    assert (target / "shard").read_text() == "theirs"


def test_what_had_the_name_is_there_until_the_new_one_is(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    for content in ("old", "new"):
        with new_directory(target) as folder:
            (folder / "weights").write_text(content)
            if content == "new":
                assert (target / "weights").read_text() == "old"
    assert (target / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_kill_left_of_a_directory_is_not_taken_for_new(tmp_path: Path) -> None:
    left = tmp_path / ".model.partial" / "deep"
    left.mkdir(parents=True)
    (left / "shard").touch()
    (left.parent / "config.json").touch()
    with new_directory(tmp_path / "model") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "new"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 200_000])
def test_a_document_that_cannot_be_read_is_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "outcome.json"
    path.write_bytes(content)
    assert document(path) == {}


def test_a_document_that_is_missing_or_a_pipe_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    assert document(tmp_path / "pipe.json") == document(tmp_path / "none.json") == document(tmp_path) == {}


def test_a_document_is_what_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "outcome.json", {"exit_code": 7, "nodes": ["n1"]})
    assert document(tmp_path / "outcome.json") == {"exit_code": 7, "nodes": ["n1"]}


def test_a_beat_is_whole_from_the_first_one_on(tmp_path: Path) -> None:
    """On a disk that takes nothing there is no file of that name, rather than an empty one."""
    full = (
        "import resource, sys; from pathlib import Path; from launch.rundir.journal import beat;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); beat(Path(sys.argv[1]), {'rank': 7})"
    )
    done = command("-c", full, tmp_path / "pulse.json")
    assert (done.code, done.err, list(tmp_path.iterdir())) == (0, "", [])
    for rank in (7, 8):
        beat(tmp_path / "pulse.json", {"rank": rank})
        assert document(tmp_path / "pulse.json") == {"rank": rank}
    assert [path.name for path in tmp_path.iterdir()] == ["pulse.json"]
