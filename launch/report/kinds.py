"""Which charts there are: a row each, with the keys of metrics.jsonl or resources.jsonl that it draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from launch.report.reading import Reading
from launch.report.values import (
    BYTES,
    CELSIUS,
    MEGAHERTZ,
    PERCENT,
    PLAIN,
    RATE,
    SECONDS,
    SHARE,
    TOKENS,
    WATTS,
    Unit,
)

Levels = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Kind:
    name: str
    title: str
    unit: Unit
    keys: Mapping[str, str]
    """Key to curve; a key that ends in * stands for all others that begin so."""
    about: str
    levels: Callable[[Reading], Levels] = lambda _: ()
    logarithmic: bool = False
    """Whether a logarithmic axis is offered: where a spike flattens all the rest."""
    alone: bool = False
    """Not where runs are compared: its curves are parts of one run."""
    of_trouble: bool = False
    """Nothing to see while it is zero throughout."""


def _clipped(reading: Reading) -> Levels:
    return (("clipped above", reading.plan.spec.training.max_grad_norm),) if reading.plan else ()


def _rate(reading: Reading) -> Levels:
    forecast = reading.plan.throughput if reading.plan else None
    if forecast is None:
        return ()
    return (("forecast", forecast.tokens_per_second), ("at least", forecast.low), ("at most", forecast.high))


def _step_time(reading: Reading) -> Levels:
    forecast = reading.plan.throughput if reading.plan else None
    return (("forecast of a step", forecast.step_seconds),) if forecast else ()


def _peak(reading: Reading) -> Levels:
    plan = reading.plan
    if plan is None or plan.topology.device == "cpu":
        return ()
    return (
        ("forecast of what is allocated", plan.memory.peak_bytes),
        ("forecast of what is reserved", plan.memory.reserved_bytes),
    )


def _process(reading: Reading) -> Levels:
    """Without a GPU it is what counts, and is forecast when the run rehearses."""
    plan = reading.plan
    if plan is None or plan.topology.device == "gpu" or plan.measured is None:
        return ()
    return (("forecast", plan.measured.forecast_bytes),)


def _device(reading: Reading) -> Levels:
    plan = reading.plan
    if plan is None or plan.topology.device == "cpu":
        return ()
    return (("forecast", plan.memory.process_bytes), ("the device has", plan.topology.memory_bytes))


STEPS = (
    Kind("loss", "Loss", PLAIN, {"loss": "training", "eval_loss": "evaluation"},
         "Cross-entropy per trained token, in nats. The evaluation at step 0 is the untrained base's.",
         logarithmic=True),
    Kind("scores", "Evaluation scores", PLAIN, {"eval_*": ""}, "What the answers are worth at each evaluation."),
    Kind("learning-rate", "Learning rate", PLAIN, {"learning_rate": "learning rate"}, "As the scheduler set it."),
    Kind("gradient-norm", "Gradient norm", PLAIN, {"grad_norm": "gradient norm"},
         "L2 norm of all trained gradients, before clipping.", _clipped, logarithmic=True),
    Kind("throughput", "Throughput", TOKENS, {"tokens_per_second": "tokens per second"},
         "Tokens of all devices together, padding left out. The forecast is of sequences of full length.", _rate),
    Kind("mfu", "Model FLOPs utilisation", SHARE, {"mfu": "MFU"},
         "FLOPs that the model needs, as a share of what the devices can do."),
    Kind("step-time", "Time of a step", SECONDS, {"step_seconds": "step"}, "Of one optimizer step.", _step_time,
         logarithmic=True),
    Kind("step-parts", "Where a step's time goes", SECONDS,
         {"data_seconds": "waiting for data", "compute_seconds": "forward and backward",
          "optimizer_seconds": "clipping and update", "communication_seconds": "communication"},
         "Mean over the steps since the last row. Communication is part of the others where it overlaps.", alone=True),
    Kind("memory", "Memory of training", BYTES,
         {"gpu_memory_peak_bytes": "peak so far", "gpu_memory_allocated_bytes": "allocated",
          "gpu_memory_reserved_bytes": "reserved"},
         "On the GPU of the rank that takes most, as torch counts it.", _peak),
    Kind("process-memory", "Memory of the process", BYTES, {"process_memory_bytes": "resident"},
         "In the host's memory, of the rank that takes most.", _process),
    Kind("skipped", "Steps left out", PLAIN, {"skipped_steps": "left out so far"},
         "Optimizer steps whose update the stability guard did not make.", of_trouble=True),
)  # fmt: skip

GPUS = (
    Kind("gpu-utilisation", "GPU utilisation", PERCENT, {"utilization": ""},
         "Share of the time in which a kernel ran (NVML). It says nothing of how much of the GPU that kernel used."),
    Kind("gpu-memory", "GPU memory", BYTES, {"memory_used_bytes": ""}, "All that is in use on each GPU, as the driver"
         " counts it.", _device),
    Kind("gpu-power", "GPU power", WATTS, {"power_watts": ""}, "Drawn by each GPU."),
    Kind("gpu-temperature", "GPU temperature", CELSIUS, {"temperature": ""}, "Of each GPU's core."),
    Kind("gpu-clock", "GPU clock", MEGAHERTZ, {"sm_clock_mhz": ""}, "Of the streaming multiprocessors."),
    Kind("gpu-pcie", "PCIe traffic", RATE, {"pcie_tx_bytes_per_second": "sent", "pcie_rx_bytes_per_second": "received"},
         "Of each GPU."),
    Kind("gpu-nvlink", "NVLink traffic", RATE,
         {"nvlink_tx_bytes_per_second": "sent", "nvlink_rx_bytes_per_second": "received"}, "Of each GPU."),
)  # fmt: skip

HOSTS = (
    Kind("host-memory", "Host memory", BYTES, {"host_memory_used_bytes": ""}, "In use on each node, by all processes."),
    Kind("host-cpu", "Host CPU", PERCENT, {"host_cpu_percent": ""}, "Of all cores of each node together."),
)  # fmt: skip
