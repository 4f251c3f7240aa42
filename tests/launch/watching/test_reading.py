"""Reading a run again and again: only what is new, and the truth also when files are written anew."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launch.claim import hold
from launch.cluster.commands import SlurmError
from launch.cluster.queue import State
from launch.errors import HostError
from launch.rundir import RunDir
from launch.rundir.journal import append, event, keep_rows, write_json
from launch.watching import reading
from launch.watching.lines import tell
from launch.watching.reading import Reader, Slurm


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    place = RunDir(tmp_path / "demo")
    place.attempt(1).root.mkdir(parents=True)
    write_json(place.plan, {"name": "demo"})
    gpus = {"device": "gpu", "memory_bytes": 80}
    write_json(place.attempt(1).plan, {"world_size": 2, "topology": gpus})
    event(place.events, "started", steps=40)
    return place


def trained(run: RunDir, *steps: int, **more: Any) -> None:
    for step in steps:
        time.sleep(0.001)  # times have milliseconds
        append(
            run.metrics, {"step": step, "loss": 4.0, "tokens_per_second": 9.0, "time": round(time.time(), 3), **more}
        )


def outcome(run: RunDir, code: int, number: int = 1) -> None:
    write_json(run.attempt(number).outcome, {"exit_code": code, "class": "worker", "reason": "it fell", "step": 3})


def test_what_was_there_is_shown_and_what_comes_is_fresh(run: RunDir) -> None:
    trained(run, 1, 2)
    reader = Reader(run)
    first = reader.look()
    assert ([row["step"] for row in first.logged], first.fresh, first.status.steps) == ([1, 2], (), 40)
    trained(run, 3)
    time.sleep(0.002)
    event(run.events, "stopped", step=3)
    second = reader.look()
    assert second.fresh == ("step 3/40: loss 4.000  9 tokens/s", "stopped as asked at step 3")
    assert reader.look().fresh == ()


def test_a_resume_that_writes_the_rows_anew_repeats_nothing(run: RunDir) -> None:
    trained(run, 1, 2, 3, 4)
    reader = Reader(run)
    reader.look()
    keep_rows(run.metrics, lambda row: row["step"] <= 2)
    trained(run, 3)
    view = reader.look()
    assert ([row["step"] for row in view.logged], view.fresh) == ([1, 2, 3], ("step 3/40: loss 4.000  9 tokens/s",))


def test_only_the_end_of_a_long_file_is_read(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "METRICS_BYTES", 2000)
    trained(run, *range(1, 500))
    steps = [row["step"] for row in Reader(run).look().logged]
    assert steps[-1] == 499
    assert 10 < len(steps) < 40


def test_gpus_of_the_attempt_that_runs(run: RunDir) -> None:
    append(run.resources, {"node": "n1", "gpu": 0, "utilization": 50, "memory_used_bytes": 40, "time": 1.0})
    reader = Reader(run)
    (node,) = reader.look().nodes
    assert (node.name, node.gpus[0].utilization, node.gpus[0].memory) == ("n1", 50.0, 50.0)
    run.attempt(2).root.mkdir()
    reader.looked = -1e9
    append(run.resources, {"node": "n2", "gpu": 0, "utilization": 60, "time": 2.0})
    assert [node.name for node in reader.look().nodes] == ["n2"]


def test_nodes_stand_in_the_order_of_their_numbers(run: RunDir) -> None:
    for name in ("n10", "n2", "gpu-b", "n1.cluster"):
        append(run.resources, {"node": name, "gpu": 0, "utilization": 50, "time": 1.0})
    assert [node.name for node in Reader(run).look().nodes] == ["gpu-b", "n1.cluster", "n2", "n10"]


def test_how_earlier_attempts_ended(run: RunDir) -> None:
    outcome(run, 10)
    for number in (2, 3):
        run.attempt(number).root.mkdir()
    assert Reader(run).look().attempts == ("1 ended as worker at step 3: it fell", "2 could not say how it ended")


def test_a_run_that_was_over_before_is_over_at_once(run: RunDir) -> None:
    outcome(run, 10)
    assert Reader(run).look().over


def test_one_that_ends_now_may_only_seem_to(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "STATUS_SECONDS", 0.1)
    lock = hold(run, run.claimed)
    reader = Reader(run)
    assert not reader.look().over
    lock.truncate(0)
    lock.close()
    outcome(run, 75)
    time.sleep(0.12)
    view = reader.look()
    assert (view.status.state, view.over) == ("stopped", False)
    time.sleep(0.25)
    assert reader.look().over


def test_a_finished_run_is_over_at_once(run: RunDir) -> None:
    with hold(run, run.claimed):
        reader = Reader(run)
        assert not reader.look().over
        run.adapter.mkdir()
        reader.looked = -1e9
        assert not reader.look().over  # its last words are about to come
        event(run.events, "finished", steps=3, seconds=1.0)
        assert reader.look().over


def state(word: str, **changes: object) -> State:
    return State(word, "", "", None, None, None, None, 0, True, "scontrol")._replace(**changes)  # type: ignore[arg-type]


class Answers(Slurm):
    """A controller that says this."""

    def __init__(self, *states: State):
        super().__init__()
        self.states = list(states)

    def _ask(self, job: str) -> None:
        self.found = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        self.asked = time.monotonic()


def test_a_job_that_ends_to_be_queued_again_is_not_over(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "STATUS_SECONDS", 0.0)
    event(run.events, "requeued", job="7", reason="time limit")
    write_json(run.attempt(1).outcome, {"exit_code": 75, "reason": "stopped"})
    reader = Reader(run)
    reader.slurm = Answers(state("COMPLETING"), state("PENDING", reason="BeginTime"))
    assert not reader.look().over
    reader.slurm.again()
    view = reader.look()
    assert (view.status.state, view.status.why, view.over) == ("waiting", "BeginTime", False)


def test_a_job_that_waited_is_asked_for_again_once_it_has_an_attempt(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.status.following.state_of", lambda job: states.pop(0))
    event(run.events, "submitted", job="7", partition="gpu")
    states = [state("PENDING", reason="Priority"), state("PENDING", reason="Priority"), state("RUNNING", nodes="n0")]
    reader = Reader(run)
    assert reader.look().status.state == "waiting"
    reader.looked = -1e9
    reader.look()
    assert reader.slurm.thread is not None
    reader.slurm.thread.join()
    run.attempt(2).root.mkdir()
    write_json(run.attempt(2).plan, {"world_size": 2})
    for _ in range(3):
        reader.looked = -1e9
        view = reader.look()
        reader.slurm.thread.join()
    assert (view.status.state, view.status.attempt, states) == ("running", 2, [])


def test_a_slow_controller_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, asked = threading.Event(), []

    def slow(job: str) -> State:
        asked.append(job)
        if len(asked) > 1:
            answer.wait(10)
        return state("RUNNING" if len(asked) > 1 else "PENDING")

    monkeypatch.setattr("launch.status.following.state_of", slow)
    monkeypatch.setattr(reading, "SLURM_SECONDS", 0.0)
    ask = Slurm()
    first = ask("7")
    began = time.monotonic()
    second, third = ask("7"), ask("7")
    assert time.monotonic() - began < 5
    assert {each.state for each in (first, second, third) if each} == {"PENDING"}
    assert len(asked) == 2
    answer.set()
    assert ask.thread is not None
    ask.thread.join()
    assert ask.found is not None
    assert ask.found.state == "RUNNING"


def test_a_controller_that_falls_silent_is_told_and_what_it_said_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[State | SlurmError] = [state("RUNNING"), SlurmError("controller", "down", "wait"), state("RUNNING")]

    def said(job: str) -> State:
        found = answers.pop(0)
        if isinstance(found, SlurmError):
            raise found
        return found

    monkeypatch.setattr("launch.status.following.state_of", said)
    ask = Slurm()
    heard = []
    for _ in range(3):
        ask.again()
        found = ask("7")
        heard.append((found and found.state, ask.silence is not None))
    assert heard == [("RUNNING", False), ("RUNNING", True), ("RUNNING", False)]


def test_a_run_directory_that_is_gone_is_said_and_not_waited_for(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "night")
    run.root.mkdir()
    reader = Reader(run)
    reader.look()
    run.root.rmdir()
    with pytest.raises(HostError, match="night: the run directory is gone"):
        tell(reader, print)
