"""The ways to run a spec on given devices, and the choice among them."""

from pydantic import BaseModel, ConfigDict

from launch.architecture import Architecture
from launch.batch import accumulation_steps
from launch.compatibility import Refusal, refusals
from launch.hardware import Topology
from launch.kernels import attention_of, loss_of
from launch.memory import Adapter, Forecast, Setting, adapter_of, forecast
from launch.spec import OFFLOADS, Optimizer, Precision, RunSpec, Strategy
from launch.throughput import Throughput, Traffic, throughput, traffic
from launch.versions import NEWEST, Versions

# No run planned under 80 % of a GPU's memory ever failed
# (Fujii et al. 2024, "Accelerating LLM training with memory estimation").
SAFE_SHARE = 0.8

# From the simplest. Ties go to the simpler; fsdp2 does what zero3 does, which is older in the field.
ORDER: tuple[Strategy, ...] = ("single", "ddp", "zero1", "zero2", "zero3", "fsdp2", "zero2_offload", "zero3_offload")


# Closer than the model of throughput can tell.
TIE = 0.02


class Candidate(BaseModel):
    """One way to run, and what it needs on each device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy
    gradient_checkpointing: bool
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
    """Every allowed way, best first, and the refused ones.

    A strategy or checkpointing that the spec names is the only one tried.
    """
    asked = spec.cluster.strategy
    checkpointing = spec.training.gradient_checkpointing
    found, refused = [], []
    adapter = adapter_of(architecture, spec.lora)
    for strategy in ORDER if asked == "auto" else (asked,):
        reasons = refusals(spec, strategy, topology.world_size, versions)
        refused += reasons
        if reasons or (asked == "auto" and _pointless(strategy, topology)):
            continue
        for recompute in (False, True) if checkpointing == "auto" else (checkpointing,):
            for micro in micro_batch_sizes:
                setting = setting_of(spec, topology, precision, adapter, strategy, recompute, micro)
                found.append(_candidate(spec, architecture, topology, setting))
    return found, refused


def setting_of(
    spec: RunSpec,
    topology: Topology,
    precision: Precision,
    adapter: Adapter,
    strategy: Strategy,
    gradient_checkpointing: bool,
    micro_batch_size: int,
) -> Setting:
    """What decides the memory of one way to run, with sequences as long as the spec allows."""
    return Setting(
        strategy=strategy, gradient_checkpointing=gradient_checkpointing, micro_batch_size=micro_batch_size,
        world_size=topology.world_size, devices_per_node=topology.devices_per_node, max_length=spec.data.max_length,
        quantization=spec.model.quantization, upcast_unquantized=spec.model.upcast_unquantized,
        double_quantization=spec.model.double_quantization, attention=attention_of(spec, topology.device == "gpu"),
        adapter_precision=None if spec.lora.precision == "auto" else spec.lora.precision,
        precision=precision, gpu=topology.device == "gpu", adapter=adapter,
        masked=spec.data.packing or micro_batch_size > 1, optimizer=optimizer_under(spec, strategy),
        fused_loss=bool(spec.training.extra.get("use_liger_kernel")),
        chunked_loss=loss_of(spec, precision, topology.device == "gpu") == "chunked",
        answer_tokens=_answer_tokens(spec),
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
    network = spec.cluster.network_gbps * 1e9 / 8
    on_host = topology.host_bytes is None or memory.host_needed_bytes <= topology.host_bytes
    return Candidate(
        strategy=setting.strategy, gradient_checkpointing=setting.gradient_checkpointing,
        micro_batch_size=setting.micro_batch_size, gradient_accumulation_steps=accumulation, memory=memory,
        fits=on_host and memory.process_bytes <= SAFE_SHARE * topology.memory_bytes, host_fits=on_host,
        throughput=throughput(architecture, setting, topology, accumulation, network),
        traffic=traffic(architecture, setting, accumulation),
    )  # fmt: skip


def _pointless(strategy: Strategy, topology: Topology) -> bool:
    """Not tried unless asked for: one device has nothing to shard over, a CPU process no other memory to offload to."""
    alone = topology.world_size == 1 and strategy in ("zero1", "zero2", "zero3")
    return alone or (topology.device == "cpu" and strategy in OFFLOADS)


def choose(found: list[Candidate]) -> Candidate | None:
    """The fastest that fits. Among those within TIE of it, and where no rate is known, the first: least communication,
    then no recomputation, then the largest micro-batch."""
    fitting = [candidate for candidate in found if candidate.fits]
    best = fastest(fitting)
    if best is None:
        return next(iter(fitting), None)
    return next(c for c in fitting if c.throughput and c.throughput.step_seconds <= (1 + TIE) * best)


def fastest(found: list[Candidate]) -> float | None:
    """Seconds of the fastest one's step; None where no rate is known."""
    return min((candidate.throughput.step_seconds for candidate in found if candidate.throughput), default=None)
