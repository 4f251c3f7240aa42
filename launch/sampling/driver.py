"""The GPUs of a job on this node, through a driver that may lose one of them, go away, or never answer again."""

import contextlib
import time
from typing import Any

from launch.machine.devices import Device, handle_of, listed, visible
from launch.sampling.gpu import VALUES, GoneError, Gpu, Row

# What is lost may come back: a GPU that was reset, a driver that was loaded again. Asked so often, in seconds.
RETRY_SECONDS = 60.0
LOST, STUCK = "lost", "stuck"
# A call that has not come back after so many seconds is told as stuck. A driver that loads itself needs one or two.
STUCK_SECONDS = 30.0

NOTHING: Row = dict.fromkeys(VALUES)


class Driver:
    """Reads the first `wanted` GPUs that CUDA_VISIBLE_DEVICES lets a process use, in its order.

    A GPU keeps the index that the driver gave it at first, whatever vanishes beside it. `read` is for one thread;
    another may look at `waiting`.
    """

    def __init__(self, devices: str | None, wanted: int, retry_seconds: float = RETRY_SECONDS):
        self.devices, self.wanted, self.retry_seconds = devices, wanted, retry_seconds
        self.uuids: dict[int, str] = {}
        """Of each GPU of this job, by its index; empty until the driver has answered once."""
        self.slices: dict[int, Device] = {}
        """What is used of those of them that are divided (MIG)."""
        self.gpus: dict[int, Gpu] = {}
        """Those that can be read."""
        self.told: dict[int, str] = {}
        """What was said of those that cannot."""
        self.nvml: Any = None
        self.retry_at = 0.0
        self.call: tuple[float, int | None] | None = None
        """Since when the driver owes an answer, and about which GPU."""

    def read(self) -> dict[int, Row]:
        """Each GPU's values by its index; `error` stands in the first row of one that is lost."""
        if len(self.gpus) < (len(self.uuids) or self.wanted) and time.monotonic() >= self.retry_at:
            self._connect()
        rows = {index: self._read(index) for index in self.uuids}
        self.call = None
        return rows

    def waiting(self) -> tuple[float, int | None]:
        """Seconds that the driver has owed an answer for, and about which GPU; (0, None) where it owes none."""
        call = self.call
        return (time.monotonic() - call[0], call[1]) if call else (0.0, None)

    def stuck(self) -> dict[int, Row]:
        """What is said of each GPU while the driver does not answer about one of them, or at all."""
        about = self.waiting()[1]
        return {
            index: {**NOTHING, **self._tell(index, STUCK)} if about in (index, None) else NOTHING
            for index in self.uuids
        }

    def _read(self, index: int) -> Row:
        gpu = self.gpus.get(index)
        if gpu is None:
            return {**NOTHING, **self._tell(index, LOST)}
        try:
            row = gpu.read()
        except GoneError as gone:
            self.retry_at = time.monotonic() + self.retry_seconds
            for lost in list(self.gpus) if gone.driver else [index]:
                del self.gpus[lost]
            return {**NOTHING, **self._tell(index, LOST)}
        self.told.pop(index, None)
        return row

    def _tell(self, index: int, word: str) -> Row:
        """Once, until it is otherwise."""
        if self.told.get(index) == word:
            return {}
        self.told[index] = word
        return {"error": word}

    def _connect(self) -> None:
        """Finds the GPUs, or those that were lost. Without a driver there are none, and they are looked for later."""
        self.retry_at = time.monotonic() + self.retry_seconds
        self._asking(None)
        try:
            import pynvml

            if self.nvml is not None:
                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlShutdown()
            self.nvml = None
            pynvml.nvmlInit()
            self.nvml = pynvml
            found = self._handles()
        except Exception:  # noqa: BLE001 - no package, library, driver or permission: in each case none can be read
            self.gpus = {}
            return
        self.gpus = {index: self._gpu(index, found[uuid]) for index, uuid in self.uuids.items() if uuid in found}

    def _handles(self) -> dict[str, Any]:
        """Of every GPU that answers, by UUID: where one has vanished, the indices of those after it have changed."""
        found: dict[int, tuple[str, Any]] = {}
        for index in range(self.nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(self.nvml.NVMLError):
                handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
                found[index] = (self.nvml.nvmlDeviceGetUUID(handle), handle)
        if not self.uuids:
            chosen = [d for d in visible(listed(self.nvml), self.devices)[: self.wanted] if d.gpu in found]
            self.uuids = {device.gpu: found[device.gpu][0] for device in chosen}
            self.slices = {device.gpu: device for device in chosen if device.slice is not None}
        return dict(found.values())

    def _gpu(self, index: int, handle: Any) -> Gpu:
        known = self.gpus.get(index)
        own = handle_of(self.nvml, self.slices[index]) if index in self.slices else None
        gpu = Gpu(self.nvml, handle, lambda: self._asking(index), own)
        if known:  # a lost neighbour is no reason to forget its counters
            gpu.traffic, gpu.pcie = known.traffic, known.pcie
        return gpu

    def _asking(self, index: int | None) -> None:
        self.call = (time.monotonic(), index)
