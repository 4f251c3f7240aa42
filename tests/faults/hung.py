"""A mount that hangs, as one of a dead NFS server does: whoever looks at it waits until the mount is taken away."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

MNT_DETACH = 2  # <sys/mount.h>


@contextlib.contextmanager
def hung_mount(place: Path) -> Iterator[Path]:
    """A FUSE file system whose daemon never answers, not even to the kernel's first question. Needs root."""
    place.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    daemon = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={daemon},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if libc.mount(b"hung", os.fsencode(place), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), f"{place}: no FUSE file system can be mounted here")
        try:
            yield place
        finally:
            libc.umount2(os.fsencode(place), MNT_DETACH)
    finally:
        os.close(daemon)  # ends whatever still waits
