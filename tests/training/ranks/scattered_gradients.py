"""What FSDP2 makes of several micro-batches' gradients in bf16, on two CPU ranks.

    python -m tests.training.ranks.scattered_gradients PORT FILE

Writes {"as accelerate has it": [...], "as training has it": [...]}: for each of MICRO_BATCHES the relative error of the
summed gradient against the fp32 sum of the very bf16 gradients that each rank computes.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import FullyShardedDataParallelPlugin
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from training.loop.trainer import sum_in_fp32

WORLD, WIDTH, ROWS = 2, 64, 16
MICRO_BATCHES = (1, 4, 16, 64)


def main(rank: int, port: int, file: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    found = {}
    for name in ("as accelerate has it", "as training has it"):
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
        plugin.set_mixed_precision("bf16")
        if name == "as training has it":
            sum_in_fp32(plugin)
        found[name] = [relative_error(rank, count, plugin.mixed_precision_policy) for count in MICRO_BATCHES]
    if rank == 0:
        Path(file).write_text(json.dumps(found))
    os._exit(0)  # gloo's threads may hold an interpreter up that ends in order


def relative_error(rank: int, count: int, policy: Any) -> float:
    """Of the gradient of one linear layer, summed over `count` micro-batches of all ranks."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(WIDTH, WIDTH, bias=False)
    weight = layer.weight.detach().clone()
    fully_shard(layer, mesh=init_device_mesh("cpu", (WORLD,)), mp_policy=policy)
    torch.manual_seed(1)
    expected = torch.zeros(WIDTH, WIDTH)
    for number in range(count):
        inputs = torch.randn(WORLD, ROWS, WIDTH).bfloat16()
        layer.set_requires_gradient_sync(number == count - 1)
        (layer(inputs[rank]).float().pow(2).mean() / count).backward()
        for each in inputs:  # all ranks' own gradients, computed in bf16 and added up in fp32
            alone = weight.bfloat16().requires_grad_()
            ((each @ alone.T).float().pow(2).mean() / count).backward()
            expected += alone.grad.float() / WORLD
    summed = layer.weight.grad.full_tensor()
    return float((summed - expected).norm() / expected.norm())


if __name__ == "__main__":
    torch.multiprocessing.spawn(main, args=(int(sys.argv[1]), sys.argv[2]), nprocs=WORLD)
