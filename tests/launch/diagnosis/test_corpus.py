"""Logs in the shapes of real failures: each one's first cause is named, not what other ranks say of it.

corpus/index.json says of each case which failure it is, on which rank and node, in what phase, on which line it is told
first (`at`), and which public issues its shape was taken from. The words between are made up.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.diagnosis.explain import explain
from launch.diagnosis.known import BY_NAME, KNOWN
from launch.diagnosis.lines import last_written
from launch.rundir import Attempt, RunDir

CORPUS = Path(__file__).parent / "corpus"
CASES: dict[str, dict[str, Any]] = json.loads((CORPUS / "index.json").read_text(encoding="utf-8"))
OF_THE_RUN = ("job.log", "preflight.json")


def laid_out(case: str, root: Path) -> Attempt:
    """A case as the first attempt of a run, each file last changed when its last line was written.

    One that tells no time ends a second before any that does: whoever tells of an end tells of it afterwards.
    """
    attempt = RunDir(root).attempt(1)
    attempt.root.mkdir(parents=True)
    files = list((CORPUS / case).iterdir())
    ends = {path: last_written(path.read_text(errors="replace").splitlines(), 2026) for path in files}
    told = [end for end in ends.values() if end is not None]
    if all(path.name in OF_THE_RUN for path in files):  # an attempt that left nothing is taken for one of now
        told = []
    for path in files:
        copy = shutil.copy(path, root if path.name in OF_THE_RUN else attempt.root)
        if told:
            end = ends[path] or min(told) - 1
            os.utime(copy, (end, end))
    return attempt


def place(file: str) -> str:
    return file if file.startswith(OF_THE_RUN) else f"attempts/001/{file}"


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case["known"]])
def test_the_first_cause_is_named(case: str, tmp_path: Path) -> None:
    expected = CASES[case]
    cause = explain(laid_out(case, tmp_path))
    assert cause is not None
    assert (cause.name, cause.rank, cause.phase) == (expected["known"], expected["rank"], expected["phase"])
    if expected["node"]:
        assert cause.node == expected["node"]
    if expected["at"]:
        first = cause.evidence[0]
        assert f"{first.file}:{first.line}" == place(expected["at"])
    assert cause.exit_code == BY_NAME[cause.name].code
    assert cause.summary


def windows(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def coloured(text: bytes) -> bytes:
    """As Python 3.13 writes tracebacks where FORCE_COLOR is set."""
    return b"".join(b"\x1b[1;35m" + line + b"\x1b[0m\n" for line in text.splitlines())


@pytest.mark.parametrize("written", [windows, coloured])
@pytest.mark.parametrize("case", ["oom-backward", "killed-without-a-word", "segfault-report", "rendezvous-elastic"])
def test_the_ends_of_lines_and_colours_hide_nothing(
    case: str, written: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    attempt = laid_out(case, tmp_path)
    for path in [*attempt.root.glob("*.log"), *tmp_path.glob("*.log")]:
        changed = path.stat().st_mtime
        path.write_bytes(written(path.read_bytes()))
        os.utime(path, (changed, changed))
    cause, expected = explain(attempt), CASES[case]
    assert cause is not None
    assert (cause.name, cause.rank, cause.phase) == (expected["known"], expected["rank"], expected["phase"])
    assert "\x1b" not in cause.evidence[0].text


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if not case["known"]])
def test_nothing_is_claimed_of_a_healthy_log(case: str, tmp_path: Path) -> None:
    assert explain(laid_out(case, tmp_path)) is None


def test_every_case_has_its_folder_and_its_sources() -> None:
    assert set(CASES) == {path.name for path in CORPUS.iterdir() if path.is_dir()}
    for case in CASES.values():
        assert case["shape"]
        assert all(source.count("/") == 1 and source.rpartition("#")[2].isdigit() for source in case["shape"])


def test_the_corpus_shows_almost_every_failure_of_the_table() -> None:
    """Those that follow from others are in it as echoes; the rest is told by Slurm's, Python's or muster's own words
    alone."""
    shown = {case["known"] for case in CASES.values()}
    assert {known.name for known in KNOWN} - shown == {
        "read-only", "stale-file", "no-such-repository", "arithmetic", "peer-lost", "cancelled",
        "aborted", "closed-by-launcher", "worker-failed", "broken-model", "loss-spike",
    }  # fmt: skip
