"""Which rows share a sequence."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Packs:
    """Rows of sequence number n: `order[starts[n]:starts[n + 1]]`."""

    order: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self, index: int) -> NDArray[np.int32]:
        return self.order[self.starts[index] : self.starts[index + 1]]


def pack(lengths: NDArray[np.int32], capacity: int) -> Packs:
    """Best-fit decreasing bin packing: no sequence is longer than `capacity` tokens.

    Rows of one length are placed together: best fit fills the fullest sequence that still has room until it has none,
    so with room r it takes r // length of them, then the next sequence does the same. The result is that of placing row
    by row, longest first, and depends on the lengths alone. Raises ValueError for a row longer than the capacity.
    """
    lengths = np.asarray(lengths, dtype=np.int32)
    if len(lengths) and int(lengths.max()) > capacity:
        row = int(lengths.argmax())
        raise ValueError(f"row {row} has {lengths[row]} tokens, more than {capacity}")
    order = np.argsort(-lengths, kind="stable").astype(np.int32)
    sizes, counts = np.unique(lengths, return_counts=True)
    bins = np.empty(len(lengths), dtype=np.int64)  # the sequence of each row, in the order of `order`
    space: dict[int, list[NDArray[np.int64]]] = defaultdict(list)  # room left -> blocks of sequences
    rooms = 0  # a bit for each room that some sequence has
    opened = placed = 0
    for size, waiting in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while waiting:
            fitting = rooms >> size
            if fitting:
                room = size + (fitting & -fitting).bit_length() - 1
                block = space[room].pop()
                if not space[room]:
                    rooms &= ~(1 << room)
            else:
                room, each = capacity, capacity // size
                block = np.arange(opened, opened - -waiting // each)
                opened += len(block)
            each = min(room // size, waiting)
            full = min(len(block), waiting // each)
            bins[placed : placed + full * each] = np.repeat(block[:full], each)
            placed, waiting = placed + full * each, waiting - full * each
            rooms = _put(space, rooms, room - each * size, block[:full])
            rest = block[full:]
            if waiting and len(rest) and waiting < room // size:  # the last sequence takes the few that are left
                bins[placed : placed + waiting] = rest[0]
                rooms = _put(space, rooms, room - waiting * size, rest[:1])
                placed, waiting, rest = placed + waiting, 0, rest[1:]
            rooms = _put(space, rooms, room, rest)
    by_bin = np.argsort(bins, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=opened))]).astype(np.int64)
    return Packs(order[by_bin], starts)


def one_each(count: int) -> Packs:
    """Every row a sequence of its own."""
    return Packs(np.arange(count, dtype=np.int32), np.arange(count + 1, dtype=np.int64))


def _put(space: dict[int, list[NDArray[np.int64]]], rooms: int, room: int, block: NDArray[np.int64]) -> int:
    """Files a block of sequences under the room that they have left."""
    if not len(block) or not room:
        return rooms
    space[room].append(block)
    return rooms | 1 << room
