"""The frozen base and its adapter. No code that comes with a checkpoint is ever run."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from launch.errors import UsageError
from launch.model.architecture import LINEARS
from launch.model.files import directory_problems, find, hub_name, offline
from launch.plan import Plan
from launch.plan.kernels import flash_attention_of
from launch.spec import LoraSpec, ModelSpec, Precision
from launch.wording import first_line
from training.model.adapter import ADAPTER, trainable_parameters
from training.model.attention import register, use_flash_kernels
from training.model.casting import leave_inputs
from training.model.fused import fuse
from training.model.initial import initialise
from training.model.loss import chunk_loss
from training.model.norms import fuse_norms
from training.model.recompute import checkpoint_blocks
from training.original.importing import fetched, native_directory, original_directory

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load(plan: Plan, resumed: Path | None = None) -> PeftModel:
    """The base in the plan's precision or quantised, with a fresh adapter; of a resumed run, one yet to be filled."""
    base = load_base(plan.spec.model, plan.precision, plan.attention, **_placement(plan))
    model = adapt(base, plan)
    initialise(model, plan, resumed)
    return model


def adapt(base: PreTrainedModel, plan: Plan) -> PeftModel:
    """The adapter's layers in a base, as the plan trains them; they begin as PEFT makes them."""
    base.config.use_cache = False
    model = get_peft_model(base, lora_config(plan.spec.lora))
    if not plan.spec.lora.cast_inputs:
        leave_inputs(model)
    if plan.lora_implementation == "fused":
        fuse(model)
    if plan.norms == "fused":
        fuse_norms(model)
    checkpoint_blocks(model.get_base_model(), plan.setting.adapter.first_block, plan.checkpointed_layers)
    if plan.spec.lora.precision != "auto":
        hold_adapter(model, DTYPES[plan.spec.lora.precision])
    if plan.loss == "chunked":
        chunk_loss(model.get_base_model())
    use_flash_kernels(flash_attention_of(plan.spec, plan.topology.device == "gpu"))
    if plan.spec.training.compile:  # one block's code serves all: a regional compilation, in a minute and not in ten
        for block in model.get_base_model().model.layers:
            block.compile()
    return model


def hold_adapter(model: PeftModel, dtype: torch.dtype) -> None:
    """PEFT makes its pairs and magnitudes in fp32 on any base that is held in less, and so they stay by default."""
    for name, parameter in trainable_parameters(model):
        if ADAPTER in name:
            parameter.data = parameter.data.to(dtype)


def _placement(plan: Plan) -> dict[str, Any]:
    """Packed weights are quantised on the device they stay on. Under ZeRO-3 transformers chooses the rank's itself,
    and weights that are not packed are the engine's to place."""
    if plan.spec.model.quantization == "none" or plan.zero_stage == 3:
        return {}
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if plan.topology.device == "gpu" else "cpu"
    return {"device_map": {"": device}}


def load_base(model: ModelSpec, precision: Precision, attention: str, **placement: Any) -> PreTrainedModel:
    """The base alone. `placement` is from_pretrained's device_map and max_memory.

    Raises UsageError when its files are not a model that can be loaded, or lack a tensor."""
    variant = model.variant
    options = dict(placement)
    register()
    if model.quantization != "none":
        options["quantization_config"] = _quantization(model, precision)
    try:
        base, loaded = AutoModelForCausalLM.from_pretrained(
            loadable(variant),
            dtype=DTYPES[precision],
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise UsageError(f"model.variant {variant}: the model could not be loaded: {first_line(error)}") from error
    lacking = sorted(loaded["missing_keys"])
    if lacking:
        raise UsageError(
            f"model.variant {variant}: {len(lacking)} tensors are in none of its files, {lacking[0]} first"
        )
    if model.upcast_unquantized:
        prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    return base


def loadable(variant: str, tell: Callable[[str], None] = lambda _: None) -> str:
    """What transformers loads for a variant: its name, or the directory that an original checkpoint was imported into.

    What has to be fetched or imported is, once, before the process group exists: where nothing times out, and before
    anybody asks which weights a run is trained on.
    """
    original = original_directory(variant, weights=True)
    if original is not None:
        return str(native_directory(original, tell))
    name, found = hub_name(variant), find(variant)
    if not os.path.isdir(name) and not offline() and (found is None or directory_problems(found)):
        tell(f"fetching {name}")
        fetched(variant, weights=True)
    return name


def _quantization(model: ModelSpec, precision: Precision) -> BitsAndBytesConfig:
    if model.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = DTYPES[precision]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=model.double_quantization,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=compute,
    )


def lora_config(lora: LoraSpec) -> LoraConfig:
    targets, layers = lora.target_modules, lora.layers_to_transform
    if layers is not None and targets == "all-linear":  # which peft takes for a pattern, that has no layers beside it
        targets = list(LINEARS)
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias=lora.bias,
        target_modules=targets, layers_to_transform=layers, layers_pattern=None if layers is None else "layers",
        modules_to_save=list(lora.modules_to_save) or None, use_rslora=lora.use_rslora, use_dora=lora.use_dora,
    )  # fmt: skip
