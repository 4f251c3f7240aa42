"""resolve(spec, architecture, topology) -> Plan. The plan that is printed is the object that runs.

Pure: no clock, no disk, no environment. plan.json is this object, and a worker reads it back.
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from launch.errors import ConflictError, NoPlanError, PlanMismatch
from launch.machine.hardware import Topology
from launch.memory import Forecast, Measured, Setting, adapter_of
from launch.model import adapter
from launch.model.adapter import adapter_parameters
from launch.model.architecture import Architecture
from launch.plan import checkpointing
from launch.plan.batch import alone, asked_devices, divide_batch, micro_batch_sizes, on_one_device, other_batch
from launch.plan.compatibility import Refusal, refusals
from launch.plan.kernels import attention_of, lora_of, loss_of
from launch.plan.kernels import conflicts as kernel_conflicts
from launch.plan.precision import check_adapter_precision, precision_of
from launch.plan.remedies import remedies
from launch.plan.strategy import Candidate, candidates, choose, optimizer_under, setting_of
from launch.plan.throughput import Throughput
from launch.plan.why import reason, too_large
from launch.spec import (
    OFFLOADS,
    ZERO_STAGES,
    Attention,
    KeyPath,
    LoraImplementation,
    Loss,
    Norms,
    Optimizer,
    Precision,
    RunSpec,
    Strategy,
)
from launch.spec.contradictions import batch_contradictions
from launch.versions import NEWEST, Versions

# Of English as JSON, with the keys and quotes that are no tokens of a sequence.
BYTES_PER_TOKEN = 4.5


class Plan(BaseModel):
    """Everything that a run does, resolved. Nothing in it says `auto`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    strategy: Strategy
    reason: str
    world_size: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    global_batch_size: int
    precision: Precision
    attention: Attention
    lora_implementation: LoraImplementation = "peft"
    """Who computes adapted layers; what plans without it meant."""
    norms: Norms = "plain"
    """Likewise of RMS norms."""
    loss: Loss
    gradient_checkpointing: bool
    """Whether any block is."""
    checkpointed_layers: int
    """How many are: the first so many that gradients flow through."""
    optimizer: Optimizer
    lr_scheduler: str
    memory: Forecast
    measured: Measured | None = None
    """Of the largest batch, once a run has rehearsed it; None in a plan that has not run."""
    throughput: Throughput | None
    """None on devices whose rates are not known."""
    duration_seconds: float | None
    """Of the training, by max_steps or by epochs and the size of the rows; None where either is unknown."""
    candidates: list[Candidate]
    refusals: list[Refusal]
    warnings: list[str]
    notes: list[str]
    """What is kept on other devices than the spec asks for."""
    topology: Topology
    architecture: Architecture
    spec: RunSpec

    @property
    def zero_stage(self) -> int:
        """DeepSpeed's ZeRO stage; 0 without DeepSpeed."""
        return ZERO_STAGES.get(self.strategy, 0)

    @property
    def offload(self) -> bool:
        return self.strategy in OFFLOADS

    @property
    def unused(self) -> list[str]:
        """Packages that other libraries import wherever they are installed, and that this run has no use for."""
        bitsandbytes = self.optimizer.startswith("paged") or self.spec.model.quantization != "none"
        return [name for name, used in (("deepspeed", self.zero_stage), ("bitsandbytes", bitsandbytes)) if not used]

    @property
    def setting(self) -> Setting:
        """What its memory was forecast for."""
        return setting_of(
            self.spec, self.topology, self.precision, adapter_of(self.architecture, self.spec.lora), self.strategy,
            self.checkpointed_layers, self.micro_batch_size,
        )  # fmt: skip

    @property
    def adapter_parameters(self) -> int:
        """What is trained."""
        return adapter_parameters(self.architecture, self.spec.lora)


