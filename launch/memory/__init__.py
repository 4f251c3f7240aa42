"""Bytes that a rank needs, from config.json and the spec alone. Pure; each term names its formula and its source."""

from launch.memory.forecast import Forecast, forecast, inference_bytes
from launch.memory.setting import Setting, adapter_of

__all__ = ["Forecast", "Setting", "adapter_of", "forecast", "inference_bytes"]
