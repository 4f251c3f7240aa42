"""What all ranks agree on once an optimizer step: whether to stop, the samples trained on, the highest memory peak.

The exchange runs over a gloo group of its own, on the CPU: reading its result never waits for a GPU.
"""

import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from training.pulse import Pulse


@dataclass(frozen=True)
class Agreement:
    stop: bool
    indices: list[int]
    """Sequences of this step, all ranks together; without the empty places of a short last batch."""
    peak_bytes: int


class Control:
    """The control group of one worker. `world_size` 1 needs no process group."""

    def __init__(self, rank: int, world_size: int, stop_file: Path, pulse: Pulse | None = None):
        self.rank, self.world_size, self.stop_file = rank, world_size, stop_file
        self.pulse = pulse or Pulse(rank)
        self.group: Any = dist.new_group(backend="gloo") if world_size > 1 else None
        self.signalled = False

    def listen(self) -> None:
        """Signals ask for a stop at the next step boundary: the run saves and ends with exit 75."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True

    def agree(self, indices: list[int], places: int, peak_bytes: int) -> Agreement:
        """One exchange. `places` is the number of sequences that every rank reserves; `indices` may be fewer."""
        stop = self.signalled or (self.rank == 0 and self.stop_file.exists())
        padded = indices + [-1] * (places - len(indices))
        mine = torch.tensor([int(stop), peak_bytes, *padded], dtype=torch.int64)
        rows = mine.unsqueeze(0)
        if self.group is not None:
            gathered = [torch.empty_like(mine) for _ in range(self.world_size)]
            dist.all_gather(gathered, mine, group=self.group)
            rows = torch.stack(gathered)
        return Agreement(
            stop=bool(rows[:, 0].any()),
            indices=[index for index in rows[:, 2:].flatten().tolist() if index >= 0],
            peak_bytes=int(rows[:, 1].max()),
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
