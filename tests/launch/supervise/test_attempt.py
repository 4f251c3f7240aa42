"""How an attempt ended, where its ranks do not all end at the same instant."""

import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from launch.errors import ExitCode
from launch.plan import Plan
from launch.rundir import MANIFEST, Attempt, RunDir
from launch.rundir.journal import beat, event, rows, write_json
from launch.rundir.pulses import Pulse
from launch.supervise import attempt as attempts
from launch.supervise.attempt import run_attempt
from launch.supervise.stopping import Stopper
from tests.launch.conftest import CPU, plan_of, spec_of

LOST = {"rank": 0, "class": "communication", "exit_code": 8, "error": "RuntimeError", "message": "connection reset"}
OWN = {**LOST, "class": "data", "exit_code": 5, "message": "row 7 cannot be used"}


class Fake:
    """Workers that end when they are killed."""

    def cut_off(self) -> bool:
        return False

    def preempted(self) -> bool:
        return False

    def leave(self) -> None:
        self.kill()

    def kill(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Ranks(Fake):
    """Two of them: 0 shows life until all are ended, 1 has stopped to. `fails_before` and `fails_after` that end: what
    rank 0 writes of itself."""

    def __init__(self, run: RunDir, attempt: Attempt, fails_before: bool, fails_after: bool):
        self.run, self.attempt, self.fails_after = run, attempt, fails_after
        self.ended = threading.Event()
        self._beat(1)
        if fails_before:
            self._fail(OWN)
        self.beating = threading.Thread(target=self._live)
        self.beating.start()

    def _live(self) -> None:
        while not self.ended.wait(0.1):
            self._beat(0)

    def _beat(self, rank: int) -> None:
        pulse = Pulse(rank=rank, node=f"n{rank}", pid=1, phase="training", step=5, marks=9, time=time.time())
        beat(self.attempt.pulse(rank), pulse.model_dump())

    def _fail(self, told: dict[str, object]) -> None:
        write_json(self.attempt.failure(0), {**told, "time": time.time()})
        event(self.run.events, "failed", **{"class": told["class"], "message": told["message"]})

    def poll(self) -> int | None:
        return 137 if self.ended.is_set() else None

    def kill(self) -> None:
        if self.fails_after:
            self._fail(LOST)
        self.ended.set()
        self.beating.join()


@pytest.mark.parametrize(
    ("fails_before", "fails_after", "code", "reason", "nodes"),
    [
        (False, False, ExitCode.COMMUNICATION, "the run hangs: rank 1 on n1 shows no life", ("n1",)),
        (False, True, ExitCode.COMMUNICATION, "the run hangs: rank 1 on n1 shows no life", ("n1",)),
        (True, False, ExitCode.DATA, "rank 0: row 7 cannot be used", ()),
    ],
    ids=["at once", "one after the other", "failed by itself"],
)
def test_who_hangs_is_named_whatever_the_others_say_as_they_are_ended(
    fails_before: bool, fails_after: bool, code: ExitCode, reason: str, nodes: tuple[str, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(attempts, "STACKS_SECONDS", 0.2)
    monkeypatch.setattr(attempts, "FLIGHT_SECONDS", 0.2)
    run, console = RunDir(tmp_path / "run"), Console(quiet=True)
    run.root.mkdir()
    plan: Plan = plan_of(CPU, 1, spec_of("qwen2.5-7b-instruct", data={"max_length": 64}, recovery={"hang_seconds": 15}))

    def start(plan: Plan, attempt: Attempt) -> Ranks:
        return Ranks(run, attempt, fails_before, fails_after)

    with Stopper(run, console) as stopper:
        ended = run_attempt(plan, run, start, stopper, console)
    assert (ended.code, ended.nodes) == (code, nodes)
    assert ended.reason.startswith(reason)
    told = [row["message"] for row in rows(run.events) if row["event"] == "failed"]
    assert reason.endswith(told[-1]) or told[-1].startswith(reason)
    assert run.attempt(1).over.exists()


class Closing(Fake):
    """Workers that have done what they had to, and a launcher that waits for others: it ends when it is killed."""

    def __init__(self, attempt: Attempt, ranks: int):
        for rank in range(ranks):
            pulse = Pulse(rank=rank, node="n0", pid=1, phase="ended", step=5, marks=9, time=time.time())
            beat(attempt.pulse(rank), pulse.model_dump())
        self.killed = False

    def poll(self) -> int | None:
        return -9 if self.killed else None

    def kill(self) -> None:
        self.killed = True


@pytest.mark.parametrize("ending", [ExitCode.DONE, ExitCode.STOPPED])
def test_a_launcher_that_does_not_end_spoils_no_run(
    ending: ExitCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "STACKS_SECONDS", 0.2)
    monkeypatch.setattr(attempts, "FLIGHT_SECONDS", 0.2)
    run, console = RunDir(tmp_path / "run"), Console(quiet=True)
    run.root.mkdir()
    plan = plan_of(CPU, 1, spec_of("qwen2.5-7b-instruct", data={"max_length": 64}, recovery={"hang_seconds": 5}))

    def start(plan: Plan, attempt: Attempt) -> Closing:
        if ending is ExitCode.DONE:
            run.adapter.mkdir()
            write_json(run.adapter / MANIFEST, {"files": {}})
        else:
            event(run.events, "stopped", step=5)
        return Closing(attempt, plan.world_size)

    with Stopper(run, console) as stopper:
        assert run_attempt(plan, run, start, stopper, console).code is ending
    assert run.attempt(1).over.exists()


class Preempted(Fake):
    """Workers of a place that is taken away. Rank 0 begins at once, rank 1 when somebody has looked a few times; both
    stop when they are asked to."""

    def __init__(self, run: RunDir, attempt: Attempt):
        self.run, self.attempt, self.looks, self.asked_with = run, attempt, 0, list[int]()
        self._begin(0)

    def _begin(self, rank: int) -> None:
        pulse = Pulse(rank=rank, node=f"n{rank}", pid=1, phase="starting", step=0, marks=1, time=time.time())
        beat(self.attempt.pulse(rank), pulse.model_dump())

    def preempted(self) -> bool:
        self.asked_with.append(self.looks)
        return True

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks == 3:
            self._begin(1)
        assert self.looks < 20, "nobody has asked them to stop"
        if not self.run.stop.exists():
            return None
        event(self.run.events, "stopped", step=0)
        return 75


def test_a_preemption_that_came_before_the_ranks_could_hear_is_asked_for_once_they_can(tmp_path: Path) -> None:
    run, console = RunDir(tmp_path / "run"), Console(quiet=True)
    run.root.mkdir()
    two = CPU.model_copy(update={"devices_per_node": 2})
    plan = plan_of(two, 1, spec_of("qwen2.5-7b-instruct", data={"max_length": 64}))
    ranks: list[Preempted] = []

    def start(plan: Plan, attempt: Attempt) -> Preempted:
        ranks.append(Preempted(run, attempt))
        return ranks[0]

    with Stopper(run, console, in_job=True) as stopper:
        assert run_attempt(plan, run, start, stopper, console).code is ExitCode.STOPPED
        assert (stopper.asked, stopper.kill) == ("scheduler", False)
    assert ranks[0].asked_with == [3], "once, when both have begun"
