"""A process's own view of the machine: mounts and a host name that no other process sees (man 7 namespaces)."""

import ctypes
import os
import socket
from collections.abc import Mapping
from pathlib import Path

# <linux/sched.h>, <linux/mount.h>
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER = 0x00020000, 0x04000000, 0x10000000
MS_RDONLY, MS_BIND, MS_REC, MS_PRIVATE = 1, 4096, 16384, 1 << 18


class NotPermittedError(Exception):
    """This machine does not let another one be simulated, and why."""


def enter() -> None:
    """Leaves the machine's mounts and host name to the others. Raises OSError where the kernel does not permit it."""
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", CLONE_NEWNS | CLONE_NEWUTS)
    except PermissionError:  # without rights it takes a user namespace as well, in which one has them
        _call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)


def name_host(name: str) -> None:
    socket.sethostname(name)


def mount_memory(place: Path, options: str) -> None:
    """A file system in memory, such as `size=64m`; with `ro` nothing can be written into it. Raises OSError."""
    flags = MS_RDONLY if options == "ro" else 0
    _call("mount", b"muster", bytes(place), b"tmpfs", flags, b"" if flags else options.encode())


def put_over(places: Mapping[Path, Path]) -> None:
    """Mounts each file or folder over another one, by the place that is hidden. Raises OSError."""
    for place, source in places.items():
        _call("mount", bytes(source), bytes(place), None, MS_BIND, None)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
