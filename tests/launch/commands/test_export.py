"""muster export: which path names what, before anything heavy is imported."""

import json
from pathlib import Path

import pytest

from launch.claim import prepare_run
from launch.model.files import read_architecture, weights_identity
from launch.plan import resolve
from launch.plan.trained import trained
from launch.rundir import MANIFEST, RunDir
from tests.launch.conftest import CPU, plan_of, spec_of, weights, write_model
from tests.launch.conftest import in_process as call

CONFIG = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "Qwen/Qwen3-8B"}


def write_adapter(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(json.dumps(CONFIG))
    (directory / "adapter_model.safetensors").write_bytes(weights({}))
    return directory


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "demo")
    prepare_run(run, plan_of())
    return run


def test_a_run_names_its_final_adapter_and_its_base(run: RunDir) -> None:
    write_adapter(run.adapter)
    for path in (run.root, run.adapter):
        found = trained(path)
        assert (found.adapter, found.base, found.name, found.step) == (
            run.adapter,
            "qwen2.5-14b-instruct",
            "demo",
            None,
        )
    assert found.base_name == "Qwen/Qwen2.5-14B-Instruct"


def test_a_checkpoint_names_itself(run: RunDir) -> None:
    directory = write_adapter(run.checkpoint(25))
    (directory / "progress.json").write_text('{"step": 25}')
    assert (trained(directory).adapter, trained(directory).step) == (directory, 25)


def test_a_base_that_was_changed_since(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only a run knows what its base was; the checkpoints of one tell it of the final adapter too."""
    base = write_model(tmp_path / "base")
    run = RunDir(tmp_path / "run")
    prepare_run(run, resolve(spec_of(str(base), data={"max_length": 256}), read_architecture(str(base)), CPU))
    write_adapter(run.adapter)
    progress = json.dumps({"step": 25, "base": weights_identity(str(base))})
    (write_adapter(run.checkpoint(25)) / "progress.json").write_text(progress)
    trained(run.root).check_base()
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rope_theta": 5e6}))
    for path in (run.adapter, run.checkpoint(25)):
        done = call(capsys, "export", str(path), "--merged", "--out", str(tmp_path / "out"))
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            f"error: {base}: its weights are not those that {path} was trained on; restore them, or train again\n"
        )


def test_an_adapter_of_others_names_its_base_itself(tmp_path: Path) -> None:
    found = trained(write_adapter(tmp_path / "theirs"))
    assert (found.base, found.name, found.plan) == ("Qwen/Qwen3-8B", "theirs", None)


def test_a_run_that_is_not_finished(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> str:
        done = call(capsys, "export", str(run.root), "--out", str(run.root / "out"))
        assert (done.code, done.out) == (2, "")
        return done.err.replace(str(run.root), "RUN")

    assert told() == ("error: RUN: this run has no final adapter yet; go on with muster run\n")
    (write_adapter(run.checkpoint(25)) / MANIFEST).touch()
    assert told() == (
        "error: RUN: this run has no final adapter yet; give one of its checkpoints, such as"
        " RUN/checkpoints/step-000025, or go on with muster run\n"
    )


def test_a_type_for_an_adapter(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    write_adapter(run.adapter)
    done = call(capsys, "export", str(run.root), "--out", "x", "--dtype", "bf16")
    assert (done.code, done.err) == (
        2,
        "error: --dtype: nothing reads this without --merged: an adapter keeps its type\n",
    )
