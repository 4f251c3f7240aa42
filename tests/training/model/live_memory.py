"""Bytes of real tensors: what autograd keeps, and what is alive at the peak."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storages(tensors: Any) -> dict[int, int]:
    """Bytes of each storage, by its address."""
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


def saved_bytes(model: Any, run: Callable[[], Any]) -> int:
    """What `run` keeps for a backward pass beside weights and buffers; a storage counts once."""
    own = storages([*model.parameters(), *model.buffers()])
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:  # kept alive, so that no address is used twice
            kept.setdefault(storage.data_ptr(), (storage.nbytes(), tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(size for size, _ in kept.values())


# Nearly all the time of a step, and more on a processor without instructions for bf16. Layers with a bias are few.
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)


class Live(TorchDispatchMode):
    """Bytes of the storages that were made inside and are still there, and the most that there ever were.

    A product of matrices is `computed` only where its numbers matter; what it holds is its result, full of zeros.
    """

    def __init__(self, before: Any, computed: bool = False):
        super().__init__()
        self.computed = computed
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in before}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in PRODUCTS and not self.computed:
            first, second = args
            result = first.new_zeros(*first.shape[:-1], second.shape[-1])
        else:
            result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: Any) -> None:
        if storage._cdata in self._known:
            return
        self._known[storage._cdata] = size = storage.nbytes()
        weakref.finalize(storage, self._gone, storage._cdata)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int) -> None:
        self.live -= self._known.pop(key)


@contextlib.contextmanager
def computing_in(precision: str, casts: bool) -> Iterator[None]:
    """As the trainer computes: under autocast where the adapter is held in fp32."""
    with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" and casts else contextlib.nullcontext():
        yield
