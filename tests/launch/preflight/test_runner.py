"""Checks run apart from one another: one that hangs, breaks or dies is unknown, and holds up none of the others."""

import contextlib
import multiprocessing
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from launch.errors import PreflightError, UsageError
from launch.preflight import (
    CHECKS,
    LISTED,
    Check,
    Context,
    Result,
    accept,
    document,
    require,
    run_checks,
    sentence,
    verdict,
)
from launch.preflight.probe import SEEN_SECONDS
from launch.preflight.result import Finding, failed, passed
from launch.processes import OverdueError, together, within
from launch.spec import PreflightSpec
from tests.conftest import command, until_ended
from tests.launch.preflight.conftest import ON_CPU, ON_GPUS, context


def check(name: str, run: Any, **more: Any) -> Check:
    return Check(name, "node", "something wrong", "none", run, **more)


def result(status: Any, name: str = "shm", **more: Any) -> Result:
    return Result(name=name, family="node", status=status, evidence="64 MiB", fix="more", **more)


def children() -> set[int]:
    """This process's own, those that have ended and were not taken leave of among them."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def test_every_check_is_described_and_called_by_one_name() -> None:
    assert len({check.name for check in LISTED}) == len(LISTED)
    assert all(check.finds and check.threshold for check in LISTED)
    assert {check.family for check in LISTED} == {
        "gpu", "driver", "node", "software", "network", "storage", "model", "data", "plan", "slurm",
    }  # fmt: skip


def test_a_node_answers_in_time_whatever_hangs_on_it() -> None:
    """Else its silence is all that is told of it, and not which check hangs."""
    slowest = max(check.deadline for check in CHECKS)
    assert SEEN_SECONDS + slowest + 5 < PreflightSpec().answer_seconds


def test_results_stand_in_the_checks_order_with_what_they_are_of() -> None:
    checks = [
        check("slow", lambda c: time.sleep(0.2) or passed("in time")),
        check("quick", lambda c: passed("at once")),
    ]
    slow, quick = run_checks(context(ON_CPU), checks)
    assert (slow.name, slow.family, slow.status, slow.evidence, slow.threshold) == (
        "slow", "node", "pass", "in time", "none",
    )  # fmt: skip
    assert slow.seconds > 0.2
    assert quick.seconds > 0


def test_a_check_that_does_not_concern_the_run_is_skipped_with_the_reason() -> None:
    def never(context: Context) -> Finding:
        raise AssertionError("it ran")

    (found,) = run_checks(context(ON_CPU), [check("gpu", never, concerns=lambda c: "no GPU is planned")])
    assert (found.status, found.evidence) == ("skipped", "no GPU is planned")


def test_a_check_that_breaks_is_unknown() -> None:
    def broken(context: Context) -> Finding:
        raise ZeroDivisionError("division by zero")

    found = run_checks(context(ON_CPU), [check("broken", broken), check("fine", lambda c: passed("yes"))])
    assert (found[0].status, found[0].fix) == ("unknown", "report this")
    assert found[0].evidence == "the check itself failed: ZeroDivisionError: division by zero"
    assert found[1].status == "pass"


def test_a_check_whose_process_dies_is_unknown() -> None:
    found = run_checks(context(ON_CPU), [check("killed", lambda c: os.kill(os.getpid(), signal.SIGKILL))])
    assert found[0].status == "unknown"
    assert found[0].evidence.endswith("its process ended without an answer")


def test_a_mount_that_hangs_is_unknown_after_its_deadline(tmp_path: Path) -> None:
    """Opening a FIFO that nobody writes to blocks for ever, as a dead NFS server does; the others are done by then."""
    os.mkfifo(tmp_path / "dead")
    hanging = check("hanging", lambda c: passed((tmp_path / "dead").read_text()), deadline=3.0)
    found = run_checks(context(ON_CPU), [hanging, check("fine", lambda c: passed("yes"))])
    assert (found[0].status, found[0].evidence) == ("unknown", "no answer within 3 s")
    assert found[0].fix.startswith("see what hangs there: ")
    assert (found[1].status, found[1].seconds < found[0].seconds) == ("pass", True)


def test_what_an_overdue_check_has_started_ends_with_it(tmp_path: Path) -> None:
    def starts_another(context: Context) -> Finding:
        child = subprocess.Popen(["sleep", "300"])
        (tmp_path / "pid").write_text(str(child.pid))
        child.wait()
        return passed("")

    run_checks(context(ON_CPU), [check("parent", starts_another, deadline=5.0)])
    until_ended(int((tmp_path / "pid").read_text()))


def test_functions_run_at_the_same_time_and_leave_no_process_behind() -> None:
    before_them, all_ten = children(), multiprocessing.get_context("fork").Barrier(10)
    answers = together([(lambda: all_ten.wait(100), 100.0)] * 10)
    assert sorted(answer for answer, _ in answers if isinstance(answer, int)) == list(range(10))
    assert children() == before_them


def test_an_answer_is_not_late_because_nobody_has_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where whoever asked was stopped, or had no core."""

    class Sleepy(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            time.sleep(1.0)
            return super().select(timeout)

    monkeypatch.setattr(selectors, "DefaultSelector", Sleepy)
    ((answer, _), (late, _)) = together([(lambda: "here", 0.5), (lambda: time.sleep(60), 0.5)])
    assert answer == "here"
    assert isinstance(late, OverdueError)


def test_a_process_whose_parent_has_ended_already_ends() -> None:
    code = "import os; from launch.processes import die_with_parent as d; "
    code += "d(os.getppid()); d(os.getppid() + 1); print()"
    done = command("-c", code)
    assert (done.code, done.out) == (1, "")


def test_an_interrupt_leaves_no_process_behind() -> None:
    """Ctrl-C reaches this process alone; here it comes while the functions run, not while they are being started, when
    Python's own hooks around a fork would swallow it."""
    before_them, before = children(), signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 5)
    try:
        with pytest.raises(KeyboardInterrupt):
            together([(lambda: time.sleep(60), 60.0)] * 3)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert children() == before_them


