"""Where the time of a step goes, on this rank."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from launch.plan import Plan


class Stopwatch:
    """Seconds by part. On a GPU they are measured by events in its stream, which wait for nothing: `take` is called
    once the GPU has passed them."""

    def __init__(self, device: torch.device):
        self.gpu = device.type == "cuda"
        self._timed: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = self._now()
        try:
            yield
        finally:
            self._timed.append((name, began, self._now()))

    def take(self) -> dict[str, list[float]]:
        """Seconds of each time that a part was run since the last call; what a GPU has still to do comes next time."""
        taken: dict[str, list[float]] = {}
        waiting = []
        for name, began, ended in self._timed:
            if self.gpu and not ended.query():
                waiting.append((name, began, ended))
                continue
            seconds = began.elapsed_time(ended) / 1000 if self.gpu else ended - began
            taken.setdefault(name, []).append(seconds)
        self._timed = waiting
        return taken

    def _now(self) -> Any:
        if not self.gpu:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class StepSeconds:
    """The parts of the steps between two rows of metrics, of one rank."""

    def __init__(self) -> None:
        self.data = self.passes = self.updates = 0.0
        self.exchanges: list[float] = []

    def add(self, parts: dict[str, list[float]]) -> None:
        """One step's, as a Stopwatch gives them: data, forward, pass (forward and backward), optimizer."""
        passes, forwards = parts.get("pass", []), parts.get("forward", [])
        self.data += sum(parts.get("data", ()))
        self.passes += sum(passes)
        self.updates += sum(parts.get("optimizer", ()))
        backward = [whole - forward for whole, forward in zip(passes, forwards, strict=False)]
        if len(backward) > 1:
            *alone, last = backward
            self.exchanges.append(last - sum(alone) / len(alone))

    def means(self, steps: int, plan: Plan) -> dict[str, float | None]:
        """Seconds of an optimizer step. Communication is what the backward pass that exchanges gradients takes longer
        than those that do not: known for DDP that accumulates."""
        inside = self.updates if plan.zero_stage else 0.0  # DeepSpeed updates at the end of its last backward pass
        known = plan.strategy == "ddp" and self.exchanges
        return {
            "data_seconds": round(self.data / steps, 4),
            "compute_seconds": round((self.passes - inside) / steps, 4),
            "optimizer_seconds": round(self.updates / steps, 4),
            "communication_seconds": round(max(0.0, sum(self.exchanges) / len(self.exchanges)), 4) if known else None,
        }
