"""Logs of any size."""

import time
import tracemalloc
from pathlib import Path

import pytest

from launch.diagnosis.hits import Source
from launch.diagnosis.scan import CHUNK, KEPT, LONGEST_LINE, hits_in

SOURCE = Source("rank-0.log", 2026, rank=0)
OOM = b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
# As of a healthy run with NCCL_DEBUG=INFO: each third line mentions an error.
NOISE = (
    b"n1:41:42 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read, and so on and so forth for quite a while\n"
    b"n1:41:42 [0] NCCL INFO misc/socket.cc:484 -> 3 retrying\n"
    b"lib.py:12: FutureWarning: `error_bad_lines` is deprecated\n"
)


def found(path: Path) -> list[tuple[str, int]]:
    return [(hit.known.name, hit.line) for hit in hits_in(path, SOURCE)]


def test_lines_are_counted_and_read_in_their_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a\n\nb\n" + OOM + b"c\nOSError: [Errno 28] No space left on device")
    assert found(log) == [("gpu-memory", 4), ("disk-full", 6)]


def test_a_log_that_is_empty_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert found(tmp_path / "log") == []
    with pytest.raises(FileNotFoundError):
        hits_in(tmp_path / "none", SOURCE)


def test_a_line_at_every_place_around_the_end_of_a_piece(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for before in range(CHUNK - len(OOM) - 2, CHUNK + 3, 7):
        log.write_bytes(b"x" * 99 + b"\n" + b"y" * (before - 101) + b"\n" + OOM)
        assert found(log) == [("gpu-memory", 3)], before


def test_a_bar_that_never_ends_its_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"\r %d/9999 [00:01<00:09]" % step for step in range(400_000)) + b"\r" + OOM)
    assert found(log) == [("gpu-memory", 1)]


def test_weights_in_place_of_text(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(bytes(range(11, 256)) * 60_000 + b"\n" + OOM)
    assert found(log) == [("gpu-memory", 2)]


def test_of_one_failure_the_first_and_the_last_lines_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    line = b"Indexing.cu:1: indexSelectLargeIndex: block: [%d,0,0] Assertion `srcIndex < srcSelectDimSize` failed.\n"
    log.write_bytes(b"".join(line % thread for thread in range(5000)))
    lines = [number for _, number in found(log)]
    assert len(lines) == 2 * KEPT
    assert (lines[0], lines[-1]) == (1, 5000)


def test_a_failure_among_lines_that_were_seen_to_tell_of_none(tmp_path: Path) -> None:
    """In a later piece, beside them, after one that was told, and where lines are alike but for their digits."""
    quiet = NOISE * (CHUNK // len(NOISE)) + b"exitcode : 0 (pid: 7)\n" * 9
    fails = [OOM, b"exitcode  : -9 (pid: 12)\n", b"OSError: [Errno 28] No space left on device\n", OOM]
    log = tmp_path / "log"
    log.write_bytes(b"".join(quiet + failure + NOISE for failure in fails))
    each = quiet.count(b"\n") + 1 + NOISE.count(b"\n")
    expected = [("gpu-memory", 0), ("killed", 1), ("disk-full", 2), ("gpu-memory", 3)]
    assert found(log) == [(name, index * each + quiet.count(b"\n") + 1) for name, index in expected]


@pytest.mark.parametrize("kind", ["sparse", "healthy lines", "one line"])
def test_300_megabytes_in_under_5_seconds_with_little_memory(kind: str, tmp_path: Path) -> None:
    """Measured: 1.0 s for zeros, 1.1 s for lines, 0.6 s for one, on one core of a shared machine."""
    log, size = tmp_path / "log", 300 << 20
    with open(log, "wb") as file:
        if kind == "sparse":
            file.write(NOISE)
            file.truncate(size)
            file.seek(0, 2)
        block = b"x" * (8 << 20) if kind == "one line" else NOISE * ((8 << 20) // len(NOISE))
        while kind != "sparse" and file.tell() < size:
            file.write(block)
        file.write(b"\n" + OOM)
    tracemalloc.start() if kind == "sparse" else None
    began = time.process_time()
    names = [name for name, _ in found(log)]
    seconds = time.process_time() - began
    if kind == "sparse":
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
        tracemalloc.stop()
    assert names == ["gpu-memory"]
    assert seconds < 5
    assert LONGEST_LINE < CHUNK
