"""The process group and the engine: set up as the plan says, then compared with it.

accelerate can train something else in silence: `--cpu --num_processes 2` starts one process, ZeRO with use_cpu becomes
DDP, and DeepSpeed without CUDA gives each process a world of its own. So nothing is believed: `observe` reads what is
there and `launch.plan.differences` compares.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from launch.errors import CommunicationError, PlanMismatch, UsageError
from launch.machine.discover import cpu_count
from launch.plan import Plan, differences
from launch.plan.kernels import flash_attention_of
from launch.spec import OFFLOADS, ZERO_STAGES, Strategy

COLLECTIVE_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Launched:
    """What the launcher's environment says: who this process is, and which engine it was started for."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    strategy: Strategy
    deepspeed_file: str | None
    by_hand: bool
    """Whether `python -m training` was typed, without a launcher: then one process is what was meant."""


def launched(environment: Mapping[str, str] = os.environ) -> Launched:
    """Reads the variables that torchrun and accelerate set.

    Raises UsageError for an engine that muster does not train with, PlanMismatch for one that would not be used.
    """
    world_size = int(environment.get("WORLD_SIZE", "1"))
    deepspeed_file = None
    strategy: Strategy = "ddp" if world_size > 1 else "single"
    if environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        deepspeed_file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE") or None
        strategy = _zero_strategy(deepspeed_file)
        if environment.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes"):
            raise PlanMismatch(
                f"engine: this launch is {strategy}, but with ACCELERATE_USE_CPU set accelerate trains as plain DDP and"
                " says nothing; unset it (ZeRO runs on CPU ranks without it)"
            )
    elif environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        if environment.get("FSDP_VERSION", "1") != "2":
            raise UsageError(
                "accelerate was told to use FSDP 1; muster trains with FSDP 2: set fsdp_version: 2 as"
                " accelerate_configs/fsdp2.yaml does"
            )
        strategy = "fsdp2"
    return Launched(
        rank=int(environment.get("RANK", "0")),
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        world_size=world_size,
        local_world_size=int(environment.get("LOCAL_WORLD_SIZE", "1")),
        strategy=strategy,
        deepspeed_file=deepspeed_file,
        by_hand=not any(name.startswith("ACCELERATE_") or name == "RANK" for name in environment),
    )


def check_processes(started: int) -> None:
    """Raises PlanMismatch when accelerate was asked for more processes than it started.

    `accelerate launch --cpu --num_processes 2` starts one and says nothing; only its own command line tells.
    """
    try:
        argv = Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8").split("\0")
    except (OSError, ValueError):
        return
    joined = re.search(r"(?:^| )--num[_-]processes[= ](\d+)(?= |$)", " ".join(argv))
    if joined and int(joined[1]) > started:
        raise PlanMismatch(
            f"processes: accelerate was asked for {joined[1]}, it started {started}: --cpu makes it one. For several on"
            " the CPU: ACCELERATE_USE_CPU=1 accelerate launch --config_file accelerate_configs/ddp.yaml"
        )


def _zero_strategy(file: str | None) -> Strategy:
    if file is None:
        raise UsageError(
            "accelerate was told to use DeepSpeed without a DeepSpeed file; name one as"
            " accelerate_configs/zero2.yaml does: deepspeed_config_file: ds_configs/zero2.json"
        )
    zero = read_deepspeed(file).get("zero_optimization", {})
    offload = any(zero.get(key, {}).get("device", "none") != "none" for key in ("offload_optimizer", "offload_param"))
    names = {(stage, strategy in OFFLOADS): strategy for strategy, stage in ZERO_STAGES.items()}
    strategy = names.get((zero.get("stage"), offload))
    if strategy is None:
        allowed = "2 or 3 where something is offloaded" if offload else "1, 2 or 3"
        raise UsageError(f"{file}: zero_optimization.stage is {zero.get('stage')}; allowed: {allowed}")
    return strategy


def read_deepspeed(file: str) -> dict[str, Any]:
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: DeepSpeed config cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{file}: DeepSpeed config is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UsageError(f"{file}: DeepSpeed config is not a JSON object")
    return config


