"""The order of samples: the same global batches on one device and on sixty-four.

An epoch is a seeded permutation of all sequences, cut into global batches; the last one may be short. A device's
share of a global batch depends on its rank, the batches do not.
"""

import numpy as np


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of range(count); the same on every platform (NumPy's PCG64)."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    return [int(index) for index in generator.permutation(count)]


def steps_per_epoch(count: int, global_batch_size: int) -> int:
    return -(-count // global_batch_size)


def micro_batches(
    batch: list[int], rank: int, world_size: int, micro_batch_size: int, accumulation: int
) -> list[list[int]]:
    """This rank's micro-batches of one global batch, always `accumulation` of them.

    Forward pass a of rank r takes places (a x world_size + r) x micro_batch_size onwards. Where the batch has run out a
    micro-batch is shorter, or empty: every rank must still take part in each step.
    """
    starts = [(index * world_size + rank) * micro_batch_size for index in range(accumulation)]
    return [batch[start : start + micro_batch_size] for start in starts]


class MicroBatches:
    """A batch sampler over one epoch for one rank. `set_epoch` chooses the epoch."""

    def __init__(self, count: int, seed: int, rank: int, world_size: int, micro_batch_size: int, accumulation: int):
        self.count, self.seed, self.rank, self.world_size = count, seed, rank, world_size
        self.micro_batch_size, self.accumulation = micro_batch_size, accumulation
        self.global_batch_size = micro_batch_size * accumulation * world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return steps_per_epoch(self.count, self.global_batch_size) * self.accumulation

    def __iter__(self):  # type: ignore[no-untyped-def]
        order = epoch_order(self.count, self.seed, self.epoch)
        for start in range(0, self.count, self.global_batch_size):
            batch = order[start : start + self.global_batch_size]
            yield from micro_batches(batch, self.rank, self.world_size, self.micro_batch_size, self.accumulation)
