"""A worker of a run that counts what its collectives send.

    SENT=FILE accelerate launch ... -m tests.training.sent_bytes SPEC --run-dir RUN

Rank 0 writes to FILE what it had sent by each kind of collective, in bytes, when an optimizer step began: a row each.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# By operation: its kind, and the argument that counts; of world size W an all-reduce sends 2 (W - 1) / W times its
# bytes, the others (W - 1) / W times those of the whole (Patarasu and Yuan 2009).
KINDS = {
    "allreduce_": ("all-reduce", 0, 2), "allreduce_coalesced_": ("all-reduce", 0, 2),
    "_reduce_scatter_base_": ("reduce-scatter", 1, 1), "reduce_scatter_": ("reduce-scatter", 1, 1),
    "reduce_scatter_tensor_coalesced_": ("reduce-scatter", 1, 1), "_allgather_base_": ("all-gather", 0, 1),
    "allgather_": ("all-gather", 0, 1), "allgather_into_tensor_coalesced_": ("all-gather", 0, 1),
    "reduce_": ("reduce", 0, 1), "broadcast_": ("broadcast", 0, 1),
}  # fmt: skip


class Sent(TorchDispatchMode):
    """Bytes by kind of collective, in a world of `size` ranks."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.part, self.bytes = (size - 1) / size, Counter[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            name = function.name().split("::")[1].split(".")[0]
            if name in KINDS:
                kind, which, times = KINDS[name]
                moved = sum(tensor.nbytes for tensor in tree_leaves(args[which]))
                self.bytes[kind] += int(times * self.part * moved)
            elif name not in ("barrier", "monitored_barrier_"):
                self.bytes[name] += 1
        return function(*args, **(kwargs or {}))


def main() -> None:
    from training.trainer import AdapterTrainer
    from training.worker import main as train

    sent, file = Sent(int(os.environ["WORLD_SIZE"])), Path(os.environ["SENT"])
    begin = AdapterTrainer.get_batch_samples

    def begun(self: Any, *positional: Any, **named: Any) -> Any:
        if self.ranks.rank == 0:
            with file.open("a") as rows:
                rows.write(json.dumps(dict(sent.bytes)) + "\n")
        return begin(self, *positional, **named)

    AdapterTrainer.get_batch_samples = begun  # type: ignore[method-assign]
    sent.__enter__()
    train()


if __name__ == "__main__":
    main()
