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
from launch.errors import GO_ON, ExitCode
from launch.machine.discover import installed
from launch.plan import Plan, resolve
from launch.plan.from_spec import text_bytes
from launch.plan.remedies import remedies
from launch.rundir import BY_A_PERSON, Attempt, RunDir
from launch.rundir.journal import event, rows
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
        forget_stop(run, place.again)
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
                return _stopped(plan, asked, run)
            if isinstance(ready, Requeue):
                return ready if plan.spec.slurm.requeue else Finish(ready.code, ready.reason)
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


def forget_stop(run: RunDir, again: bool) -> None:
    """A stop that somebody asked of an earlier process. One since we began is meant for us, as is a person's that came
    when our job, which is here `again`, was being given back: nobody has heard it."""
    with suppress(FileNotFoundError):
        asked = run.stop.stat().st_mtime
        if asked < began() and not (
            again and run.stop.read_text(encoding="utf-8") == BY_A_PERSON and asked > _told(run)
        ):
            run.stop.unlink()


def _told(run: RunDir) -> float:
    """When the last attempt's end was written, which is before its supervisor looks for stops; or, where that came to
    no end, when it began. By the clock of the run directory's file system."""
    last = run.attempt(run.last_attempt())
    return next((path.stat().st_mtime for path in (last.outcome, last.plan) if path.exists()), 0.0)


def began() -> float:
    """When this process was started, to a hundredth of a second; psutil's create_time may be a second too early."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def _asked(stopper: Stopper, place: Place) -> Asked:
    """Up to now. A preempted job's steps may get SIGTERM as if a person had sent it."""
    stopper.look()
    unnamed = stopper.asked == "person" and not stopper.by_name
    return "scheduler" if unnamed and place.preempted() else stopper.asked


def _stopped(plan: Plan, asked: Asked, run: RunDir) -> Finish | Requeue:
    reason = f"stopped as asked before training began{GO_ON}"
    if asked == "scheduler" and plan.spec.slurm.requeue:
        return Requeue(reason)
    run.stop.unlink(missing_ok=True)  # heard: no attempt's end says so to a later start of this job
    return Finish(ExitCode.STOPPED, reason)


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
