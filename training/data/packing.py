"""Which rows share a sequence."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing bin packing: row indices of each sequence, no sequence longer than `capacity` tokens.

    The order of the result depends on the lengths alone. Raises ValueError for a row longer than the capacity.
    """
    sequences: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (tokens left, sequence), sorted
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[row]
        if length > capacity:
            raise ValueError(f"row {row} has {length} tokens, more than {capacity}")
        place = bisect_left(space, (length, -1))
        if place == len(space):
            sequences.append([row])
            left, number = capacity - length, len(sequences) - 1
        else:
            left, number = space.pop(place)
            sequences[number].append(row)
            left -= length
        insort(space, (left, number))
    return sequences
