"""A place for one cluster on this machine: a directory, a network and an interface that no other cluster has."""

import fcntl
import shutil
from pathlib import Path
from typing import IO

from tests.slurm.machine import run

SLOTS = 32
# Not TMPDIR: every program must see the same locks, and the path of munge's socket may have 107 characters.
PLACES = Path("/tmp")


class Slot:
    """Slot `number` while this program lives. Its lock ends with it, and the next owner clears what it left."""

    def __init__(self, number: int, lock: IO[str]) -> None:
        self._lock = lock
        self.directory = PLACES / f"muster-slurm-{number}"
        self.network = f"10.88.{number}"
        self.interface = f"muster{number}"
        self._clear()
        self.directory.mkdir(mode=0o755)

    def _clear(self) -> None:
        # Namespaces and daemons of a dead owner died with it; the kernel takes the interface away a moment later.
        run(["ip", "link", "del", self.interface], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def release(self) -> None:
        self._clear()
        self._lock.close()


def take_slot() -> Slot:
    """The first free slot. Raises RuntimeError when there is none."""
    addresses = run(["ip", "-4", "-o", "addr"]).stdout
    for number in range(SLOTS):
        lock = (PLACES / f"muster-slurm-{number}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        foreign = [line for line in addresses.splitlines() if f" 10.88.{number}." in line and "muster" not in line]
        if not foreign:
            return Slot(number, lock)
        lock.close()
    raise RuntimeError(f"{SLOTS} clusters run on this machine already, or 10.88.0.0/19 belongs to something else on it")
