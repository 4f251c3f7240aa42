"""The ways to run a spec on given devices, and the choice among them."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from pydantic import BaseModel, ConfigDict

from launch.machine.hardware import Topology
from launch.memory import Adapter, Forecast, Setting, adapter_of, fewest_checkpointed, forecast
from launch.model.architecture import Architecture
from launch.plan.batch import accumulation_steps
from launch.plan.checkpointing import asked_layers, checkpointable
from launch.plan.compatibility import Refusal, refusals
from launch.plan.kernels import attention_of, lora_of, loss_of
from launch.plan.throughput import Throughput, Traffic, throughput, traffic
from launch.spec import OFFLOADS, SHARDS_BASE, Optimizer, Precision, RunSpec, Strategy
from launch.versions import NEWEST, Versions

# From the simplest. Ties go to the simpler; fsdp2 does what zero3 does, which is older in the field.
ORDER: tuple[Strategy, ...] = ("single", "ddp", "zero1", "zero2", "zero3", "fsdp2", "zero2_offload", "zero3_offload")


# Closer than the model of throughput can tell; and where one way gathers the base for each block and the other does
# not, for what the hooks around each layer cost beyond the bytes that they move is not in the model.
TIE, TIE_WITH_WHOLE = 0.02, 0.05


class Candidate(BaseModel):
    """One way to run, and what it needs on each device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy
    gradient_checkpointing: bool
    checkpointed_layers: int
    """How many blocks are computed again: the first so many that gradients flow through."""
    micro_batch_size: int
    gradient_accumulation_steps: int
    memory: Forecast
    fits: bool
    """Its devices, and its nodes where their memory is known."""
    host_fits: bool
    """Whether what it needs of a node's own memory is there, as far as that is known."""
    throughput: Throughput | None
    """None on devices whose rates are not known."""
    traffic: Traffic


def candidates(
    spec: RunSpec,
    architecture: Architecture,
    topology: Topology,
    precision: Precision,
    micro_batch_sizes: list[int],
    versions: Versions = NEWEST,
) -> tuple[list[Candidate], list[Refusal]]:
    """Every allowed way, in the order that decides ties, and the refused ones.

    A strategy or checkpointing that the spec names is the only one tried.
    """
    asked = spec.cluster.strategy
    found: list[Candidate] = []
    refused: list[Refusal] = []
    adapter = adapter_of(architecture, spec.lora)
    layers = asked_layers(spec, checkpointable(architecture, adapter))
    for strategy in ORDER if asked == "auto" else (asked,):
        reasons = refusals(spec, strategy, topology.world_size, versions)
        refused += reasons
        if reasons or (asked == "auto" and _pointless(strategy, topology)):
            continue
        settings = [
            setting_of(spec, topology, precision, adapter, strategy, layers or 0, micro) for micro in micro_batch_sizes
        ]
        ways = [_candidate(spec, architecture, topology, setting) for setting in settings]
        found += ways
        if layers is None:
            found += _checkpointed(spec, architecture, topology, list(zip(settings, ways, strict=True)))
    return found, refused


def _checkpointed(
    spec: RunSpec, architecture: Architecture, topology: Topology, without: list[tuple[Setting, Candidate]]
) -> list[Candidate]:
    """Beside ways without checkpoints: where one does not fit, that with as few as make it fit; each one with all."""
    some, everything = [], []
    for setting, way in without:
        with_layers = partial(_checkpointing, spec, architecture, topology, setting)
        whole = with_layers(most := checkpointable(architecture, setting.adapter))
        everything.append(whole)
        if not way.fits:
            guess = fewest_checkpointed(architecture, setting, _excess(spec, way, topology))
            some.append(_fewest(with_layers, guess or most, whole))
    return [way for way in some if way not in everything] + everything


def _fewest(with_layers: Callable[[int], Candidate], guess: int, whole: Candidate) -> Candidate:
    """The one with the fewest checkpointed blocks that fits, or `whole`, with all. From a guess by arithmetic, which
    is off by a few at times: what ZeRO-3 has gathered at the peak changes with the blocks that are computed again."""
    found = with_layers(guess) if guess < whole.checkpointed_layers else whole
    while not found.fits and whole.fits:
        found = with_layers(found.checkpointed_layers + 1)
    if not found.fits:
        return whole
    while found.checkpointed_layers > 1 and (fewer := with_layers(found.checkpointed_layers - 1)).fits:
        found = fewer
    return found


def _checkpointing(
    spec: RunSpec, architecture: Architecture, topology: Topology, setting: Setting, layers: int
) -> Candidate:
    return _candidate(spec, architecture, topology, _with(setting, layers))


def _with(setting: Setting, layers: int) -> Setting:
    return replace(setting, gradient_checkpointing=layers > 0, checkpointed_layers=layers)


