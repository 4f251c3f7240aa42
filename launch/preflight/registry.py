"""Every check, by family. `muster preflight --list` and docs/preflight.md are made from this."""

from launch.preflight import (
    container,
    driver,
    fleet,
    gpu,
    kernel,
    links,
    model,
    network,
    node,
    planned,
    reporting,
    rows,
    slurm,
    software,
    storage,
)
from launch.preflight.check import Check

CHECKS: tuple[Check, ...] = (
    *planned.CHECKS, *reporting.CHECKS, *software.CHECKS, *driver.CHECKS, *kernel.CHECKS, *gpu.CHECKS, *links.CHECKS,
    *node.CHECKS, *network.CHECKS, *storage.CHECKS, *model.CHECKS, *fleet.CHECKS, *slurm.CHECKS, *container.CHECKS,
)  # fmt: skip

# Rows may take minutes to read: they are checked beside the others, without a deadline (rows.py).
LISTED: tuple[Check, ...] = (*CHECKS, rows.CHECK)
