"""One attempt of a run: its workers are started elsewhere; here they are followed to their end, which is told."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Set
from dataclasses import replace
from typing import Protocol

from rich.console import Console

from launch.claim import finished
from launch.diagnosis.ending import first_cause, outcome, read_failures, unexplained
from launch.diagnosis.explain import explain
from launch.errors import GO_ON, ExitCode
from launch.logs.progress import Follower
from launch.machine.workers import BEREAVED_SECONDS
from launch.plan import Plan
from launch.rundir import BEAT_SECONDS, Attempt, RunDir
from launch.rundir.journal import beat, event, rows, write_json
from launch.rundir.pulses import ended_well, read_pulses
from launch.status.hangs import Hang, Watch
from launch.supervise.decisions import Ended
from launch.supervise.grace import Grace
from launch.supervise.history import last_step
from launch.supervise.stopping import Stopper
from launch.wording import plural

LOOK_SECONDS = 0.2
# How long ranks have to write their stacks: faulthandler does it from the signal's own handler, in milliseconds.
STACKS_SECONDS = 3.0
# A rank's collectives are kept by the thread of its pulse, at its next beat.
FLIGHT_SECONDS = 5 * BEAT_SECONDS
# A disk with less is full: neither a log line's block nor a failure file fits any more.
FULL_BYTES = 1 << 20


class Workers(Protocol):
    """All workers of an attempt, wherever they run."""

    def poll(self) -> int | None:
        """The exit code of their launcher once all have ended, negative for a signal."""

    def kill(self) -> None:
        """Ends all of them at once."""

    def cut_off(self) -> bool:
        """Whether this machine has lost touch with those that could end them, or start others."""

    def preempted(self) -> bool:
        """Whether the scheduler takes their place away for somebody else. It may have said so before they could hear
        it."""

    def leave(self) -> None:
        """Lets go of them: they end by themselves when they miss whoever supervises them."""

    def close(self) -> None:
        """Waits for their last words."""


Start = Callable[[Plan, Attempt], Workers]


def run_attempt(
    plan: Plan, run: RunDir, start: Start, stopper: Stopper, console: Console, verbose: bool = False
) -> Ended:
    """Trains once. How it ended is in the attempt's outcome.json as well."""
    attempt = run.attempt(run.last_attempt() + 1)
    attempt.root.mkdir(parents=True)
    write_json(attempt.plan, plan.model_dump(mode="json"))
    # By place and not by time: somebody may set the clock back meanwhile.
    before, began = len(list(rows(run.events))), time.monotonic()
    workers = start(plan, attempt)
    with Follower(run, console, verbose) as follower:  # to the workers' last words
        try:
            hang = _follow(plan, run, attempt, workers, stopper, follower)
        finally:  # nothing trains on when we end, whatever ends us
            if workers.poll() is None:
                workers.kill()
            workers.close()
    returncode = workers.poll() or 0
    told = {row["event"] for row in list(rows(run.events))[before:]}
    ended = _ended(plan, run, attempt, returncode, told, stopper.kill, hang)
    tell(run, attempt, ended, returncode, "failed" in told and hang is None, time.monotonic() - began)
    return ended


def _follow(
    plan: Plan, run: RunDir, attempt: Attempt, workers: Workers, stopper: Stopper, follower: Follower
) -> Hang | None:
    """Until all workers have ended. What hung, if they had to be killed for it."""
    watch = Watch(plan.spec.recovery, time.monotonic())
    bereaved: float | None = None
    grace = Grace(run, plan.spec.slurm.grace_seconds) if stopper.in_job else None
    all_hear = False
    while workers.poll() is None:
        with contextlib.suppress(OSError):  # the terminal may be gone; the run goes on
            follower.look()
        stopper.look()
        beat(attempt.supervisor, {"node": os.uname().nodename, "pid": os.getpid(), "time": round(time.time(), 3)})
        if grace is not None:
            grace.look()
        if stopper.kill:
            workers.kill()
        bereaved = (bereaved or time.monotonic()) if attempt.ended_somewhere() else None
        if bereaved is not None and time.monotonic() - bereaved > BEREAVED_SECONDS:
            _end_all(attempt, workers)
            return None
        hang = watch.look(read_pulses(attempt), time.monotonic())
        if not all_hear and len(watch.seen) == plan.world_size:
            all_hear = True
            if workers.preempted():
                stopper.warned()
        if hang is not None:
            hang = _with_stacks(hang, watch, attempt, workers)
            # A rank that has failed by itself is what the others wait for. Those that fail from here on do so because
            # they are not all ended at the same instant.
            failed = bool(read_failures(attempt))
            # Nodes that are told to end would end, and nobody who can reach Slurm would give the job back.
            workers.leave() if workers.cut_off() else _end_all(attempt, workers)
            return None if failed else hang
        time.sleep(LOOK_SECONDS)
    return None


