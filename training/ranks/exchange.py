"""Nodes exchange a tensor, each by a task of srun.

python -m training.ranks.exchange HOST PORT DEVICE DEVICES SECONDS
DEVICES processes of each node take part. The first one prints {"seconds", "gbps"}; whatever goes wrong ends the task
with an exit code that is not 0.
"""

import json
import multiprocessing
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from launch.cluster.allocation import step
from launch.errors import CommunicationError

# Enough to be limited by the links, not by latency or by how often we look; fewer where gloo and a CPU do it.
GPU_BYTES, CPU_BYTES, TIMES = 64 << 20, 8 << 20, 5


def all_reduce(device: torch.device, world_size: int, limit: float) -> tuple[float, float]:
    """(seconds of one all-reduce, bus bandwidth in GB/s) of the default group.

    Bus bandwidth is 2 (W - 1) / W of the bytes over the seconds (nccl-tests, PERFORMANCE.md). Raises CommunicationError
    when it does not end within `limit` seconds, or when the sum is wrong.
    """
    size = GPU_BYTES if device.type == "cuda" else CPU_BYTES
    tensor, taken = torch.ones(size // 4, device=device), []
    for _ in range(TIMES + 1):
        tensor.fill_(1.0)
        began = time.monotonic()
        work = dist.all_reduce(tensor, async_op=True)
        while not work.is_completed():
            if time.monotonic() - began > limit:
                raise CommunicationError(
                    f"an all-reduce of {size >> 20} MiB over all {world_size} ranks has not ended within {limit:g} s:"
                    " see the network of each node (NCCL_DEBUG=INFO), and preflight.allreduce_seconds"
                )
            time.sleep(0.0002)
        work.wait()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.monotonic() - began)
    if not bool((tensor == world_size).all()):
        raise CommunicationError(
            f"an all-reduce of ones over {world_size} ranks did not give {world_size}: the network is broken"
        )
    seconds = sorted(taken[1:])[TIMES // 2]
    return seconds, 2 * (world_size - 1) / world_size * size / seconds / 1e9


def take_part(
    local: int, node: int, nodes: int, meeting: tuple[str, int], kind: str, devices: int, limit: float
) -> None:
    """One process of one node, which ends in here unless something is wrong."""
    rank, world_size = node * devices + local, nodes * devices
    if kind == "gpu":
        torch.cuda.set_device(local)
    dist.init_process_group(
        "nccl" if kind == "gpu" else "gloo", init_method=f"tcp://{meeting[0]}:{meeting[1]}", rank=rank,
        world_size=world_size, timeout=timedelta(seconds=limit),
    )  # fmt: skip
    seconds, rate = all_reduce(torch.device("cuda", local) if kind == "gpu" else torch.device("cpu"), world_size, limit)
    if rank == 0:
        print(json.dumps({"seconds": round(seconds, 6), "gbps": round(rate, 4)}), flush=True)
    # A group that is taken down joins its threads with the interpreter's lock held, and now and then one of them waits
    # for that lock, to let go of the last tensor: the process would never end.
    os._exit(0)


def main(host: str, port: str, kind: str, devices: str, limit: str) -> int:
    place, several = step(), int(devices)
    shared = (place.node_rank, place.nodes, (host, int(port)), kind, several, float(limit))
    if several == 1:
        take_part(0, *shared)
    spawn = multiprocessing.get_context("spawn")
    started = [spawn.Process(target=take_part, args=(local, *shared)) for local in range(several)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return max(abs(process.exitcode or 0) for process in started)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
