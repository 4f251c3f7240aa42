"""Two nodes exchange a tensor: python -m training.pair HOST PORT DEVICE SECONDS, as a task of srun on both.

The first node prints {"gbps": bus bandwidth}; whatever goes wrong ends the process with an exit code that is not 0.
"""

import json
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from launch.allocation import step

GPU_BYTES, CPU_BYTES, TIMES = 64 << 20, 4 << 20, 5


def exchange(rank: int, host: str, port: int, device: str, seconds: float) -> float:
    """Gigabytes per second of an all-reduce of two ranks; for two, bus bandwidth is bytes over seconds."""
    gpu, limit = device == "gpu", timedelta(seconds=seconds)
    dist.init_process_group(
        "nccl" if gpu else "gloo", init_method=f"tcp://{host}:{port}", rank=rank, world_size=2, timeout=limit
    )
    tensor = torch.ones((GPU_BYTES if gpu else CPU_BYTES) // 4, device="cuda" if gpu else "cpu")
    taken = []
    for _ in range(TIMES + 1):
        began = time.monotonic()
        dist.all_reduce(tensor)
        if gpu:
            torch.cuda.synchronize()
        taken.append(time.monotonic() - began)
    return tensor.numel() * 4 / sorted(taken[1:])[TIMES // 2] / 1e9


if __name__ == "__main__":
    host, port, device, seconds = sys.argv[1:]
    place = step()
    rate = exchange(place.node_rank, host, int(port), device, float(seconds))
    if place.node_rank == 0:
        print(json.dumps({"gbps": round(rate, 4)}), flush=True)
