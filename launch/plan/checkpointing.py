"""Gradient checkpointing: which transformer blocks compute their activations again in the backward pass. Pure.

Those are the first so many that gradients flow through, not the last ones. The backward pass begins with the last
block. Where that one was kept, what it kept has gone before the first checkpointed block makes its activations anew;
were it checkpointed, they would come on top of all that the others keep. Blocks in front of the first trained one keep
nothing, and to compute them again would save nothing.
"""

from launch.memory import Adapter, adapter_of
from launch.model.architecture import Architecture
from launch.spec import KeyPath, RunSpec


def checkpointable(architecture: Architecture, adapter: Adapter) -> int:
    """How many blocks gradients flow through."""
    return architecture.layers - adapter.first_block


def asked_layers(spec: RunSpec, most: int) -> int | None:
    """How many blocks, of `most`, the spec wants checkpointed; None where the planner is to choose."""
    asked = spec.training.gradient_checkpointing
    if asked == "auto":
        return None
    return most if asked is True else int(asked)


def forcing(layers: int, most: int) -> bool | int:
    """What a spec says to have so many blocks checkpointed, of `most`."""
    return layers if 0 < layers < most else layers > 0


def extent(layers: int, most: int) -> str:
    """For a table: `off`, `on`, or how many of how many."""
    return f"{layers}/{most}" if 0 < layers < most else "on" if layers else "off"


def conflicts(spec: RunSpec, architecture: Architecture) -> list[tuple[KeyPath, str]]:
    """More blocks than there are to checkpoint."""
    most, layers = checkpointable(architecture, adapter_of(architecture, spec.lora)), architecture.layers
    asked = asked_layers(spec, most)
    if asked is None or asked <= most:
        return []
    among = f"the model has {layers} transformer blocks"
    if most < layers:
        among += f", and gradients flow through the last {most} of them alone"
    allowed = f"0 to {most}, true for all, false for none, or auto"
    message = f"training.gradient_checkpointing {asked}: {among}; allowed: {allowed}"
    return [(("training", "gradient_checkpointing"), message)]
