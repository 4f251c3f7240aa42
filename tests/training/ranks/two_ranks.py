"""Two CPU ranks of DeepSpeed, processes of their own, that answer a list of cases."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from launch.machine.workers import free_port

Answer = Callable[[dict[str, Any], int], dict[str, Any]]


def answer_all(answer: Answer, asked: str, file: str) -> None:
    """`asked` is a JSON list of cases. Rank 0's answer to each, made by a module's own function of case and rank, goes
    to `file`."""
    torch.multiprocessing.spawn(_rank, args=(answer, free_port(), asked, file), nprocs=2)


def _rank(rank: int, answer: Answer, port: int, asked: str, file: str) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), DS_ACCELERATOR="cpu",
    )  # fmt: skip
    torch.set_num_threads(1)
    import deepspeed
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled at first use, for half a minute
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    found = [answer(case, rank) for case in json.loads(Path(asked).read_text())]
    if rank == 0:
        Path(file).write_text(json.dumps(found))