def cpu_threads(place: Launched, cores: int, environment: Mapping[str, str] = os.environ) -> int:
    """Threads of this process: OMP_NUM_THREADS where somebody set it, else its share of the cores.

    accelerate launch sets 1 where nobody did, and plain Python takes all cores: the sums would then differ by how a run
    was started.
    """
    asked = environment.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0 and (place.by_hand or asked != "1"):
        return int(asked)
    return max(1, cores // place.local_world_size)


def connect(plan: Plan, place: Launched) -> None:
    """Joins the process group that the plan's engine needs, before anything of transformers can choose another.

    Raises CommunicationError when the ranks do not meet.
    """
    gpu = plan.topology.device == "gpu"
    if not gpu and plan.zero_stage:
        os.environ["DS_ACCELERATOR"] = "cpu"
        from deepspeed import ops

        # Compiled with a C++ compiler at first use, for half a minute, and used for inference alone.
        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    import torch
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    torch.set_num_threads(cpu_threads(place, cpu_count()))
    try:
        if gpu:
            PartialState(timeout=COLLECTIVE_TIMEOUT)
        elif plan.zero_stage:
            PartialState(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
        else:
            PartialState(cpu=True, **({"timeout": COLLECTIVE_TIMEOUT} if plan.world_size > 1 else {}))
    except (RuntimeError, ValueError) as error:
        raise CommunicationError(
            f"rank {place.rank} could not join the other {plan.world_size - 1} ranks: {error}"
        ) from error
    if not gpu and plan.strategy == "fsdp2":
        # accelerate offers FSDP to GPU groups alone, and would train CPU ranks as DDP. FSDP2 itself runs on CPU over
        # gloo.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


# Where gradients are, by DDP's gradient_as_bucket_view, and without DDP or DeepSpeed.
OF_DDP, OF_OTHERS = {True: "in the buckets", False: "beside the buckets"}, "each a tensor"


def observe(trainer: Any) -> dict[str, Any]:
    """What this worker really has, in the terms of `promised`."""
    import torch
    import torch.distributed as dist

    from training.model.attention import flash_kernels
    from training.model.fused import is_fused
    from training.model.loss import is_chunked
    from training.model.norms import norms_are_fused
    from training.model.recompute import checkpointed_blocks

    wrapped, args = trainer.model_wrapped, trainer.args
    adapter = trainer.accelerator.unwrap_model(trainer.model)
    engine, gradients = _engine(wrapped)
    if engine.startswith("zero"):
        precision = "bf16" if wrapped.bfloat16_enabled() else "fp16" if wrapped.fp16_enabled() else "fp32"
        micro, accumulation = wrapped.train_micro_batch_size_per_gpu(), wrapped.gradient_accumulation_steps()
    else:
        mixed = trainer.accelerator.mixed_precision
        precision = "fp32" if mixed == "no" else mixed
        micro, accumulation = trainer.batches.micro_batch_size, args.gradient_accumulation_steps
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    return {
        "gradients": gradients,
        "world_size": world_size,
        "engine": engine,
        "device": "gpu" if torch.device(args.device).type == "cuda" else "cpu",
        "precision": precision,
        "attention": adapter.config._attn_implementation,
        "flash_attention": flash_kernels(),
        "lora_implementation": "fused" if is_fused(adapter) else "peft",
        "norms": "fused" if norms_are_fused(adapter) else "plain",
        "loss": "chunked" if is_chunked(adapter) else "plain",
        "checkpointed_layers": checkpointed_blocks(adapter),
        "quantization": _quantization(adapter),
        "adapter_precision": _adapter_precision(adapter),
        "micro_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "global_batch_size": micro * accumulation * world_size,
        "optimizer": optimizer_name(trainer.optimizer),
        "trainable_parameters": _count(parameter for parameter in adapter.parameters() if parameter.requires_grad),
    }


def _engine(wrapped: Any) -> tuple[str, str]:
    """Its name, and where gradients are."""
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    from training.checkpoint.states import gradient_types

    if type(wrapped).__name__ == "DeepSpeedEngine":
        return _zero_name(wrapped), gradient_types(wrapped)
    if isinstance(wrapped, DistributedDataParallel):
        return "ddp", OF_DDP[wrapped.gradient_as_bucket_view]
    return "fsdp2" if isinstance(wrapped, FSDPModule) else "single", OF_OTHERS


def promised(plan: Plan) -> dict[str, Any]:
    summed, gradients = "fp32" if plan.setting.sums_fp32 else plan.precision, OF_OTHERS
    if plan.zero_stage:
        gradients = f"sent in {summed}, added up in {summed}"
    elif plan.strategy == "ddp":
        gradients = OF_DDP[plan.spec.training.gradient_as_bucket_view]
    return {
        "gradients": gradients,
        "world_size": plan.world_size,
        "engine": plan.strategy,
        "device": plan.topology.device,
        "precision": plan.precision,
        "attention": plan.attention,
        "flash_attention": flash_attention_of(plan.spec, plan.topology.device == "gpu"),
        "lora_implementation": plan.lora_implementation,
        "norms": plan.norms,
        "loss": plan.loss,
        "checkpointed_layers": plan.checkpointed_layers,
        "quantization": _held(plan.spec.model.quantization, plan.spec.model.double_quantization),
        "adapter_precision": plan.setting.adapter_type,
        "micro_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "global_batch_size": plan.global_batch_size,
        "optimizer": plan.optimizer,
        "trainable_parameters": plan.adapter_parameters,
    }


def verify(plan: Plan, trainer: Any) -> dict[str, Any]:
    """What this worker has. Raises PlanMismatch naming both values of whatever differs from the plan."""
    expected, found = promised(plan), observe(trainer)
    lines = differences(expected, found)
    if lines:
        raise PlanMismatch("this worker is not what was planned:\n" + "\n".join(lines))
    return found


def optimizer_name(optimizer: Any) -> str:
    """The innermost optimizer in the spec's words."""
    from training.checkpoint.states import innermost  # imports torch, which a wrong command line need not wait for

    optimizer = innermost(optimizer)
    if type(optimizer).__module__.startswith("bitsandbytes"):
        return (
            "paged_adamw_32bit"
            if optimizer.is_paged and optimizer.args.optim_bits == 32
            else f"bitsandbytes {type(optimizer).__name__}"
        )
    if type(optimizer).__name__ == "AdamW":
        return "adamw_torch_fused" if optimizer.defaults.get("fused") else "adamw_torch"
    return type(optimizer).__name__


def _zero_name(engine: Any) -> str:
    offload = engine.zero_offload_optimizer() is not None and engine.zero_offload_optimizer().device in ("cpu", "nvme")
    return f"zero{engine.zero_optimization_stage()}{'_offload' if offload else ''}"


def _held(quantization: str, double: bool) -> str:
    return f"{quantization} with double quantisation" if quantization == "nf4" and double else quantization


def _quantization(model: Any) -> str:
    """How bitsandbytes holds the linear layers of the base; all of them, else each way that was found."""
    found = set()
    for module in model.modules():
        if not type(module).__module__.startswith("bitsandbytes"):
            continue
        # What FSDP2 and ZeRO-3 shard is another parameter, whose state stays with the module.
        state = getattr(module.weight, "quant_state", None) or getattr(module, "quant_state", None)
        found.add(_held(state.quant_type, state.nested) if state is not None else "int8")
    return ", ".join(sorted(found)) or "none"


def _adapter_precision(model: Any) -> str:
    """The type of PEFT's pairs and magnitudes, in the spec's words."""
    from training.model.adapter import ADAPTER
    from training.model.loading import DTYPES

    names = {dtype: name for name, dtype in DTYPES.items()}
    found = {parameter.dtype for name, parameter in model.named_parameters() if ADAPTER in name}
    return ", ".join(sorted(names.get(dtype, str(dtype)) for dtype in found))


def _count(parameters: Any) -> int:
    # A ZeRO-3 parameter is empty between its uses; ds_numel is its full size. A DTensor's numel is already the full
    # one.
    return sum(int(getattr(parameter, "ds_numel", parameter.numel())) for parameter in parameters)
