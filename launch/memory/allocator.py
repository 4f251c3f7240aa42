"""What torch's caching allocator takes from the driver for a sequence of allocations."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(eq=False)
class Block:
    """A piece of a segment. Bytes."""

    segment: list["Block"]
    size: int
    used: bool = True


class Pool:
    """CUDACachingAllocator.cpp of PyTorch 2.0, blocks of one stream, which serve no other: best fit, split, merged when
    free; never given back. Those of up to a MiB have segments of their own."""

    def __init__(self) -> None:
        self.reserved = self.allocated = self.peak = 0
        self._segments: dict[bool, list[list[Block]]] = {False: [], True: []}

    def take(self, size: int) -> Block:
        size = max(512, -(-size // 512) * 512)
        segments = self._segments[size <= MIB]
        free = [block for segment in segments for block in segment if not block.used and block.size >= size]
        block = min(free, key=lambda found: found.size, default=None) or self._segment(size)
        if block.size - size > (0 if size <= MIB else MIB):
            place = block.segment.index(block)
            block.segment.insert(place + 1, Block(block.segment, block.size - size, used=False))
            block.size = size
        block.used = True
        self.allocated += block.size
        self.peak = max(self.peak, self.allocated)
        return block

    def _segment(self, size: int) -> Block:
        """Of 2 MiB for up to one, of 20 for less than 10, else of the next 2."""
        small = size <= MIB
        length = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        segment: list[Block] = []
        segment.append(Block(segment, length, used=False))
        self._segments[small].append(segment)
        self.reserved += length
        return segment[0]

    def give(self, *blocks: Block) -> None:
        for block in blocks:
            segment, block.used = block.segment, False
            self.allocated -= block.size
            place = segment.index(block)
            if place + 1 < len(segment) and not segment[place + 1].used:
                block.size += segment.pop(place + 1).size
            if place and not segment[place - 1].used:
                segment[place - 1].size += segment.pop(place).size
