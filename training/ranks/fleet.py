"""All nodes of a run meet, and are compared, before any of them loads a model."""

import os
import time
import uuid
from datetime import timedelta

import torch
import torch.distributed as dist

from launch.errors import CommunicationError
from launch.plan import Plan
from launch.preflight import CHECKS, Context, Result, accept, document, require
from launch.preflight.fingerprint import fingerprint
from launch.preflight.fleet import NodeReport, answered, fleet_results
from launch.preflight.probe import seen
from launch.preflight.result import read_document
from launch.rundir import RunDir
from launch.rundir.journal import write_json
from launch.wording import first_line
from training.ranks.control import Control
from training.ranks.engine import Launched
from training.ranks.exchange import all_reduce

CLOCK_READINGS = 3


def meet(plan: Plan, run: RunDir, control: Control, place: Launched) -> None:
    """Every rank of a run on several nodes calls this, with the process group made.

    Raises CommunicationError that names ranks which do not come, PreflightError for nodes that do not go together.
    """
    limits = plan.spec.preflight
    control.pulse.mark("meeting")
    _all_here(control, timedelta(seconds=limits.allreduce_seconds))
    results = fleet_results(_reports(run, control, place), limits)
    gpu = plan.topology.device == "gpu"
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    seconds, rate = all_reduce(device, plan.world_size, limits.allreduce_seconds)
    results.append(answered(seconds, rate, limits.allreduce_gbps))
    judged = accept(results, limits.accept, [check.name for check in CHECKS])
    if control.rank == 0:
        _write(Context(plan=plan, run=run), judged)
    require(judged)
    control.pulse.mark("starting")  # the model is loaded next, which may take longer than a step


def _all_here(control: Control, limit: timedelta) -> None:
    try:
        dist.monitored_barrier(group=control.group, timeout=limit, wait_all_ranks=True)
    except RuntimeError as error:
        raise CommunicationError(
            f"not all {control.world_size} ranks came within {limit.seconds} s: {first_line(error)}; see the logs of"
            " those ranks, and whether their nodes can reach each other"
        ) from error


def _reports(run: RunDir, control: Control, place: Launched) -> list[NodeReport]:
    """One of each node, by its first rank."""
    token = control.share(f".meeting-{uuid.uuid4().hex}" if control.rank == 0 else None)
    if control.rank == 0:
        (run.root / token).touch()
    first = place.local_rank == 0
    sees = seen(run.root / token) if first else True
    own = fingerprint() if first else {}
    clock = _clock(control)
    # Several launchers on one machine are several nodes of one name.
    node = f"{os.uname().nodename}" + (f"#{place.rank // place.local_world_size}" if _shares_a_name(control) else "")
    report = NodeReport(node=node, fingerprint=own, clock=clock, sees_directory=sees) if first else None
    reports = [each for each in control.collect(report) if each is not None]
    if control.rank == 0:
        (run.root / token).unlink(missing_ok=True)
    return reports


def _clock(control: Control) -> float:
    """This rank's clock, read by all at one moment: of some moments the one at which they differ least, for a busy
    machine may keep a rank from reading its own in time."""
    clocks = []
    for _ in range(CLOCK_READINGS):
        control.share(None)
        clocks.append(time.time())
    differences = [max(moment) - min(moment) for moment in zip(*control.collect(clocks), strict=True)]
    return clocks[differences.index(min(differences))]


def _shares_a_name(control: Control) -> bool:
    places = control.collect((os.uname().nodename, os.environ.get("GROUP_RANK", "0")))
    return len(set(places)) > len({name for name, _ in places})


def _write(context: Context, results: list[Result]) -> None:
    """Into preflight.json, in place of what had to wait for this."""
    names = {result.name for result in results}
    before = [result for result in read_document(context.run.preflight) if result.name not in names]
    write_json(context.run.preflight, document([*before, *results], context.place))
