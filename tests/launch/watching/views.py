"""Views as they come from runs of one GPU to many nodes."""

from typing import Any

from launch.status.following import Checkpoint, Status
from launch.watching.view import Gpu, Happening, Node, View

NOW = 1_790_000_000.0


def status(**changes: Any) -> Status:
    values: dict[str, Any] = {
        "run": "/runs/demo", "name": "demo", "state": "running", "attempt": 1, "step": 500, "steps": 1000, "loss": 1.25,
        "eta_seconds": 7200.0, "checkpoint": Checkpoint(step=475, time=NOW - 60),
    }  # fmt: skip
    return Status(**{**values, **changes})


def rows(count: int) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "step": 10 * number, "epoch": number / 50, "loss": 1 + 2 / number, "learning_rate": 2e-4, "grad_norm": 0.31,
            "tokens_per_second": 14000.0 + number, "step_seconds": 2.0, "mfu": 0.412, "data_seconds": 0.02,
            "compute_seconds": 1.8, "optimizer_seconds": 0.1, "communication_seconds": None,
            "gpu_memory_peak_bytes": 61 << 30, "skipped_steps": 2,
        }
        for number in range(1, count + 1)
    )  # fmt: skip


def node(name: str, gpus: int = 8, **changes: Any) -> Node:
    values: dict[str, Any] = {
        "utilization": 97.0, "memory": 76.0, "memory_bytes": 61.0 * 2**30, "total_bytes": 80.0 * 2**30,
        "temperature": 64.0, "watts": 310.0,
    }  # fmt: skip
    return Node(name, tuple(Gpu(index, **{**values, **changes}) for index in range(gpus)), NOW)


def view(nodes: int = 1, gpus: int = 8, count: int = 50, happened: int = 30, **changes: Any) -> View:
    values: dict[str, Any] = {
        "status": status(), "now": NOW, "logged": rows(count),
        "evaluations": ({"step": 0, "eval_loss": 3.4}, {"step": 400, "eval_loss": 1.3}),
        "nodes": tuple(node(f"gpu-node-{number:03d}.cluster", gpus) for number in range(nodes)),
        "happenings": tuple(
            Happening(f"step {25 * number}: saved a checkpoint", NOW - 600 + number, number % 7 == 6)
            for number in range(1, happened + 1)
        ),
        "ranks": f"{nodes * gpus} ranks training",
    }  # fmt: skip
    return View(**{**values, **changes})
