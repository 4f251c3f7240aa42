"""Whose run directory this is."""

import fcntl
import json
import stat
import threading
import time
from pathlib import Path

import pytest
import yaml

from launch import claim as module
from launch.claim import claim, different, finished, hold, prepare_run, take
from launch.errors import HostError, UsageError
from launch.plan import Plan
from launch.render import rendered
from launch.rundir import RunDir
from launch.spec.file import read_spec
from tests.launch.conftest import plan_of, spec_of

PLAN = plan_of("1xH200-141GB")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "demo")


def refused(run: RunDir, plan: Plan = PLAN, resume: str = "auto") -> str:
    with pytest.raises(UsageError) as caught:
        claim(run, plan, resume)
    return str(caught.value)


def test_a_new_directory_is_free(run: RunDir) -> None:
    claim(run, PLAN, "auto")
    run.root.mkdir()
    claim(run, PLAN, "auto")
    assert list(run.root.iterdir()) == []


def test_a_run_may_go_on_in_its_own_directory(run: RunDir) -> None:
    prepare_run(run, PLAN)
    claim(run, PLAN, "auto")


def test_a_run_may_move_to_other_devices_with_its_global_batch(run: RunDir) -> None:
    prepare_run(run, PLAN)
    moved = plan_of("2xH200-141GB", 1, spec_of(training={"global_batch_size": 16, "save_steps": 5}))
    assert (moved.world_size, moved.strategy) == (2, "ddp")
    claim(run, moved, "auto")


def test_an_attempt_that_failed_before_its_first_step_does_not_hold_up_a_corrected_spec(run: RunDir) -> None:
    prepare_run(run, PLAN)
    run.samples.touch()
    corrected = plan_of("1xH200-141GB", 1, spec_of(data={"max_length": 2048}))
    claim(run, corrected, "auto")
    run.checkpoint(4).mkdir()
    assert "holds a run of another spec" in refused(run, corrected)


def test_a_run_of_another_spec_under_the_same_name(run: RunDir) -> None:
    prepare_run(run, PLAN)
    run.samples.write_text('{"step": 1}\n')
    other = plan_of("1xH200-141GB", 1, spec_of(training={"learning_rate": 1e-4}, data={"max_length": 2048}))
    assert refused(run, other) == (
        f"{run.root}: holds a run of another spec; choose another name or --run-dir,"
        " or --resume never to move it aside\n"
        "  data.max_length: there 4096, here 2048\n"
        "  training.learning_rate: there 0.0002, here 0.0001"
    )


def test_a_run_with_another_global_batch(run: RunDir) -> None:
    prepare_run(run, PLAN)
    assert different(PLAN, plan_of("2xH200-141GB")) == ["global batch size: there 16, here 32"]


def test_a_directory_that_is_no_run(run: RunDir) -> None:
    run.root.mkdir()
    (run.root / "thesis.tex").touch()
    for resume in ("auto", "never"):
        assert refused(run, resume=resume) == (
            f"{run.root}: is not a run directory and not empty; choose another with --run-dir"
        )
    assert (run.root / "thesis.tex").exists()


def test_a_directory_that_a_full_disk_left_half_prepared_is_prepared_again(run: RunDir) -> None:
    prepare_run(run, PLAN)
    run.plan.unlink()
    (run.root / ".plan.json.123").touch()
    claim(run, PLAN, "auto")
    with take(run, PLAN, "never"):
        assert run.plan.exists()
    run.plan.unlink()
    run.checkpoint(4).mkdir()
    assert "is not a run directory and not empty" in refused(run)


def test_of_two_runs_that_start_together_the_second_finds_the_first_one_s_plan(run: RunDir) -> None:
    other = plan_of("1xH200-141GB", 1, spec_of(training={"learning_rate": 1e-4}))
    claim(run, PLAN, "auto")
    claim(run, other, "auto")
    with take(run, other, "auto"):
        with pytest.raises(UsageError, match=r"process \d+ on .* is training in this run directory; wait for it"):
            take(run, PLAN, "auto")
        assert Plan.model_validate_json(run.plan.read_text()) == other
    with take(run, PLAN, "auto"):  # nothing was trained, and the first has ended
        assert Plan.model_validate_json(run.plan.read_text()) == PLAN


