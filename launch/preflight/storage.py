"""The run directory: writable, on a disk that answers, and large enough."""

import os
import uuid
from pathlib import Path

from launch.machine.hardware import GIB
from launch.preflight.check import Check
from launch.preflight.result import Context, Finding, failed, passed, unknown
from launch.wording import amount

# Files of a run beside its checkpoints, and of each checkpoint: attempts, logs, tokens.
FILES, FILES_OF_CHECKPOINT = 100, 12
ELSEWHERE = "choose another place with --run-dir"


def run_directory(context: Context) -> Finding:
    """A file can be written, synced and renamed where the run directory goes."""
    root = context.run.root
    if root.exists() and not root.is_dir():
        return failed(f"{root} is a file", ELSEWHERE)
    parent = existing(root)
    try:
        # All nodes of a job do this at once, and their processes may have the same number.
        _write_probe(parent / f".muster-probe-{uuid.uuid4().hex}")
    except OSError as error:
        return failed(f"{parent}: {error.strerror or error}", ELSEWHERE)
    return passed(f"{parent} can be written")


def existing(root: Path) -> Path:
    return next(path for path in (root, *root.parents) if path.is_dir())


def _write_probe(probe: Path) -> None:
    """Writes, syncs, renames and removes a file. Raises OSError, and leaves nothing behind."""
    try:
        with open(probe, "wb") as file:
            file.write(b"probe")
            os.fsync(file.fileno())
        probe.rename(renamed := Path(f"{probe}-renamed"))
        renamed.unlink()
    except OSError:
        probe.unlink(missing_ok=True)
        raise


def space(context: Context) -> Finding:
    """For the checkpoints that are kept, the best one beside them, the one being written, and logs and tokens; of a
    sweep for those of all its elements.

    A checkpoint is the adapter in fp32 and its two moments.
    """
    plans = (context.plan, *context.beside)
    checkpoints = [plan.spec.training.save_total_limit + 2 for plan in plans]
    needed = sum(12 * plan.adapter_parameters * number for plan, number in zip(plans, checkpoints, strict=True))
    needed, kept = needed + len(plans) * (GIB // 16), sum(checkpoints)
    parent = existing(context.run.root)
    try:
        found = os.statvfs(parent)
    except OSError as error:
        return unknown(f"{parent}: {error.strerror}", ELSEWHERE)
    if not found.f_blocks:
        return unknown(f"{parent}: its file system tells no size", ELSEWHERE)
    free, inodes = found.f_bavail * found.f_frsize, found.f_favail
    told = f"{parent}: {amount(free)} free, {amount(needed)} needed for {kept:,} checkpoints"
    values = {"free": free, "needed": needed, "inodes": inodes}
    if free < needed:
        return failed(told, f"free space, or {ELSEWHERE}", **values)
    files = FILES * len(plans) + FILES_OF_CHECKPOINT * kept
    if found.f_files and inodes < files:  # 0 where the file system does not count them, as btrfs
        return failed(f"{parent}: {inodes:,} inodes free, {files:,} needed", f"remove files, or {ELSEWHERE}", **values)
    return passed(told, **values)


CHECKS = (
    Check(
        "run-directory", "storage", "a run directory that cannot be written",
        "a file is written, synced, renamed and removed", run_directory,
    ),
    Check("disk-space", "storage", "too little space, too few inodes", "all checkpoints that are kept, and two", space),
)  # fmt: skip
