"""Seconds of an optimizer step from FLOPs, bytes and links, and the FLOPs of LoRA training. Pure.

What a GPU reaches of its data sheet is measured elsewhere, and named; benchmarks/published_throughput.py holds the
outcome against those measurements.
"""

from pydantic import BaseModel, ConfigDict

from launch.machine.hardware import Topology
from launch.memory import Setting
from launch.memory.setting import ELEMENT, Adapter
from launch.model.architecture import Architecture
from launch.spec import OFFLOADS, SHARDS_BASE

# Share of the dense tensor-core rate that LoRA training reaches once its matrices are large, recomputation counted:
# QwenLM/Qwen, "Profiling of Memory and Speed": Qwen-7B on A100 at 8192 tokens, 0.51; NVIDIA NeMo AutoModel:
# Qwen2.5-7B on H100, 14,110 tokens/s at 4096, 0.51 without checkpointing.
UTILISATION = 0.5
# Seconds of a block in a micro-batch, forward and backward, however short: launching its kernels. From the same table
# at 256 and 512 tokens, where FLOPs leave 2.5 and 1.6 ms of an iteration to each block; a quarter of it recomputes.
LAUNCH, RECOMPUTING = 0.0015, 0.0005
# Share of memory bandwidth that bitsandbytes' NF4 kernels reach, and of a link that NCCL does (nccl-tests on A100 and
# H100: 230 of 300 and 360 of 450 GB/s).
DEQUANTISING, LINK = 0.5, 0.7
# Half of what could be hidden behind computation is (DDP's buckets and ZeRO's prefetch overlap, their ends do not).
HIDDEN = 0.5
# The error that is stated: where the share was measured, in bf16 on these GPUs, and elsewhere.
BAND, BAND_ELSEWHERE = 0.2, 0.4
MEASURED_ON = ("A100", "H100", "H200")


class Traffic(BaseModel):
    """Bytes that a device sends in one optimizer step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gradients: int
    """Of the adapter, and its updated weights where they were divided: between devices."""
    base: int
    """Of frozen weights, gathered to compute with them: between devices."""
    host: int
    """Between a GPU and its host."""

    @property
    def bytes(self) -> int:
        return self.gradients + self.base + self.host


class Throughput(BaseModel):
    """With sequences as long as they may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_seconds: float
    """Of an optimizer step, with all its micro-batches."""
    tokens_per_second: float
    """Of all devices together."""
    low: float
    """The least tokens_per_second to expect, with nothing hidden behind computation."""
    high: float
    """The most, with all of it hidden."""


def flops_per_token(architecture: Architecture, adapter: Adapter, length: float) -> float:
    """FLOPs that one trained token needs, in sequences of `length` tokens; recomputation is not counted.

    The frozen linears run forward and pass gradients through, 2 + 2 FLOPs a weight, as does the output head; causal
    attention costs 6 x length x query width a layer (half the square, forward and twice backward); the adapter 6 a
    parameter, for its own gradient as well, and an output head that is trained 2 more; embeddings are looked up.
    Compare 6N for full training (Kaplan et al. 2020, section 2.1).
    """
    head = architecture.vocab_size * architecture.hidden_size
    trained_head = adapter.whole - (head if adapter.embeddings else 0)
    frozen = 4 * (architecture.linear_parameters + head) + 6 * _attention(architecture, length)
    return frozen + 6 * adapter.pairs + 2 * trained_head


def recomputed_flops_per_token(architecture: Architecture, adapter: Adapter, length: float) -> float:
    """FLOPs that gradient checkpointing of all blocks adds: each one's forward pass once more."""
    return 2 * (architecture.linear_parameters + _attention(architecture, length) + adapter.pairs)


def _attention(architecture: Architecture, length: float) -> float:
    return length * architecture.heads * architecture.head_dim * architecture.layers


def traffic(architecture: Architecture, setting: Setting, accumulation: int) -> Traffic:
    """What one device sends in an optimizer step of `accumulation` micro-batches.

    In a ring an all-reduce sends 2 (W - 1) / W times its bytes, a reduce-scatter or an all-gather half of that
    (Patarasu and Yuan 2009). tests/runs/test_traffic.py counts what two ranks of each engine send.
    """
    world = setting.world_size
    part = (world - 1) / world
    adapter = _adapter(setting)
    reduced, gathered = _adapter_exchanges(architecture, setting, accumulation)
    summed = _summed(setting)
    gradients = part * (reduced * summed + gathered * adapter)
    base, host = 0.0, 0.0
    if setting.strategy in SHARDS_BASE:
        base = accumulation * part * _gathered_base(architecture, setting)
    if setting.strategy in OFFLOADS:
        # Gradients to the host, updated weights back. ZeRO-2 moves gradients once where it adds them up in fp32.
        once = setting.strategy == "zero2_offload" and setting.sums_fp32
        host = ((1 if once else accumulation) * summed + adapter) / world
    if setting.strategy == "zero3_offload":
        host += accumulation * _gathered_base(architecture, setting) / world
    return Traffic(gradients=int(gradients), base=int(base), host=int(host))


def _adapter(setting: Setting) -> int:
    """Bytes of what is trained, as its weights travel: FSDP2 casts them to the run's type before it gathers them."""
    element = setting.element if setting.strategy == "fsdp2" else setting.adapter_element
    return element * (setting.adapter.pairs + setting.adapter.magnitudes) + setting.element * setting.adapter.whole


