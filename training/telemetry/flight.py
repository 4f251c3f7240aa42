"""torch's flight recorder: the last collectives that a rank began, and which of them never ended."""

import contextlib
import pickle
import sys
from pathlib import Path
from typing import Any

# The recorder of NCCL, in a torch that has it, and the one that all other backends share.
_DUMPS = ("_dump_nccl_trace", "_dump_fr_trace")


def keep_flight(path: Path) -> None:
    """Writes the record as `torchfrtrace` reads it (torch.distributed.flight_recorder); nothing where none is kept.

    Under a temporary name and renamed: whoever waits for it finds it whole.
    """
    record = _record()
    if record is None:
        return
    with contextlib.suppress(OSError):
        part = path.with_name(f".{path.name}")
        part.write_bytes(record)
        part.replace(path)


def _record() -> bytes | None:
    """Of the recorder that has seen a collective."""
    c10d: Any = sys.modules.get("torch._C._distributed_c10d")
    for name in _DUMPS:
        dump = getattr(c10d, name, None)
        # The functions are torch's own and not documented: what they raise must end no pulse.
        with contextlib.suppress(Exception):
            if dump is not None and pickle.loads(record := dump()).get("entries"):  # noqa: S301 - made by torch, here
                return bytes(record)
    return None
