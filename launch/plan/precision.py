"""What a run computes in: what `auto` means on its devices, and what cannot be asked for there. Pure."""

from launch.errors import ConflictError
from launch.machine.hardware import Topology
from launch.spec import KeyPath, Precision, RunSpec


def precision_of(spec: RunSpec, topology: Topology) -> tuple[Precision, list[str]]:
    """What the devices compute in, with warnings. Raises ConflictError for a type that they do not have."""
    asked = spec.training.precision
    if topology.device == "cpu":
        if asked in ("bf16", "fp16"):
            raise _conflict(
                ("training", "precision"), f"training.precision {asked} needs a GPU; on CPU processes use auto or fp32"
            )
        return "fp32", []
    if asked == "auto":
        if topology.bf16:
            return "bf16", []
        return "fp16", [
            f"{topology.device_name} has no bf16: training in fp16, in which Qwen can overflow; watch for NaN"
        ]
    if asked == "bf16" and not topology.bf16:
        raise _conflict(
            ("training", "precision"),
            f"training.precision bf16 needs compute capability 8.0; {topology.device_name} has none: use fp16 or auto",
        )
    if asked == "fp16" and topology.bf16:
        return "fp16", [
            f"training.precision fp16 on {topology.device_name}, which has bf16: Qwen was trained in bf16 and can"
            " overflow in fp16; use auto"
        ]
    return asked, []


def check_adapter_precision(spec: RunSpec, topology: Topology) -> None:
    """Raises ConflictError where the run's precision, once it is known, rules out the adapter's."""
    if spec.lora.precision != "bf16":
        return
    precision, _ = precision_of(spec, topology)
    if precision == "fp16" and spec.training.precision == "auto":
        told = f"bf16, which {topology.device_name} does not have; use fp32 or auto"
        raise _conflict(("lora", "precision"), f"lora.precision {told}")
    if precision == "fp32" and spec.lora.use_dora:
        told = "bf16 with lora.use_dora in fp32: the magnitudes would be coarser than the weights; use fp32 or auto"
        raise _conflict(("lora", "precision"), f"lora.precision {told}")


def _conflict(path: KeyPath, message: str) -> ConflictError:
    return ConflictError([(path, message)])