def test_an_answer_larger_than_a_pipe_arrives_whole() -> None:
    assert within(10.0, lambda: "x" * 1_000_000) == "x" * 1_000_000


def test_what_a_function_raises_is_raised() -> None:
    with pytest.raises(PreflightError, match="no GPU"):
        within(5.0, lambda: require([failing]))
    with pytest.raises(OverdueError):
        within(0.2, lambda: time.sleep(5))


failing = result("fail").model_copy(update={"evidence": "no GPU"})


# Verdicts


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        (["pass", "skipped"], "pass"),
        (["pass", "warn"], "warn"),
        (["warn", "unknown"], "unknown"),
        (["unknown", "fail", "pass"], "fail"),
        ([], "pass"),
    ],
)
def test_the_verdict_is_the_worst(statuses: list[Any], worst: str) -> None:
    results = [result(status) for status in statuses]
    assert verdict(results) == worst
    assert document(results, "1 GPU on 1 node")["status"] == worst


def test_the_verdict_in_one_line() -> None:
    place = context(ON_GPUS).place
    assert sentence([result("pass")], place) == "Ready: 2 GPUs on 1 node"
    assert sentence([result("warn"), result("warn"), result("unknown")], place) == (
        "Ready: 2 GPUs on 1 node, 2 warnings, 1 unknown"
    )
    assert sentence([result("fail", node="n3"), result("fail", "disk")], place) == (
        "Not ready: node n3: shm: 64 MiB, and 1 more"
    )


def test_every_failure_is_told_with_its_fix_and_how_to_go_on() -> None:
    with pytest.raises(PreflightError) as caught:
        require([result("fail"), result("pass", "cores"), result("fail", "disk")])
    assert str(caught.value).splitlines() == [
        "the checks failed, nothing was started",
        "shm: 64 MiB. more",
        "disk: 64 MiB. more",
        "to start anyway: --accept shm --accept disk",
    ]


def test_what_is_accepted_warns() -> None:
    known = ["shm", "disk"]
    found = accept([result("fail"), result("fail", "disk"), result("unknown")], ["shm"], known)
    assert [(r.status, r.accepted) for r in found] == [("warn", True), ("fail", False), ("unknown", False)]
    with pytest.raises(UsageError, match="no check is called gpu; allowed: shm, disk"):
        accept([], ["gpu"], known)


def test_failures_first_in_a_finding() -> None:
    assert failed("a", "b", value=1) == Finding(status="fail", evidence="a", fix="b", values={"value": 1})


@pytest.mark.parametrize("seed", range(3))
def test_families_are_shown_in_the_order_of_the_catalogue(seed: int) -> None:
    """Those that stop a run come first. Names have another hash in each process."""
    code = """if True:
        from rich.console import Console
        from launch.preflight import Result
        from launch.preflight.screen import checks_view
        families = ("plan", "software", "node", "data")
        rows = [Result(name=f, family=f, status="pass", evidence=f, fix="") for f in families]
        broken = rows[0].model_copy(update={"name": "gpu", "family": "gpu", "status": "fail"})
        Console(width=200).print(checks_view([*rows, broken], "here"))
    """
    done = command("-c", code, PYTHONHASHSEED=str(seed))
    names = [line.split()[1] for line in done.out.splitlines()[1:6]]
    assert names == ["gpu", "plan", "software", "node", "data"], done.err
