"""A directory with a checkpoint's name is complete; what is not the manifest's is refused."""

import json
from pathlib import Path

import pytest
import torch

from launch.errors import DamagedCheckpoint, NumericalError, UsageError
from launch.rundir import RunDir
from launch.rundir.journal import rows
from tests.conftest import command
from training.checkpoint.checkpoints import (
    bring_ledger,
    check_directory,
    choose,
    keep_newest,
    set_aside_newer,
    write_directory,
)
from training.model.adapter import adapter_files

TENSORS = {"a.safetensors": {"x": torch.arange(6.0)}}
TEXTS = {"progress.json": "{}"}


def run_with(tmp_path: Path, *steps: int) -> RunDir:
    run = RunDir(tmp_path)
    for step in steps:
        write_directory(run.checkpoint(step), TENSORS, TEXTS)
    return run


def test_what_was_written_is_accepted(tmp_path: Path) -> None:
    run = run_with(tmp_path, 5)
    check_directory(run.checkpoint(5))
    assert sorted(path.name for path in run.checkpoint(5).iterdir()) == [
        "a.safetensors",
        "manifest.json",
        "progress.json",
    ]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: truncate(folder / "a.safetensors"),
            "step-000005: a.safetensors has 87 bytes, its manifest says 88",
        ),
        (
            lambda folder: flip(folder / "a.safetensors"),
            "step-000005: a.safetensors was changed after it was written (SHA-256 differs)",
        ),
        (lambda folder: (folder / "progress.json").unlink(), "step-000005: progress.json is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "step-000005: manifest.json is missing or unreadable"),
        (
            lambda folder: (folder / "manifest.json").write_text("{"),
            "step-000005: manifest.json is missing or unreadable",
        ),
    ],
)
def test_each_damage_is_named_and_the_checkpoint_before_it_used(damage: object, message: str, tmp_path: Path) -> None:
    run = run_with(tmp_path, 1, 5)
    damage(run.checkpoint(5))  # type: ignore[operator]
    with pytest.raises(DamagedCheckpoint) as caught:
        check_directory(run.checkpoint(5))
    assert str(caught.value) == message
    assert choose(run, "auto") == (run.checkpoint(1), [message])
    with pytest.raises(UsageError) as refused:
        choose(run, str(run.checkpoint(5)))
    assert str(refused.value) == f"--resume {run.checkpoint(5)}: {message}"


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    run = run_with(tmp_path, 3)
    assert choose(run, "never") == (None, [])
    assert choose(RunDir(tmp_path / "none"), "auto") == (None, [])
    assert choose(run, str(run.checkpoint(3))) == (run.checkpoint(3), [])


KILLED = """
import json, os, signal, sys, torch
from pathlib import Path
from training.checkpoint import checkpoints

def fatal(real, at):
    def call(*args):
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    return call

codes = {}
for directory in sys.argv[1:]:
    count, at = [0], len(codes) + 1
    child = os.fork()
    if child == 0:
        os.fsync, Path.rename = fatal(os.fsync, at), fatal(Path.rename, at)
        tensors = {"a.safetensors": {"x": torch.arange(6.0)}}
        checkpoints.write_directory(Path(directory), tensors, {"progress.json": "{}"})
        os._exit(0)
    codes[directory] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


def test_a_kill_at_any_point_of_a_save_leaves_the_previous_checkpoint_good(tmp_path: Path) -> None:
    """Killed at each sync and rename in turn, until a save is left alone."""
    runs = {str(run.checkpoint(8)): run for run in (run_with(tmp_path / str(call), 4) for call in range(1, 20))}
    done = command("-c", KILLED, *runs)
    assert done.code == 0, done.err
    codes = json.loads(done.out.splitlines()[-1])
    for directory, code in codes.items():
        found, refused = choose(runs[directory], "auto")
        assert refused == []
        assert code in (0, -9)
        if code == 0:
            assert found == runs[directory].checkpoint(8)
        else:
            assert found in (runs[directory].checkpoint(4), runs[directory].checkpoint(8))
        assert found is not None
        check_directory(found)
    killed = list(codes.values()).index(0)
    assert killed >= 4
    assert set(list(codes.values())[killed:]) == {0}


def test_retention_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    run = run_with(tmp_path, 1, 2, 3, 4, 5)
    for name in (".step-000006.partial", ".step-000000.removed"):  # of a kill
        (run.checkpoints / name).mkdir()
    gone = keep_newest(run, 2, best=run.checkpoint(1))
    assert [path.name for path in gone] == ["step-000003", "step-000002"]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-000001", "step-000004", "step-000005"]


def test_an_adapter_that_is_not_finite_is_never_saved() -> None:
    with pytest.raises(NumericalError, match=r"1 adapter tensors are not finite, b first; not saved"):
        adapter_files(None, {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}, {})  # type: ignore[arg-type]


def test_a_manifest_lists_sizes_and_digests(tmp_path: Path) -> None:
    import hashlib

    run = run_with(tmp_path, 5)
    files = json.loads((run.checkpoint(5) / "manifest.json").read_text())["files"]
    content = (run.checkpoint(5) / "a.safetensors").read_bytes()
    assert files["a.safetensors"] == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def continued(folder: Path, step: int, *rows: int) -> Path:
    """A checkpoint of a run whose ledger has these rows."""
    run = RunDir(folder)
    write_directory(run.checkpoint(step), TENSORS, {"progress.json": json.dumps({"step": step})})
    for path in (run.samples, run.metrics):
        path.write_text("".join(json.dumps({"step": row}) + "\n" for row in rows))
    return run.checkpoint(step)


def test_the_ledger_of_another_run_s_checkpoint_takes_the_place_of_an_abandoned_one(tmp_path: Path) -> None:
    chosen = continued(tmp_path / "other", 3, 1, 2, 3, 4)
    run = RunDir(tmp_path / "mine")
    continued(tmp_path / "mine", 9, 1, 2)
    bring_ledger(run, chosen)
    assert [row["step"] for row in rows(run.samples)] == [row["step"] for row in rows(run.metrics)] == [1, 2, 3]


@pytest.mark.parametrize("name", ["step-000003.set-aside", "good"])
def test_a_checkpoint_by_any_name_sets_those_beyond_its_step_aside(name: str, tmp_path: Path) -> None:
    run = run_with(tmp_path, 2, 5)
    chosen = continued(tmp_path, 3, 1, 2, 3)
    chosen.rename(run.checkpoints / name)
    set_aside_newer(run, run.checkpoints / name)
    assert [path.name for path in run.complete_checkpoints()] == ["step-000002"]
    bring_ledger(run, Path(run.root, "checkpoints", "..", "checkpoints", name))
    assert [row["step"] for row in rows(run.samples)] == [1, 2, 3]
