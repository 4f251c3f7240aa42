"""Whether a folder is on storage that other machines see, as far as this one can tell."""

import os
import re
from pathlib import Path
from typing import NamedTuple

# File systems of the network, by the kernel's names; others of FUSE are told by their prefix.
SHARED = {
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "virtiofs", "afs", "panfs", "wekafs",
    "glusterfs", "orangefs", "pvfs2", "ocfs2", "gfs2", "bcachefs_nfs", "daos", "quobyte", "fuse.sshfs", "fuse.ceph",
    "fuse.glusterfs", "fuse.beegfs", "fuse.juicefs", "fuse.gcsfuse", "fuse.s3fs", "fuse.dfuse", "fuse.quobyte",
    "fuse.weka", "fuse.lustre", "vboxsf",
}  # fmt: skip
LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "overlay", "f2fs", "bcachefs", "squashfs"}
MOUNTS = Path("/proc/self/mounts")
# What a machine exports itself: an NFS server's own disk is local here and shared all the same.
EXPORTS = Path("/var/lib/nfs/etab")


class Storage(NamedTuple):
    mount: str
    kind: str
    source: str
    shared: bool | None
    """None where the kind of file system does not tell."""


def storage_of(place: Path) -> Storage:
    """Of the nearest folder that is there. Raises OSError where the mounts cannot be read."""
    there = next(path for path in (place, *place.parents) if path.exists()).resolve()
    best = ("", "", "")
    for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        source, mount, kind = (_unescaped(part) for part in line.split(" ")[:3])
        if there.is_relative_to(mount) and len(mount) >= len(best[1]):  # the last of two at one place lies on top
            best = (source, mount, kind)
    source, mount, kind = best
    return Storage(mount, kind, source, _shared(kind, there))


def _unescaped(text: str) -> str:
    """The kernel writes a space as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _shared(kind: str, place: Path) -> bool | None:
    if kind in SHARED:
        return True
    if kind in LOCAL:
        return _exported(place)
    return None


def _exported(place: Path) -> bool:
    try:
        lines = EXPORTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    folders = [line.split("\t")[0] for line in lines if "\t" in line]
    return any(place.is_relative_to(folder) for folder in folders)


def same_host(names: list[str]) -> bool:
    """Whether the only node of these is this machine."""
    return {name.split(".")[0] for name in names} == {os.uname().nodename.split(".")[0]}
