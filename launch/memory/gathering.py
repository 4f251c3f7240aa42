"""What DeepSpeed's ZeRO-3 holds of the weights that it gathers: its coordinator, module by module.

partitioned_param_coordinator.py (DeepSpeed 0.19): each module's weights are gathered before it runs, forward
and backward, and then those of the modules that follow, about a bucket each time, as long as no more than
stage3_max_live_parameters are there: so it runs ahead up to that limit and, as what it adds last may be as large as the
output head, beyond. After a module what is used again within stage3_max_reuse_distance stays, as does all that is
smaller than stage3_param_persistence_threshold. Several weights that are gathered together arrive in one buffer, of
which each is copied, and which stays until the last of them has been used (AllGatherCoalescedHandle).
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from launch.memory.allocator import Block, Pool

# DeepSpeed's defaults (zero/config.py), in elements: muster's configs set neither.
LIVE = REUSE = 1_000_000_000
# After so many nothing changes any more: one to learn the order, one before a step, and what those after it leave.
PASSES = 4


class Limits(NamedTuple):
    """Elements."""

    prefetch: int
    """stage3_prefetch_bucket_size."""
    persistent: int
    """stage3_param_persistence_threshold."""
    live: int = LIVE
    """stage3_max_live_parameters."""
    reuse: int = REUSE
    """stage3_max_reuse_distance."""


class Visit(NamedTuple):
    """A module that begins or ends, forward or backward."""

    module: int
    weights: tuple[int, ...]
    begins: bool
    forward: bool
    recomputed: bool = False


class Window(NamedTuple):
    """Of one rank."""

    elements: int
    """Of gathered weights at the most."""
    allocated: int
    """Bytes of them and of the buffers that they arrive in, at the most."""
    reserved: int
    """Bytes that torch's allocator holds for them: gathers run in a stream, whose blocks serve no other."""


