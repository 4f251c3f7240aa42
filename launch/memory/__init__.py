"""Bytes that a rank needs, from config.json and the spec alone. Pure; each term names its formula and its source."""

from launch.memory.forecast import Forecast, fewest_checkpointed, forecast, inference_bytes
from launch.memory.measured import Measured
from launch.memory.setting import Adapter, Setting, adapter_of

__all__ = [
    "Adapter", "Forecast", "Measured", "Setting", "adapter_of", "fewest_checkpointed", "forecast", "inference_bytes"
]  # fmt: skip
