"""A worker of a run that counts what its collectives send.

    SENT=FILE accelerate launch ... -m tests.training.ranks.sent_bytes SPEC --run-dir RUN

Rank 0 writes to FILE what it had sent by each kind of collective, in bytes, when an optimizer step began: a row each.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# By operation of torch.distributed: its kind, which of its arguments holds the whole, and how many times (W - 1) / W of
# that whole is sent by one of W ranks in a ring (Patarasu and Yuan 2009).
KINDS = {
    "allreduce_": ("all-reduce", 0, 2),
    "allreduce_coalesced_": ("all-reduce", 0, 2),
    "_reduce_scatter_base_": ("reduce-scatter", 1, 1),
    "reduce_scatter_": ("reduce-scatter", 1, 1),
    "reduce_scatter_tensor_coalesced_": ("reduce-scatter", 1, 1),
    "_allgather_base_": ("all-gather", 0, 1),
    "allgather_": ("all-gather", 0, 1),
    "allgather_into_tensor_coalesced_": ("all-gather", 0, 1),
    "reduce_": ("reduce", 0, 1),
    "broadcast_": ("broadcast", 0, 1),
    "scatter_": ("scatter", 1, 1),
}
SENDS_NOTHING = ("barrier", "monitored_barrier_")


class Sent(TorchDispatchMode):
    """Bytes by kind of collective, in a world of `size` ranks."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.part, self.bytes = (size - 1) / size, Counter[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            name = function.name().split("::")[1].split(".")[0]
            if name not in SENDS_NOTHING:
                kind, which, times = KINDS[name]  # KeyError for one that nobody has thought of: it would go uncounted
                whole = sum(tensor.nbytes for tensor in tree_leaves(args[which]))
                self.bytes[kind] += int(times * self.part * whole)
        return function(*args, **(kwargs or {}))


def main() -> None:
    from training.loop.trainer import AdapterTrainer
    from training.worker import main as train

    sent, file = Sent(int(os.environ["WORLD_SIZE"])), Path(os.environ["SENT"])
    begin = AdapterTrainer.get_batch_samples

    def begun(self: Any, *positional: Any, **named: Any) -> Any:
        if self.ranks.rank == 0:
            with file.open("a") as rows:
                rows.write(json.dumps(dict(sent.bytes)) + "\n")
        return begin(self, *positional, **named)

    AdapterTrainer.get_batch_samples = begun  # type: ignore[method-assign]
    with sent:
        train()


if __name__ == "__main__":
    main()