@dataclass(eq=False)
class Trace:
    """The modules of a forward and a backward pass in their order, and the sizes of their weights."""

    elements: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Bytes."""
    trained: set[int] = field(default_factory=set)
    visits: list[Visit] = field(default_factory=list)
    modules: int = 0

    def weight(self, elements: int, size: float, trained: bool = False) -> int:
        self.elements.append(elements)
        self.sizes.append(int(size))
        if trained:
            self.trained.add(len(self.elements) - 1)
        return len(self.elements) - 1

    def module(self) -> int:
        self.modules += 1
        return self.modules


@dataclass(eq=False)
class _Arrival:
    """Weights that arrive in one buffer."""

    buffer: Block
    weights: list[int]
    waited: bool = False
    """Whether they were copied out of it."""
    expected: set[int] = field(default_factory=set)
    """Those that no module has asked for yet: the buffer stays as long as there are any."""


class Coordinator:
    """DeepSpeed's PartitionedParameterCoordinator once it knows the order of the modules.

    `owned`: whether weights of a block that is computed again stay until the module that asked for it is done
    (DeepSpeed#8148). In 2023 (0.12) they went by the reuse distance, and what no backward hook released stayed gathered
    into the next pass, uncounted.
    """

    def __init__(self, trace: Trace, limits: Limits, pool: Pool, owned: bool = True) -> None:
        self.trace, self.limits, self.pool, self.owned = trace, limits, pool, owned
        self.gathered = self.most = 0
        self._known = True
        self._persistent = {weight for weight, size in enumerate(trace.elements) if size <= limits.persistent}
        self._counted = self._step = self._queued = 0
        self._blocks: dict[int, Block] = {}
        self._arriving: dict[int, _Arrival | None] = {}
        self._active: dict[int, set[int]] = {}
        self._asking: list[int] = []
        self._recomputed: dict[int, set[int]] = {}
        self._wanted: dict[int, int] = {}
        self._decided: dict[tuple[int, int], set[int]] = {}
        steps = [visit for visit in trace.visits if visit.begins]
        self._queue = [(weight, step) for step, visit in enumerate(steps) for weight in sorted(visit.weights)]
        self._uses: dict[int, list[int]] = {}
        self._before = [0]
        for step, visit in enumerate(steps):
            self._before.append(self._before[-1] + sum(trace.elements[weight] for weight in visit.weights))
            for weight in visit.weights:
                self._uses.setdefault(weight, []).append(step)

    def run(self, known: bool = True, stepped: bool = True) -> None:
        """One forward and one backward pass. DeepSpeed does not know their order in its first: then it gathers nothing
        ahead, and keeps nothing. Steps of the optimizer leave what is persistent gathered."""
        self._known = known
        for weight in self._settle():
            self._release(weight)
        if stepped:
            self._gather(self._persistent)
            self._settle()
        self._counted = self._step = self._queued = 0
        self._wanted.clear()
        for visit in self.trace.visits:
            if visit.begins:
                self.begin(visit)
            else:
                self.end(visit)
        self._asking.clear()
        self._recomputed.clear()
        self._active.clear()
        if self.owned:  # release_backward_leftovers
            for weight in list(self._blocks):
                if weight not in self._persistent and weight not in self._arriving:
                    self._release(weight)

    def _settle(self) -> list[int]:
        arriving = list(self._arriving)
        for weight in arriving:
            self._wait(weight)
        return arriving

    def begin(self, visit: Visit) -> None:
        if not visit.forward:
            self._asking.append(visit.module)
        self._gather(visit.weights)
        for weight in visit.weights:
            self._active.setdefault(weight, set()).add(visit.module)
            if self.owned and visit.recomputed and weight not in self.trace.trained:
                self._recomputed.setdefault(self._asking[-1], set()).add(weight)
                self._active[weight].add(self._asking[-1])
            if weight in self._arriving:
                self._wait(weight)
        if self._known:
            self._prefetch(sum(self._wanted.get(weight, -1) < self._step for weight in visit.weights))
        self._step += 1

    def _prefetch(self, needed: int) -> None:
        """What the queue of weights holds next, of which the module's own go first."""
        for weight, step in self._queue[self._queued : self._queued + needed]:
            self._wanted[weight] = step
        self._queued += needed
        room = min(self.limits.live - self._counted, self.limits.prefetch)
        chosen: dict[int, None] = {}
        while self._queued < len(self._queue) and room > 0:
            weight, step = self._queue[self._queued]
            self._queued += 1
            self._wanted[weight] = max(self._wanted.get(weight, -1), step)
            if weight not in self._blocks and weight not in self._arriving and weight not in chosen:
                chosen[weight] = None
                room -= self.trace.elements[weight]
        self._gather(chosen)

    def end(self, visit: Visit) -> None:
        if visit.forward and not visit.weights:
            return
        leaving = self._released(visit) if self._known else set(visit.weights)
        if not visit.forward:
            again = self._recomputed.pop(visit.module, set())
            leaving |= again - self._persistent
            for weight in again:
                self._active[weight].discard(visit.module)
            self._asking.remove(visit.module)
        for weight in visit.weights:
            self._active[weight].discard(visit.module)
        for weight in sorted(leaving):
            self._release(weight)

    def _released(self, visit: Visit) -> set[int]:
        """What is not used again soon. Decided once for each step, as DeepSpeed caches it (__params_to_release)."""
        key = visit.module, self._step
        if key not in self._decided:
            self._decided[key] = {weight for weight in visit.weights if self._may_go(weight)}
        return self._decided[key]

    def _may_go(self, weight: int) -> bool:
        if weight in self._persistent or self._wanted.get(weight, -1) > self._step:
            return False
        uses = self._uses[weight]
        following = bisect_left(uses, self._step)
        if following == len(uses):
            return True
        return self._before[uses[following]] - self._before[self._step] >= self.limits.reuse

    def _gather(self, weights: Iterable[int]) -> None:
        missing = sorted(weight for weight in weights if weight not in self._blocks and weight not in self._arriving)
        if not missing:
            return
        count = sum(self.trace.elements[weight] for weight in missing)
        self._counted += count
        self.gathered += count
        self.most = max(self.most, self.gathered)
        buffer = self.pool.take(sum(self.trace.sizes[weight] for weight in missing))
        if len(missing) == 1:  # the buffer is the weight
            self._blocks[missing[0]], self._arriving[missing[0]] = buffer, None
        else:
            together = _Arrival(buffer, missing, expected=set(missing))
            self._arriving.update(dict.fromkeys(missing, together))

    def _wait(self, weight: int) -> None:
        together = self._arriving.pop(weight)
        if together is None:
            return
        if not together.waited:
            together.waited = True
            for one in together.weights:
                self._blocks[one] = self.pool.take(self.trace.sizes[one])
        together.expected.discard(weight)
        if not together.expected:
            self.pool.give(together.buffer)

    def _release(self, weight: int) -> None:
        """Unless a module still runs that needs it, or it has not arrived."""
        if weight not in self._blocks or self._active.get(weight):
            return
        if weight in self._arriving and self._arriving[weight] is None:
            return
        self.pool.give(self._blocks.pop(weight))
        count = self.trace.elements[weight]
        self._counted -= count
        self.gathered -= count


def window(trace: Trace, limits: Limits, owned: bool = True) -> Window:
    pool = Pool()
    coordinator = Coordinator(trace, limits, pool, owned)
    for number in range(PASSES):
        coordinator.run(known=number > 0, stepped=number > 1)
    return Window(coordinator.most, pool.peak, pool.reserved)