def setting_of(
    spec: RunSpec,
    topology: Topology,
    precision: Precision,
    adapter: Adapter,
    strategy: Strategy,
    checkpointed_layers: int,
    micro_batch_size: int,
) -> Setting:
    """What decides the memory of one way to run, with sequences as long as the spec allows."""
    return Setting(
        strategy=strategy, micro_batch_size=micro_batch_size,
        gradient_checkpointing=checkpointed_layers > 0, checkpointed_layers=checkpointed_layers,
        world_size=topology.world_size, devices_per_node=topology.devices_per_node, max_length=spec.data.max_length,
        accumulates=accumulation_steps(spec, topology.world_size, micro_batch_size) > 1,
        quantization=spec.model.quantization, upcast_unquantized=spec.model.upcast_unquantized,
        double_quantization=spec.model.double_quantization, attention=attention_of(spec, topology.device == "gpu"),
        adapter_precision=None if spec.lora.precision == "auto" else spec.lora.precision,
        precision=precision, gpu=topology.device == "gpu", adapter=adapter,
        masked=spec.data.packing or micro_batch_size > 1, optimizer=optimizer_under(spec, strategy),
        fused_loss=bool(spec.training.extra.get("use_liger_kernel")),
        chunked_loss=loss_of(spec, precision, topology.device == "gpu") == "chunked",
        fused_lora=lora_of(spec, strategy, topology.device == "gpu") == "fused",
        bucket_views=spec.training.gradient_as_bucket_view,
        fused_norms=spec.model.norms == "fused", answer_tokens=_answer_tokens(spec),
    )  # fmt: skip


def _answer_tokens(spec: RunSpec) -> int | None:
    """A question may be as long as a row, and its answer comes behind it."""
    training = spec.training
    return None if training.eval_samples is None else spec.data.max_length + training.eval_max_new_tokens


def optimizer_under(spec: RunSpec, strategy: Strategy) -> Optimizer:
    """The recipe's optimizer; where it does not go with a strategy, the one that makes the same update."""
    asked = spec.training.optimizer
    if asked == "paged_adamw_32bit" and (strategy in OFFLOADS or strategy == "fsdp2"):
        return "adamw_torch"
    return asked


def _candidate(spec: RunSpec, architecture: Architecture, topology: Topology, setting: Setting) -> Candidate:
    memory = forecast(architecture, setting)
    accumulation = accumulation_steps(spec, topology.world_size, setting.micro_batch_size)
    checkpointed = setting.checkpointed(architecture.layers)
    network = spec.cluster.network_gbps * 1e9 / 8
    on_host = topology.host_bytes is None or memory.host_needed_bytes <= topology.host_bytes
    return Candidate(
        strategy=setting.strategy, gradient_checkpointing=checkpointed > 0, checkpointed_layers=checkpointed,
        micro_batch_size=setting.micro_batch_size, gradient_accumulation_steps=accumulation, memory=memory,
        fits=on_host and memory.process_bytes <= _room(spec, topology), host_fits=on_host,
        throughput=throughput(architecture, setting, topology, accumulation, network),
        traffic=traffic(architecture, setting, accumulation),
    )  # fmt: skip


def _room(spec: RunSpec, topology: Topology) -> int:
    """Bytes that a process may take of its device."""
    return int(spec.cluster.memory_share * topology.memory_bytes)


def _excess(spec: RunSpec, way: Candidate, topology: Topology) -> int:
    """Bytes by which each process is too large: on a CPU, where its memory is the node's, for that as well."""
    excess = way.memory.process_bytes - _room(spec, topology)
    if topology.device == "cpu" and topology.host_bytes is not None:
        beyond = way.memory.host_needed_bytes - topology.host_bytes
        excess = max(excess, math.ceil(beyond / topology.devices_per_node))
    return excess


def _pointless(strategy: Strategy, topology: Topology) -> bool:
    """Not tried unless asked for: one device has nothing to shard over, a CPU process no other memory to offload to."""
    alone = topology.world_size == 1 and strategy in ("zero1", "zero2", "zero3")
    return alone or (topology.device == "cpu" and strategy in OFFLOADS)


def choose(found: list[Candidate]) -> Candidate | None:
    """The fastest that fits. Among those within TIE of it, and where no rate is known, the first: least communication,
    then no recomputation before some and some before all, then the largest micro-batch. Where the fastest that keeps
    the base whole on each device is within TIE_WITH_WHOLE of the fastest of all, those that gather it are left out."""
    fitting = [candidate for candidate in found if candidate.fits]
    whole = [candidate for candidate in fitting if candidate.strategy not in SHARDS_BASE]
    best, best_whole = fastest(fitting), fastest(whole)
    if best is None:
        return next(iter(fitting), None)
    if best_whole is not None and best_whole <= (1 + TIE_WITH_WHOLE) * best:
        fitting, best = whole, best_whole
    return next(c for c in fitting if c.throughput and c.throughput.step_seconds <= (1 + TIE) * best)


def fastest(found: list[Candidate]) -> float | None:
    """Seconds of the fastest one's step; None where no rate is known."""
    return min((candidate.throughput.step_seconds for candidate in found if candidate.throughput), default=None)
