"""The loop: every few seconds a row per GPU of this node to resources.jsonl, or one row of a host without any."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from launch.rundir import RunDir
from launch.rundir.journal import append
from launch.sampling.driver import NOTHING, STUCK, STUCK_SECONDS, Driver
from launch.sampling.gpu import Row

# Of one core. A sample that costs more than its interval pays for makes the next one wait: the limit is 0.01.
CPU_SHARE = 0.007
# A training that ends before the first sample waits so long for it.
LAST_SECONDS = 3.0


class Sampler:
    """Samples until `end` is called, by any thread. `each` gets every sample's rows."""

    def __init__(
        self,
        run: RunDir,
        node: str,
        driver: Driver,
        seconds: float,
        each: Callable[[list[Row]], None] = lambda _: None,
        stuck_seconds: float = STUCK_SECONDS,
    ):
        self.run_dir, self.node, self.driver, self.seconds, self.each = run, node, driver, seconds, each
        self.stuck_seconds = stuck_seconds
        self.signals: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Something happened: a reading is there, or the end is."""
        self.ended = False
        self.samples = 0
        self.reading: threading.Thread | None = None
        self.found: dict[int, Row] | None = None
        """What the last reading gave; None until it has."""

    def run(self) -> None:
        """Takes one sample at least. Never raises OSError: a full disk is the run's to report."""
        while True:
            began, spent = time.monotonic(), time.process_time()
            gpus = self._gpus()
            if gpus is not None:
                rows = self._rows(gpus)
                self.each(rows)
                with contextlib.suppress(OSError):
                    for row in rows:
                        append(self.run_dir.resources, row)
                self.samples += 1
            self._rest(began + pause(self.seconds, time.process_time() - spent))
            if self.ended:
                return

    def end(self) -> None:
        self.ended = True
        self.signals.put(None)

    def _gpus(self) -> dict[int, Row] | None:
        """Every GPU's values; None where the training ended meanwhile.

        They are read by another thread: the driver may take its time. While it does there is one reading, not many.
        """
        if self.reading is None:
            self.found = None
            self.reading = threading.Thread(target=self._read, name="driver", daemon=True)
            self.reading.start()
        asked = time.monotonic()
        while self.found is None:
            left = self.stuck_seconds - self.driver.waiting()[0]
            if self.ended:
                left = 0.0 if self.samples else asked + LAST_SECONDS - time.monotonic()
            if left <= 0:
                return None if self.ended else self.driver.stuck()
            with contextlib.suppress(queue.Empty):
                self.signals.get(timeout=left)
        self.reading = None
        return self.found

    def _read(self) -> None:
        self.found = self.driver.read()
        self.signals.put(None)

    def _rest(self, until: float) -> None:
        while not self.ended and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self.signals.get(timeout=left)

    def _rows(self, gpus: dict[int, Row]) -> list[Row]:
        memory = psutil.virtual_memory()
        host: dict[str, Any] = {
            "node": self.node,
            "time": round(time.time(), 3),
            "host_memory_used_bytes": memory.total - memory.available,
            "host_cpu_percent": psutil.cpu_percent(),
        }
        if gpus:
            return [{**host, "gpu": index, **values} for index, values in gpus.items()]
        silent = {"error": STUCK} if self.reading is not None and not self.samples else {}
        return [{**host, "gpu": None, **NOTHING, **silent}]


def pause(seconds: float, spent: float) -> float:
    """Seconds from one sample to the next, of which `spent` were a core's."""
    return max(seconds, spent / CPU_SHARE)