def _summed(setting: Setting) -> int:
    """Bytes of all gradients, as they travel."""
    adapter = setting.adapter
    trained = adapter.pairs + adapter.magnitudes + adapter.whole
    if setting.sums_fp32 or setting.strategy == "fsdp2":  # training/loop/trainer.py, sum_in_fp32
        return ELEMENT["fp32"] * trained
    return _adapter(setting)


def _adapter_exchanges(architecture: Architecture, setting: Setting, accumulation: int) -> tuple[float, float]:
    """How often an adapter's gradients are reduced in a step, and its weights gathered; an all-reduce counts twice.

    DDP all-reduces gradients once a step. ZeRO-1 does as well, and gathers the updated weights. ZeRO-2 all-reduces in
    every micro-batch: a bucket that belongs to several ranks is reduced on all, and each keeps its part
    (stage_1_and_2.py with use_multi_rank_bucket_allreduce, its default), twice the reduce-scatter of arXiv 1910.02054,
    section 7. ZeRO-3 reduce-scatters in every micro-batch, FSDP2 in a step's last one (no_sync, as in transformers'
    loop). Both gather an adapter's weights whenever they gather the base; what ZeRO-3 keeps of them, those of up to ten
    times the hidden size, is counted as the rest.
    """
    match setting.strategy:
        case "ddp" | "single":
            return 2, 0
        case "zero1":
            return 2, 1
        case "zero2" | "zero2_offload":
            return 2 * accumulation, 1
        case _:
            scattered = 1 if setting.strategy == "fsdp2" else accumulation
            return scattered, accumulation * base_gathers(architecture, setting)


def base_gathers(architecture: Architecture, setting: Setting) -> float:
    """Times that a block is gathered in a micro-batch: forward, backward and, by ZeRO-3, where it is computed again, as
    it releases what that took before the gradients are computed (memory/gathering.py counts 2.7 to 2.9 times the base,
    or 1.8 to 1.9)."""
    return 2 + (_recomputed(architecture, setting) if setting.zero else 0)


def _recomputed(architecture: Architecture, setting: Setting) -> float:
    """Share of the blocks whose forward pass is computed again."""
    return setting.checkpointed(architecture.layers) / architecture.layers


def _gathered_base(architecture: Architecture, setting: Setting) -> float:
    """Bytes of the base that are gathered in a micro-batch. FSDP2 gathers the output head once: the backward pass
    begins with it, and accelerate leaves it whole until then (fsdp2_prepare_model in its utils/fsdp_utils.py)."""
    rest = architecture.parameters - architecture.linear_parameters
    base = setting.base_element * architecture.linear_parameters + setting.element * rest
    kept = setting.element * architecture.vocab_size * architecture.hidden_size if setting.strategy == "fsdp2" else 0
    return base_gathers(architecture, setting) * base - kept


def throughput(
    architecture: Architecture, setting: Setting, topology: Topology, accumulation: int, network_bandwidth: float
) -> Throughput | None:
    """None on devices whose rates are not known. `network_bandwidth` is a node's, in bytes per second."""
    rates = topology.rates
    if rates is None:
        return None
    computing = accumulation * _micro_batch_seconds(architecture, setting, topology)
    moved = traffic(architecture, setting, accumulation)
    link = LINK * (rates.link if topology.nodes == 1 else min(rates.link, network_bandwidth))
    moving = (moved.gradients + moved.base) / link + moved.host / (LINK * rates.host)
    tokens = accumulation * setting.tokens * topology.world_size
    known = topology.device_name.split("-")[0] in MEASURED_ON and setting.quantization == "none"
    band = BAND if known and setting.precision != "fp32" else BAND_ELSEWHERE
    expected = computing + moving - HIDDEN * min(moving, computing)
    return Throughput(
        step_seconds=round(expected, 4), tokens_per_second=round(tokens / expected, 1),
        low=round(tokens / (computing * (1 + band) + moving), 1),
        high=round(tokens / max(computing * (1 - band), moving), 1),
    )  # fmt: skip


def _scored_bytes(element: int, forward: float) -> float:
    """Bytes that eager attention reads and writes for each score in so many forward passes and a backward one. A
    fraction of a pass is a share of the blocks.

    Products, scale, mask, two casts and a softmax in fp32; then the gradient of each (eager_attention_forward in
    modeling_qwen2.py).
    """
    return forward * (8 * element + 16) + 8 * element + 20


def _micro_batch_seconds(architecture: Architecture, setting: Setting, topology: Topology) -> float:
    assert topology.rates is not None
    flops = flops_per_token(architecture, setting.adapter, setting.max_length)
    again = _recomputed(architecture, setting)
    flops += again * recomputed_flops_per_token(architecture, setting.adapter, setting.max_length)
    launching, passes = LAUNCH + again * RECOMPUTING, 2 + again
    rate = topology.rates.fp32 if setting.precision == "fp32" else topology.rates.flops
    seconds = flops * setting.tokens / (UTILISATION * rate) + launching * architecture.layers
    if setting.attention == "eager":
        scores = setting.tokens * setting.max_length * architecture.heads * architecture.layers
        seconds += _scored_bytes(setting.element, passes - 1) * scores / topology.rates.memory
    if setting.quantization == "none":
        return seconds
    # Each pass reads the packed weights and writes them in the type that they are multiplied in.
    unpacked = passes * (setting.base_element + setting.element) * architecture.linear_parameters
    return seconds + unpacked / (DEQUANTISING * topology.rates.memory)
