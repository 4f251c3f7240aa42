"""The names in a run directory are a contract: other tools read them."""

from pathlib import Path

from launch.rundir import RunDir

RUN = RunDir(Path("/runs/demo"))


def test_the_names() -> None:
    properties = [name for name, value in vars(RunDir).items() if isinstance(value, property)]
    names = {name: str(getattr(RUN, name).relative_to(RUN.root)) for name in properties}
    assert names == {
        "spec": "spec.yaml",
        "plan": "plan.json",
        "rendered": "rendered",
        "accelerate": "rendered/accelerate.yaml",
        "deepspeed": "rendered/deepspeed.json",
        "job_script": "rendered/job.sbatch",
        "job": "job.json",
        "sweep": "sweep.json",
        "preflight": "preflight.json",
        "metrics": "metrics.jsonl",
        "resources": "resources.jsonl",
        "events": "events.jsonl",
        "samples": "samples.jsonl",
        "stability": "stability.json",
        "attempts": "attempts",
        "checkpoints": "checkpoints",
        "adapter": "adapter",
        "evaluations": "evaluations",
        "answers": "answers.jsonl",
        "tokens": "tokens",
        "tensorboard": "tensorboard",
        "mlflow": "mlflow.db",
        "trackers": "trackers.json",
        "lock": "lock",
        "claimed": "claimed",
        "stop": "stop",
        "report": "report.html",
    }


def test_the_names_of_an_attempt() -> None:
    attempt = RUN.attempt(7)
    assert attempt.root == Path("/runs/demo/attempts/007")
    assert attempt.number == 7
    assert attempt.outcome == attempt.root / "outcome.json"
    assert attempt.launcher_log == attempt.root / "launcher.log"
    assert attempt.log(3) == attempt.root / "rank-3.log"
    assert attempt.flight(3) == attempt.root / "flight-rank-3"
    assert attempt.failure(3) == attempt.root / "failure-rank-3.json"


def test_attempts_are_counted_from_what_is_there(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.last_attempt() == 0
    for name in ("001", "009", "010", "1000", "notes", "011.tmp"):
        (run.attempts / name).mkdir(parents=True)
    assert run.last_attempt() == 1000


def test_failures_of_an_attempt(tmp_path: Path) -> None:
    attempt = RunDir(tmp_path).attempt(1)
    assert attempt.failures() == []
    attempt.root.mkdir(parents=True)
    for rank in (1, 0):
        attempt.failure(rank).touch()
    attempt.log(0).touch()
    assert attempt.failures() == [attempt.failure(0), attempt.failure(1)]


def test_complete_checkpoints_newest_first(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.complete_checkpoints() == []
    complete = [run.checkpoint(step) for step in (1_000_000, 200, 25)]
    for path in complete:
        path.mkdir(parents=True)
    for name in (".step-000300.tmp", "step-000300.tmp", "step-300", "step-last"):
        (run.checkpoints / name).mkdir()
    assert run.complete_checkpoints() == complete
    assert run.checkpoint(25).name == "step-000025"
