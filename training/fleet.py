"""All nodes of a run meet, and are compared, before any of them loads a model."""

import os
import time
import uuid
from datetime import timedelta

import torch
import torch.distributed as dist

from launch.errors import CommunicationError
from launch.journal import write_json
from launch.plan import Plan
from launch.preflight import CHECKS, Context, Result, accept, document, require
from launch.preflight.fingerprint import fingerprint
from launch.preflight.fleet import NodeReport, answered, fleet_results
from launch.preflight.probe import seen
from launch.preflight.result import read_document
from launch.rundir import RunDir
from launch.wording import first_line
from training.control import Control
from training.engine import Launched

# Bytes of the all-reduce: enough to be limited by the links, not by latency; fewer where gloo and a CPU do it.
GPU_BYTES, CPU_BYTES, TIMES = 64 << 20, 1 << 20, 5


def meet(plan: Plan, run: RunDir, control: Control, place: Launched) -> None:
    """Every rank of a run on several nodes calls this, with the process group made.

    Raises CommunicationError that names ranks which do not come, PreflightError for nodes that do not go together.
    """
    limits = plan.spec.preflight
    control.pulse.mark("meeting")
    _all_here(control, timedelta(seconds=limits.allreduce_seconds))
    results = fleet_results(_reports(run, control, place), limits.clock_skew_seconds)
    seconds, rate = _all_reduce(plan, limits.allreduce_seconds)
    results.append(answered(seconds, rate, limits.allreduce_gbps))
    judged = accept(results, limits.accept, [check.name for check in CHECKS])
    if control.rank == 0:
        _write(Context(plan=plan, run=run), judged)
    require(judged)


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
    control.share(None)  # all have looked, and go on at one moment
    clock = time.time()
    # Several launchers on one machine are several nodes of one name.
    node = f"{os.uname().nodename}" + (f"#{place.rank // place.local_world_size}" if _shares_a_name(control) else "")
    report = NodeReport(node=node, fingerprint=own, clock=clock, sees_directory=sees) if first else None
    reports = [each for each in control.collect(report) if each is not None]
    if control.rank == 0:
        (run.root / token).unlink(missing_ok=True)
    return reports


def _shares_a_name(control: Control) -> bool:
    places = control.collect((os.uname().nodename, os.environ.get("GROUP_RANK", "0")))
    return len(set(places)) > len({name for name, _ in places})


def _all_reduce(plan: Plan, limit: float) -> tuple[float, float]:
    """(seconds of one, bus bandwidth in GB/s) of the real group. Raises CommunicationError when it does not end.

    Bus bandwidth is 2 (W - 1) / W of the bytes over the seconds (nccl-tests, PERFORMANCE.md).
    """
    gpu, world = plan.topology.device == "gpu", plan.world_size
    size = GPU_BYTES if gpu else CPU_BYTES
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    tensor = torch.ones(size // 4, device=device)
    taken = []
    for _ in range(TIMES + 1):
        tensor.fill_(1.0)
        began = time.monotonic()
        work = dist.all_reduce(tensor, async_op=True)
        while not work.is_completed():
            if time.monotonic() - began > limit:
                raise CommunicationError(
                    f"an all-reduce of {size >> 20} MiB over all {world} ranks has not ended within {limit:g} s: see"
                    " the network of each node (NCCL_DEBUG=INFO), and preflight.allreduce_seconds"
                )
            time.sleep(0.0002)
        work.wait()
        if gpu:
            torch.cuda.synchronize()
        taken.append(time.monotonic() - began)
    if not bool((tensor == world).all()):
        raise CommunicationError(
            f"an all-reduce of ones over {world} ranks did not give {world}: the network is broken"
        )
    seconds = sorted(taken[1:])[TIMES // 2]
    return seconds, 2 * (world - 1) / world * size / seconds / 1e9


def _write(context: Context, results: list[Result]) -> None:
    """Into preflight.json, in place of what had to wait for this."""
    names = {result.name for result in results}
    before = [result for result in read_document(context.run.preflight) if result.name not in names]
    write_json(context.run.preflight, document([*before, *results], context.place))
