"""A plan as the files that others read: accelerate's YAML, DeepSpeed's JSON, command lines, batch scripts. Pure."""

from launch.render.configs import (
    AUTO,
    DECIDED,
    SHARED,
    accelerate_config,
    complete_deepspeed,
    deepspeed_config,
    launch_argv,
    node_argv,
    rendered,
    shipped,
)

__all__ = [
    "AUTO",
    "DECIDED",
    "SHARED",
    "accelerate_config",
    "complete_deepspeed",
    "deepspeed_config",
    "launch_argv",
    "node_argv",
    "rendered",
    "shipped",
]
