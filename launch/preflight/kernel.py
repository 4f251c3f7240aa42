"""Xid errors: what the NVIDIA driver tells the kernel's log of a GPU."""

import errno
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from launch.preflight.check import Check, on_gpus
from launch.preflight.nvml import Unread, read
from launch.preflight.result import Context, Finding, failed, passed, unknown, warned
from launch.processes import within

LOG = Path("/dev/kmsg")
ANSWER_SECONDS = 3.0  # a driver that lives answers at once where it is loaded; this check has five
RECORD = 8192  # bytes of the longest record (printk's PRINTK_MESSAGE_MAX, and its prefix)
# NVIDIA, Xid Errors: those that need a reset, a restart or a repair. 13, 31, 43, 45 and 68 are applications' own.
FATAL = {
    48: "double bit ECC error", 62: "internal micro-controller halt", 63: "row remapping event",
    64: "row remapper failure", 74: "NVLink error", 79: "GPU has fallen off the bus", 92: "high single-bit ECC rate",
    94: "contained ECC error", 95: "uncontained ECC error", 119: "GSP RPC time-out", 120: "GSP error",
    140: "unrecovered ECC error",
}  # fmt: skip


@dataclass(frozen=True)
class Xid:
    pci: str
    number: int
    age: float
    """Seconds."""

    def __str__(self) -> str:
        return f"Xid {self.number} ({FATAL[self.number]}) at PCI {self.pci}, {self.age / 3600:.1f} h ago"


def xids(records: str, uptime: float) -> list[Xid]:
    """The fatal ones of the kernel's records (Documentation/ABI/testing/dev-kmsg), each error once, the last time.

    After the address of a divided GPU its slice may be named: (PCI:0000:3b:00 GPU-I:05).
    """
    found: dict[tuple[str, int], Xid] = {}
    for line in records.splitlines():
        match = re.match(r"\d+,\d+,(\d+),[^;]*;NVRM: Xid \(PCI:((?:[0-9a-fA-F]+:){2}[0-9a-fA-F]+)[^)]*\): (\d+)", line)
        if match and int(match[3]) in FATAL:
            pci, number = match[2], int(match[3])
            found[pci, number] = Xid(pci, number, uptime - int(match[1]) / 1e6)
    return list(found.values())


def place(pci: str) -> str:
    """Domain, bus and device of a PCI address: NVML writes 00000000:3B:00.0 what the kernel's log calls 0000:3b:00."""
    domain, bus, device = pci.partition(".")[0].split(":")
    return f"{int(domain, 16):04x}:{bus}:{device}".lower()


def elsewhere(xid: Xid, planned: Sequence[str] | None) -> bool:
    """Whether the error is of a GPU that the plan does not use. `planned`: the places of those that it does; None where
    not all of them could be read, and then each error may be of one of them."""
    return planned is not None and place(xid.pci) not in planned


def read_log(path: Path = LOG) -> str:
    """All records that the kernel still holds. Raises OSError where it may not be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    records = []
    try:
        while True:
            try:
                block = os.read(descriptor, RECORD)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:  # records were overwritten while they were read
                    continue
                raise
            if not block:
                break
            records.append(block.decode("utf-8", "replace"))
    finally:
        os.close(descriptor)
    return "".join(records)


def log_time() -> float:
    """Now, in seconds on the clock of the kernel's records."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def fatal_errors(context: Context) -> Finding:
    try:
        records = read_log()
    except OSError as error:
        fix = "ask an administrator for dmesg | grep Xid, or for kernel.dmesg_restrict=0"
        return unknown(f"the kernel's log cannot be read: {error.strerror}", fix)
    if not records:
        return unknown("the kernel's log is empty", "ask an administrator for dmesg | grep Xid")
    found = xids(records, log_time())
    if not found:
        return passed("no fatal Xid error in the kernel's log")
    recent = [xid for xid in found if xid.age < 3600 * context.plan.spec.preflight.xid_hours]
    ours = _places(context)
    own = [xid for xid in recent if not elsewhere(xid, ours)]
    told = "; ".join(f"{xid}{', a GPU that is not planned' if elsewhere(xid, ours) else ''}" for xid in recent or found)
    fix = "drain the node, reset the GPU or restart the node, and see NVIDIA's page of that Xid"
    return (failed if own else warned)(told, fix, xids=[xid.number for xid in found], planned=ours)


def _places(context: Context) -> list[str] | None:
    """Of the planned GPUs; None where the driver, which such an error may have taken with it, does not tell."""

    def address(nvml: Any, handle: Any) -> str:
        return place(str(nvml.nvmlDeviceGetPciInfo(handle).busId))

    try:
        readings = within(ANSWER_SECONDS, partial(read, context, address))
    except Exception:  # noqa: BLE001 - no driver, one that hangs, or whatever else such an error has left of it
        return None
    found = [reading.value for reading in readings if not isinstance(reading.value, Unread)]
    return found if found and len(found) == len(readings) else None


CHECKS = (
    Check(
        "xid", "driver", "an error of a GPU in the kernel's log",
        f"Xid {', '.join(map(str, FATAL))} of a planned GPU within preflight.xid_hours (NVIDIA, Xid Errors)",
        fatal_errors, on_gpus,
    ),
)  # fmt: skip