def _with_stacks(hang: Hang, watch: Watch, attempt: Attempt, workers: Workers) -> Hang:
    """Keeps the stacks and the last collectives of all ranks. Where nobody was behind, those that could not write
    their stacks are to blame."""
    with contextlib.suppress(OSError):
        attempt.stacks_wanted.touch()
    began = time.monotonic()
    while (mute := _mute(watch, attempt)) and time.monotonic() < began + STACKS_SECONDS:
        workers.poll()  # which passes the wish on to the ranks of this machine
        time.sleep(LOOK_SECONDS)
    speaking, began = [rank for rank in watch.seen if rank not in mute], time.monotonic()
    while not all(attempt.flight(rank).exists() for rank in speaking) and time.monotonic() < began + FLIGHT_SECONDS:
        time.sleep(LOOK_SECONDS)
    if hang.ranks or len(mute) == len(watch.seen):
        return hang
    nodes = tuple(sorted({watch.seen[rank].pulse.node for rank in mute}))
    why = f"{hang.why}; these could not even write their stacks" if mute else hang.why
    return replace(hang, ranks=tuple(mute), nodes=nodes, why=why)


def _mute(watch: Watch, attempt: Attempt) -> list[int]:
    return [rank for rank in sorted(watch.seen) if not _size(attempt, rank)]


def _size(attempt: Attempt, rank: int) -> int:
    try:
        return attempt.stacks(rank).stat().st_size
    except OSError:
        return 0


def _end_all(attempt: Attempt, workers: Workers) -> None:
    with contextlib.suppress(OSError):
        attempt.over.touch()
    workers.kill()


def _ended(
    plan: Plan, run: RunDir, attempt: Attempt, returncode: int, told: Set[str], killed: bool, hang: Hang | None
) -> Ended:
    step = last_step(run)
    if killed:
        reason = f"killed as asked, before it could save{GO_ON}"
        return Ended(ExitCode.WORKER, reason, step)
    done, stopped = finished(run), "stopped" in told
    if done and ended_well(read_pulses(attempt), plan.world_size):
        returncode, hang = 0, None  # of launchers that have waited for one another too long
    if hang is not None and not stopped:
        return Ended(ExitCode.COMMUNICATION, _told(hang, attempt), step, nodes=hang.nodes)
    failures = read_failures(attempt)
    fine = (returncode == 0 and done) or stopped
    why = explain(attempt) if not fine and unexplained(failures, plan.world_size) else None
    code, reason = outcome(
        returncode, failures, plan.world_size,
        stopped=stopped, finished=done, disk_full=shutil.disk_usage(run.root).free < FULL_BYTES, explained=why,
    )  # fmt: skip
    cause = first_cause(failures)
    # A lost connection is an error of the rank that tells of it, not of the one that is gone.
    own = cause if cause is not None and cause["exit_code"] == code else {}
    error = why.name if why is not None and why.certain else own.get("error")
    return Ended(code, reason, step, error=error, checks=tuple(own.get("checks", ())))


def _told(hang: Hang, attempt: Attempt) -> str:
    if not hang.ranks:
        return f"the run hangs: {hang.why} ({attempt.root}/stacks-rank-*.txt)"
    names = ", ".join(map(str, hang.ranks))
    who = f"{plural(len(hang.ranks), 'rank').partition(' ')[2]} {names} on {', '.join(hang.nodes)}"
    return f"the run hangs: {who} {hang.why}; stacks: {attempt.root}/stacks-rank-*.txt"


def tell(run: RunDir, attempt: Attempt, ended: Ended, returncode: int, told: bool, seconds: float) -> None:
    """Writes outcome.json. `told`: whether an event says already why."""
    kind = ended.code.name.lower()
    ending = {"exit_code": int(ended.code), "class": kind, "reason": ended.reason, "step": ended.step}
    more = {
        "error": ended.error,
        "nodes": list(ended.nodes),
        "checks": list(ended.checks),
        "returncode": returncode,
        "seconds": round(seconds, 1),
    }
    with contextlib.suppress(OSError):  # on a full disk the exit code and the message are all that can be left
        if ended.code not in (ExitCode.DONE, ExitCode.STOPPED) and not told:
            event(run.events, "failed", **{"class": kind, "message": ended.reason})
        write_json(attempt.outcome, {**ending, **more})
