"""Work in batches that a GPU has room for."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from launch.diagnosis.exceptions import classify
from launch.errors import ExitCode, GpuMemoryError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(
    items: Sequence[Item], size: int, work: Callable[[list[Item]], Result]
) -> Iterator[tuple[list[Item], Result]]:
    """Each batch of at most `size` items with what `work` makes of it. One that does not fit is halved, as are those
    that follow.

    Raises GpuMemoryError when a single item does not fit.
    """
    start = 0
    while start < len(items):
        batch = list(items[start : start + size])
        result = _tried(work, batch)
        if result is None:
            if len(batch) == 1:
                raise GpuMemoryError("the GPU has no room for a single sequence of this evaluation")
            size = len(batch) // 2
            torch.cuda.empty_cache()
            continue
        yield batch, result
        start += len(batch)


def _tried(work: Callable[[list[Item]], Result], batch: list[Item]) -> Result | None:
    """None when it does not fit. By the time of return the error, which holds its tensors, is gone."""
    try:
        return work(batch)
    except RuntimeError as error:
        if classify(error)[0] is not ExitCode.GPU_MEMORY:
            raise
        return None
