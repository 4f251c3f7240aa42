"""What all ranks agree on once an optimizer step, before its update: its loss, whether to stop, the samples of it.

The exchange runs over a gloo group of its own, on the CPU: reading its result never waits for a GPU.
"""

import math
import signal
from dataclasses import astuple, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from training.telemetry.pulse import Heartbeat


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank, or the most of any: torch's on the GPU, and the process's resident memory."""

    peak: int = 0
    allocated: int = 0
    reserved: int = 0
    process: int = 0


@dataclass(frozen=True)
class Report:
    """What a rank tells the others of its step."""

    indices: list[int]
    """Sequences that it has taken; at most as many as every rank reserves places for."""
    loss: float = 0.0
    """Summed over its micro-batches, each divided by the labels of the whole global batch times the ranks."""
    grad_norm: float = 0.0
    own_seconds: float = 0.0
    """Spent on reading data and on the forward pass, in which it waits for no other rank unless the base is sharded."""
    memory: Memory = Memory()


@dataclass(frozen=True)
class Agreement:
    stop: bool
    indices: list[int]
    """Sequences of this step, all ranks together; without the empty places of a short last batch."""
    loss: float
    """Mean over the global batch; not finite where it is not on any rank."""
    grad_norm: float
    """Of the rank with the largest; not finite where it is not on any rank."""
    own_seconds: list[float]
    """By rank."""
    memory: Memory
    """The most of any rank."""


class Control:
    """The control group of one worker. `world_size` 1 needs no process group."""

    def __init__(self, rank: int, world_size: int, stop_file: Path, pulse: Heartbeat | None = None):
        self.rank, self.world_size, self.stop_file = rank, world_size, stop_file
        self.pulse = pulse or Heartbeat(rank)
        self.group: Any = dist.new_group(backend="gloo") if world_size > 1 else None
        self.signalled = False

    def listen(self) -> None:
        """Signals ask for a stop at the next step boundary: the run saves and ends with exit 75."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True

    def agree(self, report: Report, places: int) -> Agreement:
        """One exchange. `places` is the number of sequences that every rank reserves."""
        stop = self.signalled or (self.rank == 0 and self.stop_file.exists())
        padded = report.indices + [-1] * (places - len(report.indices))
        told = [float(stop), report.loss, report.grad_norm, report.own_seconds, *astuple(report.memory), *padded]
        # Whole numbers up to 2^53 are exact in float64: bytes and indices are.
        rows = torch.stack(self.gather(torch.tensor(told, dtype=torch.float64)))
        norms = rows[:, 2].tolist()
        return Agreement(
            stop=bool(rows[:, 0].any()),
            indices=[int(index) for index in rows[:, 8:].flatten().tolist() if index >= 0],
            loss=float(rows[:, 1].mean()),
            grad_norm=max(norms) if all(map(math.isfinite, norms)) else math.nan,
            own_seconds=rows[:, 3].tolist(),
            memory=Memory(*(int(most) for most in rows[:, 4:8].max(0).values)),
        )

    def share(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        if self.group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of the ranks, on every rank."""
        if self.group is None:
            return [value]
        collected: list[Any] = [None] * self.world_size
        dist.all_gather_object(collected, value, group=self.group)
        return collected

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's CPU tensor, all of one shape, in the order of the ranks."""
        if self.group is None:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor, group=self.group)
        return gathered