def test_somebody_who_only_looks_keeps_nobody_out(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks whether a lock is free has it for an instant, which may be long on a busy machine."""
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.1)
    run.root.mkdir(parents=True)
    run.claimed.touch()
    with open(run.claimed) as looks:
        fcntl.flock(looks, fcntl.LOCK_SH)
        threading.Timer(1.0, fcntl.flock, (looks, fcntl.LOCK_UN)).start()
        with hold(run, run.claimed):
            pass
        time.sleep(1.0)  # the timer has what it needs


def test_a_worker_trains_in_the_directory_that_its_own_launcher_holds(run: RunDir) -> None:
    with take(run, PLAN, "auto"), hold(run, run.lock):
        assert "is training in this run directory" in refused(run)
    claim(run, PLAN, "auto")


def test_a_run_whose_plan_cannot_be_read(run: RunDir) -> None:
    prepare_run(run, PLAN)
    run.plan.write_text(run.plan.read_text()[:100])
    assert refused(run) == (
        f"{run.plan}: cannot be read (ValidationError);"
        " start afresh with --resume never, which moves this directory aside"
    )


def test_resume_never_moves_each_earlier_run_aside(run: RunDir) -> None:
    for number in (1, 2):
        prepare_run(run, PLAN)
        (run.root / "mark").write_text(str(number))
        claim(run, PLAN, "never")
        assert (run.root / "mark").exists()  # nothing moves before the checks have passed
        prepare_run(run, PLAN, "never")
        assert not (run.root / "mark").exists()
        assert Path(f"{run.root}.old-{number}", "mark").read_text() == str(number)


def test_a_run_is_finished_when_its_adapter_has_its_name(run: RunDir) -> None:
    prepare_run(run, PLAN)
    assert not finished(run)
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"1234")
    files = {"adapter_model.safetensors": {"bytes": 4, "sha256": ""}}
    (run.adapter / "manifest.json").write_text(json.dumps({"files": files}))
    assert finished(run)


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_finished_run_whose_adapter_was_damaged_is_told(damage: str, run: RunDir) -> None:
    test_a_run_is_finished_when_its_adapter_has_its_name(run)
    name = "manifest.json" if damage != "cut" else "adapter_model.safetensors"
    if damage == "cut":
        (run.adapter / name).write_bytes(b"")
    if damage == "gone":
        (run.adapter / "adapter_model.safetensors").unlink()
    if damage == "manifest":
        (run.adapter / name).write_text("{")
    with pytest.raises(HostError) as caught:
        finished(run)
    assert str(caught.value) == (
        f"{run.adapter}: {name} is not as it was written; restore it, or train again with --resume never"
    )


def test_a_prepared_run_holds_its_spec_its_plan_and_what_was_rendered(run: RunDir) -> None:
    plan = plan_of(spec=spec_of(cluster={"strategy": "zero3"}))
    prepare_run(run, plan)
    files = {str(path.relative_to(run.root)) for path in run.root.rglob("*") if path.is_file()}
    assert files == {"spec.yaml", "plan.json", "rendered/accelerate.yaml", "rendered/deepspeed.json"}
    assert Plan.model_validate_json(run.plan.read_text()) == plan
    assert json.loads(run.deepspeed.read_text())["train_batch_size"] == 128
    config = yaml.safe_load(run.accelerate.read_text())
    assert config["deepspeed_config"]["deepspeed_config_file"] == str(run.deepspeed)
    assert {path.name: path.read_text() for path in run.rendered.iterdir()} == rendered(plan, run.deepspeed)


def test_the_spec_of_a_run_is_a_spec(run: RunDir) -> None:
    prepare_run(run, PLAN)
    assert read_spec(run.spec) == PLAN.spec


@pytest.mark.parametrize("training", [{"max_steps": 10}, {"global_batch_size": 8}])
def test_the_spec_of_a_run_can_be_run_again(run: RunDir, training: dict[str, int]) -> None:
    plan = plan_of("1xH200-141GB", 1, spec_of(training=training))
    prepare_run(run, plan)
    assert plan_of("1xH200-141GB", 1, read_spec(run.spec)) == plan


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError) as caught:
        prepare_run(RunDir(tmp_path / "file/demo"), PLAN)
    assert str(caught.value) == (
        f"{tmp_path}/file/demo: the run directory cannot be written: Not a directory;"
        " free space or choose another with --run-dir"
    )


def test_a_file_in_place_of_the_directory(run: RunDir) -> None:
    run.root.touch()
    refused(run)


def test_resume_never_leaves_a_run_alone_that_somebody_trains(run: RunDir) -> None:
    import fcntl

    prepare_run(run, PLAN)
    with open(run.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(run, resume="never")


def test_a_new_run_directory_is_for_its_owner_and_the_group_alone(tmp_path: Path) -> None:
    mine, theirs = RunDir(tmp_path / "runs/mine"), RunDir(tmp_path / "theirs")
    theirs.root.mkdir(mode=0o755)
    for run in (mine, theirs):
        prepare_run(run, plan_of("8xA100-80GB"))
    assert [stat.S_IMODE(run.root.stat().st_mode) for run in (mine, theirs)] == [0o750, 0o755]