def resolve(
    spec: RunSpec,
    architecture: Architecture,
    topology: Topology,
    versions: Versions = NEWEST,
    data_bytes: int | None = None,
) -> Plan:
    """The fastest way that fits, with the reason. `versions` are those of the packages that it will run with,
    `data_bytes` the size of its training rows as text.

    Raises UsageError when the spec asks for what cannot be combined, NoPlanError when nothing fits.
    """
    problems = conflicts(spec, architecture, topology, versions)
    if problems:
        raise ConflictError(problems)
    asked, (spec, notes) = spec, alone(spec) if topology.world_size == 1 else (spec, [])
    precision, warnings = precision_of(spec, topology)
    warnings += other_batch(spec, topology.world_size)
    sizes = micro_batch_sizes(spec, topology.world_size)
    found, refused = candidates(spec, architecture, topology, precision, sizes, versions)
    if not found:
        reasons = dict.fromkeys(f"  {refusal}" for refusal in refused)
        raise NoPlanError("\n".join(["no strategy can run this spec on these devices", *reasons]))
    chosen = choose(found)
    if chosen is None:
        helps = remedies(asked, architecture, topology, precision, versions)
        raise NoPlanError(too_large(spec, topology, found, helps), [remedy.values for remedy in helps])
    micro, accumulation = divide_batch(spec, topology.world_size, chosen.micro_batch_size)
    optimizer = optimizer_under(spec, chosen.strategy)
    if optimizer != spec.training.optimizer:
        other = f"the recipe's {spec.training.optimizer} does not go with {chosen.strategy}"
        warnings.append(f"{other}: {optimizer}, the same update, is used")
    return Plan(
        name=spec.name, strategy=chosen.strategy, reason=reason(spec, topology, chosen, found),
        world_size=topology.world_size, micro_batch_size=micro, gradient_accumulation_steps=accumulation,
        global_batch_size=micro * accumulation * topology.world_size, precision=precision,
        attention=attention_of(spec, topology.device == "gpu"),
        lora_implementation=lora_of(spec, chosen.strategy, topology.device == "gpu"),
        norms=spec.model.norms, loss=loss_of(spec, precision, topology.device == "gpu"),
        gradient_checkpointing=chosen.gradient_checkpointing, checkpointed_layers=chosen.checkpointed_layers,
        optimizer=optimizer, lr_scheduler=_scheduler(spec), memory=chosen.memory, throughput=chosen.throughput,
        duration_seconds=_duration(spec, chosen.throughput, data_bytes), candidates=found, refusals=refused,
        warnings=warnings, notes=notes, topology=topology, architecture=architecture, spec=spec,
    )  # fmt: skip


def conflicts(
    spec: RunSpec, architecture: Architecture | None, topology: Topology | None, versions: Versions = NEWEST
) -> list[tuple[KeyPath, str]]:
    """Everything in the spec that rules a plan out, whatever fits: told together, before memory is looked at.

    What cannot be judged without the architecture or the topology is left out where there is none.
    """
    found: list[tuple[KeyPath, str]] = []
    if architecture is not None:
        length, positions = spec.data.max_length, architecture.max_positions
        if length > positions:
            why = (
                "; beyond them the original code scales positions and attention (dynamic NTK, log-n), which the Qwen2"
                " architecture cannot express"
            )
            message = f"data.max_length {length} is beyond the model's {positions} positions"
            message += f"{why if architecture.scaled_beyond else ''}; lower it"
            found.append((("data", "max_length"), message))
        found += adapter.conflicts(architecture, spec.lora) or checkpointing.conflicts(spec, architecture)
    if topology is not None:
        found += _device_conflicts(spec, topology, versions)
    return found


