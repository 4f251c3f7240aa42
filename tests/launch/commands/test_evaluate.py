"""muster evaluate: what it refuses before anything heavy is imported, each message whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.claim import prepare_run
from launch.model.files import read_architecture
from launch.plan import resolve
from launch.rundir import RunDir
from tests.conftest import write_rows
from tests.launch.commands.test_export import write_adapter
from tests.launch.conftest import CPU, spec_of, write_model
from tests.launch.conftest import in_process as call


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    held_out = tmp_path / "eval.jsonl"
    write_rows(held_out, 3, "eval")
    return made_run(tmp_path, str(held_out))


def made_run(folder: Path, held_out: str | None) -> RunDir:
    base = write_model(folder / "base")
    spec = spec_of(str(base), data={"eval": held_out, "max_length": 256})
    run = RunDir(folder / "demo")
    prepare_run(run, resolve(spec, read_architecture(str(base)), CPU))
    write_adapter(run.adapter)
    return run


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    done = call(capsys, "evaluate", *map(str, arguments))
    assert done.out == ""
    return done.code, done.err


def test_what_is_no_run_and_no_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = (
        f"error: {tmp_path}/adapter_config.json: no such file; expected a run directory, a checkpoint or an adapter\n"
    )
    assert refused(capsys, tmp_path) == (2, expected)


def test_no_held_out_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path, None)
    expected = f"error: {run.adapter}: the run has no data.eval; name held-out ones with --data\n"
    assert refused(capsys, run.root) == (2, expected)


def test_rows_that_are_not_there(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = refused(capsys, run.root, "--data", "./nowhere/rows.jsonl")
    assert (code, told) == (5, "error: --data ./nowhere/rows.jsonl: no such file or folder\n")


def test_a_base_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = write_adapter(tmp_path / "theirs")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "gone")})
    )
    code, told = refused(capsys, adapter, "--data", "rows.jsonl")
    assert code == 2
    expected = f"{adapter}/adapter_config.json: base_model_name_or_path {tmp_path}/gone: no such directory"
    assert told == f"error: {expected}\n"


def test_a_pattern_that_is_none(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = refused(capsys, run.root, "--declines", "(")
    expected = "error: --declines (: is no regular expression: missing ), unterminated subpattern at position 0\n"
    assert (code, told) == (2, expected)


def test_more_devices_than_there_are(
    run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from launch.machine import discover

    gpu = discover.FoundGpu(0, "NVIDIA A100-SXM4-80GB", 80 << 30, 79 << 30, (8, 0))
    monkeypatch.setattr(discover, "gpus", lambda *_: [gpu])
    code, told = refused(capsys, run.root, "--devices", 4)
    assert code == 3
    assert told.startswith("error: --devices 4: ")
    assert "this machine has 1 GPU that can be used (NVIDIA A100-SXM4-80GB)" in told


def test_more_processes_than_cores(
    run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.evaluation.request.cpu_count", lambda: 2)
    expected = "error: --devices 99: 99 CPU processes on 2 cores; ask for as many or fewer\n"
    assert refused(capsys, run.root, "--devices", 99) == (3, expected)
    assert not run.evaluations.exists() or not any(run.evaluations.iterdir())


def test_a_length_beyond_the_model_s(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    expected = "error: --max-length 513 is beyond the model's 512 positions; lower it\n"
    assert refused(capsys, run.root, "--max-length", 513) == (2, expected)


def test_a_place_that_is_taken(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = refused(capsys, run.root, "--out", run.root)
    assert (code, told) == (2, f"error: --out {run.root}: exists already; choose another place\n")


def test_a_place_that_cannot_be_written(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    out = run.root / "spec.yaml" / "results"
    code, told = refused(capsys, run.root, "--out", out)
    expected = f"error: {out}: results cannot be written: Not a directory; choose a place with --out\n"
    assert (code, told) == (9, expected)
