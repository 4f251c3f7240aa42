"""Chunks examined here and in other processes: the same, and nobody is left behind."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.errors import HostError
from tests.conftest import until_ended
from tests.training.data.encoding.chat_templates import tokenizer_of
from training.data.checks import parallel
from training.data.checks.examine import Chunk, Examined, Examiner, Settings
from training.data.checks.parallel import examine
from training.data.encoding.template import ChatFiles
from training.data.rows.raw import RawRow

FILES = ChatFiles.of(tokenizer_of("chatml"))
TOKENS = Settings("auto", (), 200, FILES)


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "WORTH_PROCESSES", 12)


def chunk(number: int, rows: int = 5) -> Chunk:
    def row(line: int) -> bytes:
        turns = [{"role": "user", "content": f"Q{number}-{line}?"}, {"role": "assistant", "content": f"A{line}. Ωé"}]
        return json.dumps({"messages": turns}).encode()

    return Chunk("train", f"f{number}:", [RawRow(f"f{number}", line, text=row(line)) for line in range(1, rows + 1)])


def same(left: Examined, right: Examined) -> bool:
    assert left.encoded is not None
    assert right.encoded is not None
    columns = [(vars(left.encoded)[name], vars(right.encoded)[name]) for name in vars(left.encoded)]
    return replace(left, encoded=None) == replace(right, encoded=None) and all(
        list(ours) == list(theirs) for ours, theirs in columns
    )


def test_other_processes_find_what_this_one_finds_in_the_same_order() -> None:
    chunks = [chunk(number) for number in range(12)]
    alone, shared = list(examine(chunks, TOKENS, 1)), list(examine(chunks, TOKENS, 2))
    assert [found.file for found in shared] == [f"f{number}" for number in range(12)]
    assert all(same(left, right) for left, right in zip(alone, shared, strict=True))


@pytest.mark.parametrize(("sizes", "here"), [([2] * 5 + [1], 6), ([2] * 6, 1), ([2] * 9, 1)])
def test_many_small_files_are_worth_processes_and_few_rows_are_not(
    sizes: list[int], here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    own = Examiner.chunk
    monkeypatch.setattr(Examiner, "chunk", lambda self, rows: counted.append(rows.prefix) or own(self, rows))
    found = list(examine([chunk(number, size) for number, size in enumerate(sizes)], Settings(), 2))
    assert [len(each.places) for each in found] == sizes
    assert len(counted) == here


def test_an_error_before_the_first_row_is_told_and_the_processes_end() -> None:
    broken = replace(TOKENS, chat=replace(FILES, tokenizer="not a tokenizer"))
    began = time.monotonic()
    with pytest.raises(json.JSONDecodeError):
        list(examine([chunk(number) for number in range(4)], broken, 2))
    assert multiprocessing.active_children() == []
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("taken", [1, 3])
def test_who_stops_early_leaves_no_process_behind(taken: int) -> None:
    found = examine([chunk(number) for number in range(20)], TOKENS, 2)
    for _ in range(taken):
        next(found)
    found.close()
    assert multiprocessing.active_children() == []


def test_a_folder_that_is_full_is_told_and_the_processes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        list(examine([chunk(number) for number in range(4)], TOKENS, 2))
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_is_told() -> None:
    found = examine([chunk(number) for number in range(4000)], TOKENS, 2)
    next(found), next(found)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(HostError, match="a process that reads rows was killed"):
        list(found)


PARENT = """
import multiprocessing, sys, time
from training.data.checks import parallel

if __name__ == "__main__":  # the processes, which import this file, need none of it
    from tests.training.data.checks.test_parallel import TOKENS, chunk

    parallel.WORTH_PROCESSES = 12
    found = parallel.examine((chunk(number) for number in range(100_000)), TOKENS, 2)
    for _ in range(int(sys.argv[1])):
        next(found)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("taken", [1, 2, 40])
def test_a_killed_parent_takes_its_processes_with_it(taken: int, tmp_path: Path) -> None:
    """Also while they are starting: one row is examined by the parent itself."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(parallel.__file__).parents[3])}
    parent = subprocess.Popen([sys.executable, script, str(taken)], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until_ended(*children)
