"""The Prometheus endpoint of a node: what was sampled last and, on the run's first node, its last step."""

import contextlib
import errno
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from launch.rundir import RunDir
from launch.rundir.journal import event
from launch.sampling.gpu import REASONS, Row
from launch.sampling.steps import Newest

MEGA = 1_000_000
# The labels after run and node, what was read, and the factor to the unit of its name.
Value = tuple[list[Any], Any, float]
# Name, factor to the unit that its name ends with (Prometheus: base units), what it is; by key of resources.jsonl.
GPU = {
    "utilization": ("gpu_utilization_ratio", 0.01, "Share of the last second or less in which a kernel ran."),
    "memory_used_bytes": ("gpu_memory_used_bytes", 1, "Memory in use, the driver's own included."),
    "memory_total_bytes": ("gpu_memory_total_bytes", 1, "Memory that there is."),
    "power_watts": ("gpu_power_watts", 1, "Power drawn."),
    "power_limit_watts": ("gpu_power_limit_watts", 1, "Power that may be drawn."),
    "temperature": ("gpu_temperature_celsius", 1, "Temperature of the chip."),
    "sm_clock_mhz": ("gpu_sm_clock_hertz", MEGA, "Clock of the multiprocessors."),
    "memory_clock_mhz": ("gpu_memory_clock_hertz", MEGA, "Clock of the memory."),
    "pcie_tx_bytes_per_second": ("gpu_pcie_transmit_bytes_per_second", 1, "Sent over PCIe, in 20 ms."),
    "pcie_rx_bytes_per_second": ("gpu_pcie_receive_bytes_per_second", 1, "Received over PCIe, in 20 ms."),
    "nvlink_tx_bytes_per_second": ("gpu_nvlink_transmit_bytes_per_second", 1, "Sent over all NVLinks."),
    "nvlink_rx_bytes_per_second": ("gpu_nvlink_receive_bytes_per_second", 1, "Received over all NVLinks."),
}
HOST = {
    "host_memory_used_bytes": ("host_memory_used_bytes", 1, "Memory of the node that is not available."),
    "host_cpu_percent": ("host_cpu_ratio", 0.01, "Share of the node's cores that was busy."),
}
# The same by key of metrics.jsonl.
STEP = {
    "step": ("step", 1, "Last logged optimizer step."),
    "epoch": ("epoch", 1, "Passes over the training rows."),
    "loss": ("loss", 1, "Mean training loss since the row before."),
    "eval_loss": ("eval_loss", 1, "Loss of the last evaluation."),
    "learning_rate": ("learning_rate", 1, "Learning rate of that step."),
    "grad_norm": ("grad_norm", 1, "Norm of its gradients before they were clipped."),
    "tokens_per_second": ("tokens_per_second", 1, "Tokens of all ranks a second, without padding."),
    "step_seconds": ("step_seconds", 1, "Mean seconds of an optimizer step."),
    "data_seconds": ("step_data_seconds", 1, "Of them waiting for batches."),
    "compute_seconds": ("step_compute_seconds", 1, "Of them in forward and backward passes."),
    "optimizer_seconds": ("step_optimizer_seconds", 1, "Of them clipping and updating."),
    "communication_seconds": ("step_communication_seconds", 1, "Of them exchanging gradients or weights."),
    "skipped_steps": ("skipped_steps", 1, "Optimizer steps whose update was left out."),
    "mfu": ("mfu_ratio", 1, "Model FLOPs utilisation."),
    "gpu_memory_peak_bytes": ("gpu_memory_peak_bytes", 1, "Peak of what torch allocated, the largest rank's."),
    "gpu_memory_allocated_bytes": ("gpu_memory_allocated_bytes", 1, "What torch has allocated, the largest rank's."),
    "gpu_memory_reserved_bytes": ("gpu_memory_reserved_bytes", 1, "What torch keeps of it all, the largest rank's."),
    "process_memory_bytes": ("process_memory_bytes", 1, "Memory of a rank's process, the largest rank's."),
    "time": ("logged_timestamp_seconds", 1, "When it was logged."),
}


