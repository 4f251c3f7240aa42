"""Attempt after attempt, until the run is done or nothing can be mended."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console

from launch.claim import replan
from launch.discover import installed
from launch.errors import GO_ON, ExitCode
from launch.journal import event, rows
from launch.plan import Plan, resolve
from launch.planning import text_bytes
from launch.remedies import remedies
from launch.rundir import Attempt, RunDir
from launch.spec import RunSpec
from launch.supervise.attempt import Workers, run_attempt
from launch.supervise.decisions import (
    Asked,
    Decision,
    Finish,
    Past,
    Requeue,
    Restart,
    decide,
    division,
    outgrown,
    smaller_batch,
)
from launch.supervise.history import history
from launch.supervise.stopping import Stopper
from launch.supervise.successor import cut_short


class Place(Protocol):
    """Where attempts run: this machine, or the nodes of a job."""

    in_job: bool
    again: bool
    """Whether this job was started before, or its supervisor: earlier attempts are then this run's own."""

    successor: bool
    """Whether the one before this one was killed: what was asked of that is asked of us."""

    def prepared(self, plan: Plan, past: Sequence[Past]) -> Plan | Requeue:
        """The plan for what is healthy now, before each attempt.

        Raises PreflightError where nothing can run here.
        """

    def preempted(self) -> bool:
        """Whether the scheduler takes this place away for somebody else."""

    def start(self, plan: Plan, attempt: Attempt, resume: str) -> Workers: ...


def supervise(
    plan: Plan, run: RunDir, place: Place, resume: str, console: Console, verbose: bool = False
) -> Finish | Requeue:
    """Trains until there is nothing left to do. `resume` is for the attempts until one of them has saved."""
    unfinished = place.again and cut_short(run)
    if not place.successor:
        forget_stop(run)
    plan = _remembered(plan, run)
    past = history(run) if place.again else []  # what somebody has started anew begins with a clean slate
    before = len(list(rows(run.events)))
    with Stopper(run, console, place.in_job) as stopper:
        if unfinished:
            decision = decide(plan, past, "nobody")
            if not isinstance(decision, Restart):
                return _with_remedies(decision, plan)
        while True:
            ready = place.prepared(plan, past)
            if (asked := _asked(stopper, place)) != "nobody":
                return _stopped(plan, asked)
            if isinstance(ready, Requeue):
                return ready
            plan = _written(plan, ready, run)
            ended = run_attempt(plan, run, partial(place.start, resume=resume), stopper, console, verbose)
            past.append(Past(ended, plan))
            decision = decide(plan, past, _asked(stopper, place))
            if not isinstance(decision, Restart):
                return _with_remedies(decision, plan)
            resume = "auto" if _saved(run, before) else resume
            plan = _restarted(plan, decision, run, console)


def _saved(run: RunDir, before: int) -> bool:
    """Whether there is a checkpoint of our own to go on from, and no longer the one that --resume named."""
    return any(row["event"] == "saved" for row in list(rows(run.events))[before:])


def forget_stop(run: RunDir) -> None:
    """A stop that somebody asked of an earlier process; one since we began is meant for us."""
    with suppress(FileNotFoundError):
        if run.stop.stat().st_mtime < began():
            run.stop.unlink()


def began() -> float:
    """When this process was started, to a hundredth of a second; psutil's create_time may be a second too early."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def _asked(stopper: Stopper, place: Place) -> Asked:
    """Up to now. A preempted job's steps may get SIGTERM as if a person had sent it."""
    stopper.look()
    unnamed = stopper.asked == "person" and not stopper.by_name
    return "scheduler" if unnamed and place.preempted() else stopper.asked


def _stopped(plan: Plan, asked: Asked) -> Finish | Requeue:
    reason = f"stopped as asked before training began{GO_ON}"
    again = asked == "scheduler" and plan.spec.slurm.requeue
    return Requeue(reason) if again else Finish(ExitCode.STOPPED, reason)


def _restarted(plan: Plan, decision: Restart, run: RunDir, console: Console) -> Plan:
    first, saved = decision.reason.splitlines()[0], bool(run.complete_checkpoints())
    text = f"restarting from {'the newest checkpoint' if saved else 'the beginning, nothing was saved yet'}: {first}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    if decision.spec is None:
        event(run.events, "restarted", reason=decision.reason)
        return plan
    return _divided(plan, decision.spec, run)


def _divided(plan: Plan, spec: RunSpec, run: RunDir) -> Plan:
    made = replanned(plan, spec)
    event(
        run.events, "oom", reason=division(plan, spec), micro_batch_size=made.micro_batch_size,
        gradient_accumulation_steps=made.gradient_accumulation_steps, global_batch_size=made.global_batch_size,
        gradient_checkpointing=made.gradient_checkpointing, checkpointed_layers=made.checkpointed_layers,
    )  # fmt: skip
    return _written(plan, made, run)


def replanned(plan: Plan, spec: RunSpec) -> Plan:
    """The plan of another spec, on as many nodes of the same kind as that asks for."""
    topology = plan.topology.model_copy(update={"nodes": spec.cluster.nodes})
    return resolve(spec, plan.architecture, topology, installed(), text_bytes(spec.data.train))


def _written(before: Plan, plan: Plan, run: RunDir) -> Plan:
    if plan is not before:
        replan(run, plan)
    return plan


def _remembered(plan: Plan, run: RunDir) -> Plan:
    """A batch that ran out of memory in an earlier job is not tried again."""
    past = history(run)
    while outgrown(plan, past) and (spec := smaller_batch(plan)) is not None:
        plan = _divided(plan, spec, run)
    return plan


def _with_remedies(decision: Decision, plan: Plan) -> Finish | Requeue:
    assert isinstance(decision, Finish | Requeue)
    if isinstance(decision, Requeue) or decision.code != ExitCode.GPU_MEMORY:
        return decision
    found = remedies(plan.spec, plan.architecture, plan.topology, plan.precision, installed(), most=8)
    # The forecast was wrong for this plan, or it would have fitted: what needs less than it helps.
    less = [remedy for remedy in found if remedy.best.memory.process_bytes < plan.memory.process_bytes]
    lines = [f"  {remedy}" for remedy in less[:3]]
    return Finish(decision.code, "\n".join([decision.reason, *(["what needs less memory:", *lines] if lines else [])]))
