"""What a run is doing, from its directory alone: of jobs that Slurm has forgotten, and of runs on this machine."""

import json
from pathlib import Path

import pytest

from launch.claim import hold
from launch.cluster.commands import SlurmError, failure
from launch.cluster.job import JobRecord, record
from launch.cluster.queue import State
from launch.errors import UsageError
from launch.rundir import RunDir
from launch.rundir.journal import append, event, write_json
from launch.status.following import Asker, Status, last_rows, named, runs_in, status


class Answers(Asker):
    """A Slurm that knows one job, or none."""

    def __init__(self, state: State | None = None):
        super().__init__()
        self.state, self.asked = state, list[str]()

    def __call__(self, job: str) -> State | None:
        self.asked.append(job)
        return self.state


def state(word: str, **changes: object) -> State:
    return State(word, "", "", None, None, None, None, 0, True, "scontrol")._replace(**changes)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    place = RunDir(tmp_path / "runs/demo")
    place.root.mkdir(parents=True)
    write_json(place.plan, {"name": "demo"})
    return place


def trained(run: RunDir, steps: int = 40, attempt: int = 1) -> None:
    run.attempt(attempt).root.mkdir(parents=True)
    event(run.events, "started", steps=steps)
    for step in (1, 2, 3):
        append(run.samples, {"step": step, "epoch": 0, "ids": ["a"]})
        append(run.metrics, {"step": step, "loss": 4.0 - step, "step_seconds": 2.0})
    append(run.metrics, {"step": 3, "eval_loss": 9.0})
    run.checkpoint(2).mkdir(parents=True)


def look(run: RunDir, answer: State | None = None) -> Status:
    return status(run, Answers(answer))


def outcome(run: RunDir, code: int, reason: str, attempt: int = 1) -> None:
    write_json(run.attempt(attempt).outcome, {"exit_code": code, "reason": reason})


def test_a_run_that_was_only_prepared(run: RunDir) -> None:
    found = look(run)
    assert (found.name, found.state, found.attempt, found.step, found.job) == ("demo", "prepared", 0, None, None)


def test_a_run_on_this_machine(run: RunDir) -> None:
    trained(run)
    lock = hold(run, run.claimed)
    found = look(run)
    assert (found.state, found.step, found.steps, found.loss, found.eta_seconds) == ("running", 3, 40, 1.0, 74.0)
    assert found.checkpoint is not None
    assert found.checkpoint.step == 2
    assert found.holder is not None
    run.stop.touch()
    assert look(run).state == "stopping"
    lock.close()


@pytest.mark.parametrize(
    ("code", "reason", "word", "why"),
    [
        (75, "stopped as asked", "stopped", "resumable"),
        (6, "GPU out of memory", "failed", "GPU out of memory"),
    ],
)
def test_how_the_last_attempt_ended(run: RunDir, code: int, reason: str, word: str, why: str) -> None:
    trained(run)
    outcome(run, code, reason)
    found = look(run)
    assert (found.state, found.why, found.eta_seconds) == (word, why, None)


def test_an_attempt_that_could_not_say_how_it_ended(run: RunDir) -> None:
    trained(run)
    assert look(run).state == "interrupted"


def test_what_a_run_does_before_and_between_its_steps(run: RunDir) -> None:
    trained(run)
    lock = hold(run, run.claimed)
    for phase, why in (("rehearsing", "rehearsing"), ("training", "")):
        write_json(run.attempt(1).pulse(0), {"rank": 0, "phase": phase})
        assert (look(run).state, look(run).why) == ("running", why)
    lock.close()


def test_a_finished_run(run: RunDir) -> None:
    trained(run)
    run.adapter.mkdir()
    assert look(run).state == "finished"


def submitted(run: RunDir, job: str = "7") -> None:
    record(run, JobRecord(id=job, partition="gpu", script="x", submitted=1.0))


def test_a_job_that_waits_and_one_that_starts(run: RunDir) -> None:
    submitted(run)
    waiting = look(run, state("PENDING", reason="Priority", start=2.0))
    assert (waiting.state, waiting.why, waiting.job) == ("waiting", "Priority", "7")
    starting = look(run, state("RUNNING", nodes="n[0-1]"))
    assert (starting.state, starting.why) == ("starting", "on n[0-1]")


def test_a_job_that_was_cancelled_is_stopped_whatever_its_ranks_missed(run: RunDir) -> None:
    """Nodes end their ranks one after another: the supervisor may still have written that a rank was gone."""
    submitted(run)
    trained(run)
    outcome(run, 10, "rank 1 ended without a word")
    found = look(run, state("CANCELLED", start=1.0))
    assert (found.state, found.why) == ("stopped", "its job was cancelled; resumable")
    assert look(run, state("FAILED", start=1.0)).state == "failed"


def test_a_requeued_job_starts_until_it_has_an_attempt_of_its_own(run: RunDir) -> None:
    submitted(run)
    trained(run)
    write_json(run.attempt(1).plan, {})
    began = run.attempt(1).plan.stat().st_mtime
    assert look(run, state("RUNNING", start=began - 5)).state == "running"
    assert look(run, state("RUNNING", start=began + 5)).state == "starting"