class Exporter:
    """Serves http://HOST:PORT/metrics from threads of its own. A port that is taken is said once and tried again."""

    def __init__(self, run: RunDir, name: str, node: str, host: str, port: int, first: bool):
        self.run_dir, self.name, self.node, self.host, self.port = run, name, node, host, port
        self.rows: list[Row] = []
        self.steps = Newest(run.metrics) if first else None
        self.asking = threading.Lock()
        """Newest is for one thread; every scrape has one of its own."""
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        self.serves, self.told = False, False

    def sampled(self, rows: list[Row]) -> None:
        """Takes a sample. The endpoint opens with the first one."""
        self.rows = rows
        if self.serves:
            return
        try:
            server, _ = start_http_server(self.port, self.host, self.registry)
            vars(server)["handle_error"] = _nothing  # a client that went away is no line in the rank's log
            self.serves = True
        except (OSError, UnicodeError) as error:
            self._closed(error)

    def _closed(self, error: OSError | UnicodeError) -> None:
        if self.told:
            return
        self.told = True
        message, advice = refused(self.host, self.port, error)
        message = f"{message}; {self.node} has no Prometheus endpoint until then, and the training goes on"
        print(f"warning: {message}: {advice}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            event(self.run_dir.events, "warning", kind="monitoring_port", step=None, message=message, advice=advice)

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks at each scrape."""
        rows = self.rows
        gpus = [row for row in rows if row["gpu"] is not None]
        for key, (name, factor, told) in GPU.items():
            yield self._family(name, told, ["gpu"], [([row["gpu"]], row[key], factor) for row in gpus])
        readable = [([row["gpu"]], float(any(row[key] is not None for key in GPU)), 1) for row in gpus]
        yield self._family("gpu_readable", "1 where the driver tells of it, 0 where it is lost.", ["gpu"], readable)
        held = [([row["gpu"], reason], float(reason in row["throttle_reasons"]), 1) for row in gpus
                if row["throttle_reasons"] is not None for reason in REASONS.values()]  # fmt: skip
        yield self._family("gpu_throttle", "1 where this holds its clocks back.", ["gpu", "reason"], held)
        for key, (name, factor, told) in HOST.items():
            yield self._family(name, told, [], [([], row[key], factor) for row in rows[:1]])
        when: list[Value] = [([], row["time"], 1) for row in rows[:1]]
        yield self._family("sampled_timestamp_seconds", "When all this was sampled.", [], when)
        if self.steps is not None:
            yield from self._of_the_run(self.steps)

    def _of_the_run(self, steps: Newest) -> Iterator[Metric]:
        with self.asking:
            values = dict(steps.read())
        for key, (name, factor, told) in STEP.items():
            family = GaugeMetricFamily(f"muster_{name}", told, labels=["run"])
            if key in values:
                family.add_metric([self.name], values[key] * factor)
            yield family
        tokens = CounterMetricFamily("muster_tokens", "Tokens trained on, all ranks, without padding.", labels=["run"])
        if "tokens" in values:
            tokens.add_metric([self.name], values["tokens"])
        yield tokens

    def _family(self, name: str, told: str, labels: list[str], values: Sequence[Value]) -> Metric:
        family = GaugeMetricFamily(f"muster_{name}", told, labels=["run", "node", *labels])
        for place, value, factor in values:
            if value is not None:
                family.add_metric([self.name, self.node, *map(str, place)], value * factor)
        return family


def refused(host: str, port: int, error: OSError | UnicodeError) -> tuple[str, str]:
    """Why nothing can listen there, and what to do."""
    place, number = f"{host}:{port}", getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"{place} is taken by another process", "set monitoring.prometheus_port to a free one"
    if number == errno.EACCES:
        return f"{place} is not ours to use", "set monitoring.prometheus_port to one from 1024 to 65535"
    why = getattr(error, "strerror", None) or str(error)
    return f"{place} cannot be listened on ({why})", "set monitoring.prometheus_host to an address of this node"


def _nothing(*_: Any) -> None:
    pass
