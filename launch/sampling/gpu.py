"""What NVML says of one GPU. A value that the driver will not tell is None, never a default."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# nvml.h, nvmlClocksEventReasons, in nvidia-smi's words (clocks_event_reasons.*).
REASONS = {
    0x001: "gpu_idle", 0x002: "applications_clocks_setting", 0x004: "sw_power_cap", 0x008: "hw_slowdown",
    0x010: "sync_boost", 0x020: "sw_thermal_slowdown", 0x040: "hw_thermal_slowdown", 0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting", 0x200: "board_limit", 0x400: "reliability",
}  # fmt: skip
# What a row of resources.jsonl says of a GPU, in this order.
VALUES = (
    "utilization", "memory_used_bytes", "memory_total_bytes", "power_watts", "power_limit_watts", "temperature",
    "sm_clock_mhz", "memory_clock_mhz", "throttle_reasons", "pcie_tx_bytes_per_second", "pcie_rx_bytes_per_second",
    "nvlink_tx_bytes_per_second", "nvlink_rx_bytes_per_second",
)  # fmt: skip
ALL_LINKS = 0xFFFFFFFF  # as a scopeId: the sum over all links of a GPU (nvml.h, nvmlFieldValue_t)
# PCIe traffic is measured by the call itself, over 20 ms (nvml.h, nvmlDeviceGetPcieThroughput). Where the driver burns
# that time instead of sleeping, it is asked less often: it may cost this share of a core.
PCIE_SHARE = 0.003

Row = dict[str, Any]


class GoneError(Exception):
    """The GPU, or with it the whole driver, cannot be asked any more."""

    def __init__(self, driver: bool = False):
        self.driver = driver
        super().__init__()


@dataclass(frozen=True)
class Traffic:
    """NVLink's counters, bytes since they were reset, and when they were read, in seconds of a monotonic clock."""

    sent: int
    received: int
    clock: float


class Afforded:
    """Something that may take a share of one core: it is due again once its last cost is paid off."""

    def __init__(self, share: float):
        self.share, self.due = share, 0.0

    def is_due(self, now: float) -> bool:
        return now >= self.due

    def cost(self, cpu_seconds: float, now: float) -> None:
        self.due = now + cpu_seconds / self.share


class Gpu:
    """One GPU, read through a handle of pynvml's. `asking` is called before each question to the driver.

    `own` is the handle of what has the memory: a slice, where the GPU is divided (MIG).
    """

    def __init__(self, nvml: Any, handle: Any, asking: Callable[[], None] = lambda: None, own: Any = None):
        self.nvml, self.handle, self.asking = nvml, handle, asking
        self.own = handle if own is None else own
        self.traffic: Traffic | None = None
        self.pcie = Afforded(PCIE_SHARE)
        self.failures = 0

    def read(self) -> Row:
        """Every value of VALUES. Raises GoneError."""
        nvml, ask, self.failures = self.nvml, self._ask, 0
        used = ask(nvml.nvmlDeviceGetUtilizationRates)
        memory = ask(lambda _: nvml.nvmlDeviceGetMemoryInfo(self.own))
        power, limit = ask(nvml.nvmlDeviceGetPowerUsage), ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
        found = {
            "utilization": used and used.gpu,
            "memory_used_bytes": memory and memory.used,
            "memory_total_bytes": memory and memory.total,
            "power_watts": None if power is None else power / 1000,
            "power_limit_watts": None if limit is None else limit / 1000,
            "temperature": ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            "sm_clock_mhz": ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            "throttle_reasons": self._throttle_reasons(),
        }
        if self.failures and all(value is None for value in found.values()):
            raise GoneError  # some drivers say "unknown error" of a GPU that fell off the bus
        sent, received = self._pcie()
        linked = self._nvlink()
        return {
            **found, "pcie_tx_bytes_per_second": sent, "pcie_rx_bytes_per_second": received,
            "nvlink_tx_bytes_per_second": linked[0], "nvlink_rx_bytes_per_second": linked[1],
        }  # fmt: skip

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """None where the driver does not tell. Raises GoneError where it never will again."""
        nvml = self.nvml
        self.asking()
        try:
            return function(self.handle, *arguments)
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED):
                raise GoneError from None
            if error.value in driver_is_gone(nvml):
                raise GoneError(driver=True) from None
            # One that this GPU does not have, or this driver does not know, says nothing about its health.
            if error.value not in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                self.failures += 1
            return None

    def _throttle_reasons(self) -> list[str] | None:
        bits = self._ask(self.nvml.nvmlDeviceGetCurrentClocksEventReasons)
        if bits is None:  # its name before driver 535
            bits = self._ask(self.nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        return None if bits is None else reasons(bits)

    def _pcie(self) -> tuple[int | None, int | None]:
        """Bytes a second, out and in."""
        if not self.pcie.is_due(time.monotonic()):
            return None, None
        began, counters = time.thread_time(), (self.nvml.NVML_PCIE_UTIL_TX_BYTES, self.nvml.NVML_PCIE_UTIL_RX_BYTES)
        found = [self._ask(self.nvml.nvmlDeviceGetPcieThroughput, counter) for counter in counters]
        self.pcie.cost(time.thread_time() - began, time.monotonic())
        sent, received = (None if kilobytes is None else kilobytes * 1000 for kilobytes in found)
        return sent, received

    def _nvlink(self) -> tuple[int | None, int | None]:
        """Bytes a second since the last reading, over all links; None at the first one."""
        nvml, before = self.nvml, self.traffic
        fields = (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX)
        values = self._ask(nvml.nvmlDeviceGetFieldValues, [(field, ALL_LINKS) for field in fields])
        if values is None or any(value.nvmlReturn for value in values):
            self.traffic = None
            return None, None
        sent, received = (int(value.value.ullVal) * 1024 for value in values)
        self.traffic = Traffic(sent, received, time.monotonic())
        return rates(before, self.traffic)


def reasons(bits: int) -> list[str]:
    """The words of what holds the clocks back; a bit that has no name yet is told as a number."""
    unknown = bits & ~sum(REASONS)
    return [name for bit, name in REASONS.items() if bits & bit] + ([hex(unknown)] if unknown else [])


def rates(before: Traffic | None, after: Traffic) -> tuple[int | None, int | None]:
    """Bytes a second, out and in. None without two readings, and where the counters began anew between them."""
    if before is None or after.clock <= before.clock or after.sent < before.sent or after.received < before.received:
        return None, None
    seconds = after.clock - before.clock
    return round((after.sent - before.sent) / seconds), round((after.received - before.received) / seconds)


def driver_is_gone(nvml: Any) -> tuple[int, ...]:
    """What every call answers once the driver was unloaded, or exchanged for another version."""
    return nvml.NVML_ERROR_UNINITIALIZED, nvml.NVML_ERROR_DRIVER_NOT_LOADED, nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