def test_a_job_that_was_given_back_after_a_failure_waits_while_its_nodes_are_freed(run: RunDir) -> None:
    submitted(run)
    trained(run)
    outcome(run, 8, "the run hangs")
    assert look(run, state("COMPLETING")).state == "failed"
    event(run.events, "giving_back", job="7")
    assert look(run, state("COMPLETING")).state == "waiting", "it may be ended before it can write another word"
    event(run.events, "kept", job="7", reason="Requested operation is presently disabled")
    assert look(run, state("COMPLETING")).state == "failed"
    event(run.events, "requeued", job="7", reason="nothing was seen of the run's supervisor")
    assert look(run, state("COMPLETING")).state == "waiting"
    assert look(run, state("FAILED", exit_code=8)).state == "failed"


def test_a_job_that_ended_before_its_first_attempt(run: RunDir) -> None:
    submitted(run)
    found = look(run, state("FAILED", exit_code=3))
    assert (found.state, found.why) == ("failed", "its job ended as FAILED, exit code 3; see muster logs --rank job")
    assert look(run, state("CANCELLED")).why == "its job was cancelled; resumable"


def test_a_later_job_that_failed_is_not_hidden_by_an_earlier_attempt(run: RunDir) -> None:
    trained(run)
    outcome(run, 75, "stopped as asked")
    submitted(run)
    later = run.attempt(1).outcome.stat().st_mtime + 60
    assert look(run, state("NODE_FAIL", start=later)).state == "failed"
    assert look(run, state("FAILED", start=later - 600, exit_code=75)).state == "stopped"


def test_a_job_that_slurm_has_forgotten_is_told_from_the_directory(run: RunDir) -> None:
    submitted(run)
    trained(run)
    outcome(run, 75, "stopped as asked")
    found = look(run)
    assert (found.state, found.job, found.slurm) == ("stopped", "7", None)


def test_a_job_that_was_started_by_hand_is_known_by_its_events(run: RunDir) -> None:
    event(run.events, "requeued", job="12_3", reason="time limit")
    asked = Answers()
    assert status(run, asked).job == "12_3"
    assert asked.asked == ["12_3"]


def test_a_controller_that_is_silent_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def silent(job: str) -> None:
        calls.append(job)
        raise SlurmError("controller", "down", "wait")

    monkeypatch.setattr("launch.status.following.state_of", silent)
    ask = Asker()
    assert [ask("1"), ask("2")] == [None, None]
    assert calls == ["1"]


def test_a_database_that_is_silent_keeps_no_job_of_the_controller_s_back(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for the first job that the controller has forgotten, and then no more."""
    asked: list[str] = []

    def slurm(program: str, *argv: str) -> str:
        asked.append(program)
        if program == "sacct":
            raise failure(program, "sacct: error: Problem talking to the database: Connection refused\n")
        if argv[-1] != "3":
            raise failure(program, "slurm_load_jobs error: Invalid job id specified\n")
        return "JobId=3 JobState=PENDING Reason=Resources ExitCode=0:0 TimeLimit=00:10:00 Restarts=0 Requeue=1"

    monkeypatch.setattr("launch.cluster.queue.slurm", slurm)
    ask = Asker()
    assert [found and found.state for found in map(ask, ("1", "2", "3"))] == [None, None, "PENDING"]
    assert asked == ["scontrol", "sacct", "scontrol", "scontrol"]
    assert ask.silence is None
    assert ask.warning == (
        "sacct: Problem talking to the database: Connection refused; slurmdbd is down or cannot be reached from here:"
        " ask an administrator; runs whose jobs it has forgotten are told from their directories alone"
    )
    event(run.events, "requeued", job="1", reason="time limit")
    assert str(status(run, ask).slurm_silence).startswith("sacct: Problem talking to the database")


def test_only_the_end_of_a_long_ledger_is_read(run: RunDir) -> None:
    run.samples.write_text("".join(json.dumps({"step": step, "ids": ["x" * 90]}) + "\n" for step in range(5000)))
    rows = list(last_rows(run.samples))
    assert rows[-1]["step"] == 4999
    assert len(rows) < 1000


def test_runs_and_sweeps_in_a_folder(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = run.root.parent
    for number in (10, 2):
        (runs / f"sweep/{number}").mkdir(parents=True)
        write_json(RunDir(runs / f"sweep/{number}").plan, {"name": "sweep"})
    write_json(RunDir(runs / "sweep").sweep, [])
    (runs / "notes").mkdir()
    assert [each.root.name for each in runs_in(runs / "sweep")] == ["2", "10"]
    assert {each.root.name for each in runs_in(runs)} == {"demo", "2", "10"}
    monkeypatch.chdir(runs.parent)
    assert [each.root for each in named("demo")] == [run.root]
    with pytest.raises(UsageError, match="other: no run directory"):
        named("other")