def _device_conflicts(spec: RunSpec, topology: Topology, versions: Versions) -> list[tuple[KeyPath, str]]:
    found = _ddp_conflicts(spec, topology)
    spec = alone(spec)[0] if topology.world_size == 1 else spec
    decisions: list[Callable[[], object]] = [
        lambda: precision_of(spec, topology), lambda: check_adapter_precision(spec, topology),
        lambda: _kernels(spec, topology),
    ]  # fmt: skip
    if not batch_contradictions(spec.training):  # told already, without the devices
        micro = micro_batch_sizes(spec, topology.world_size)[0]
        decisions.append(lambda: divide_batch(spec, topology.world_size, micro))
    for decide in decisions:
        try:
            decide()
        except ConflictError as conflict:
            found += conflict.problems
    asked = spec.cluster.strategy
    if asked != "auto":
        refused = refusals(spec, asked, topology.world_size, versions)
        found += [(("cluster", "strategy"), str(refusal)) for refusal in refused]
    return found


def as_launched(
    spec: RunSpec, strategy: Strategy, nodes: int, devices_per_node: int, fallback: bool
) -> tuple[RunSpec, list[str]]:
    """The spec for the processes that somebody has started by hand, and what differs from what it asked for.

    One process without a launcher is the fallback for any spec: it keeps the global batch by accumulating more.
    Otherwise a spec that names another strategy or size is refused with both values: accelerate starts one process
    where it was asked for two (`--cpu --num_processes 2`) and says nothing.
    """
    cluster, devices = spec.cluster, asked_devices(spec.cluster)
    differing = []
    if cluster.strategy not in ("auto", strategy):
        differing.append(f"cluster.strategy: the spec says {cluster.strategy}, this launch is {strategy}")
    if devices not in (None, nodes * devices_per_node):
        differing.append(f"devices: the spec says {devices}, this launch has {nodes * devices_per_node}")
    elif "nodes" in cluster.model_fields_set and cluster.nodes != nodes:
        differing.append(f"cluster.nodes: the spec says {cluster.nodes}, this launch has {nodes}")
    if differing and not fallback:
        raise PlanMismatch("\n".join([*differing, "launch what the spec says, or change it with -s"]))
    if fallback:
        spec, kept = on_one_device(spec)
        differing += kept
    here = cluster.model_copy(update={"strategy": strategy, "nodes": nodes, "devices_per_node": devices_per_node})
    return spec.model_copy(update={"cluster": here}), differing


def _kernels(spec: RunSpec, topology: Topology) -> None:
    """Raises ConflictError for an implementation that the devices or the rest of the spec rule out."""
    try:
        precision, _ = precision_of(spec, topology)
    except ConflictError:  # told already
        return
    if found := kernel_conflicts(spec, topology, precision):
        raise ConflictError(found)


def _duration(spec: RunSpec, throughput: Throughput | None, data_bytes: int | None) -> float | None:
    training = spec.training
    if throughput is None:
        return None
    if training.max_steps is not None:
        return round(training.max_steps * throughput.step_seconds, 1)
    if data_bytes is None:
        return None
    rate = max(throughput.tokens_per_second, 0.05)  # what is less was rounded to 0
    epoch = max(data_bytes / BYTES_PER_TOKEN / rate, throughput.step_seconds)
    return round(max(training.epochs * epoch, throughput.step_seconds), 1)


def _scheduler(spec: RunSpec) -> str:
    """transformers' `constant` ignores the warm-up; the recipe means both."""
    if spec.training.lr_scheduler == "constant" and spec.training.warmup_ratio > 0:
        return "constant_with_warmup"
    return spec.training.lr_scheduler


def _ddp_conflicts(spec: RunSpec, topology: Topology) -> list[tuple[KeyPath, str]]:
    if topology.world_size > 1 and spec.cluster.strategy in ("auto", "ddp"):
        return []
    return [
        (("training", "extra", key), f"training.extra.{key}: nothing reads this without cluster.strategy: ddp")
        for key in spec.training.extra
        if key.startswith("ddp_")
    ]


def differences(promised: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What a worker got against what the plan promised, one line for each value that differs."""
    return [
        f"{key}: the plan says {promised[key]}, this worker has {found[key]}"
        for key in promised
        if promised[key] != found[key]
    ]
