"""A place for one cluster on this machine: a directory, a network and an interface that no other cluster has."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

SLOTS = 32


class Slot:
    """Slot `number` while this program lives: its lock ends with it, and the next owner clears what it left."""

    def __init__(self, number: int, lock: IO[str]) -> None:
        self.number = number
        self._lock = lock
        self.directory = Path(tempfile.gettempdir(), f"muster-slurm-{number}")
        self.network = f"10.88.{number}"
        self.interface = f"muster{number}"
        self.clear()
        self.directory.mkdir()

    def clear(self) -> None:
        """Removes what is there. Namespaces and daemons of a dead owner are gone already: they died with it."""
        # The kernel takes the interface away with the namespaces, a moment after.
        subprocess.run(["ip", "link", "del", self.interface], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def release(self) -> None:
        self.clear()
        self._lock.close()


def take_slot() -> Slot:
    """The first free slot. Raises RuntimeError when all are in use or their addresses are somebody else's."""
    addresses = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    for number in range(SLOTS):
        lock = Path(tempfile.gettempdir(), f"muster-slurm-{number}.lock").open("a")
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if f" 10.88.{number}." not in addresses or f": muster{number} " in addresses:
                os.utime(lock.name)
                return Slot(number, lock)
        lock.close()
    raise RuntimeError(f"{SLOTS} clusters run on this machine already, or it uses 10.88.0.0/16 itself")
