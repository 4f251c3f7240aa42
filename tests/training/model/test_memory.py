"""The memory model against real tensors on the CPU: static terms exactly, activations within 3 %, peaks within 6 %."""

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from launch.memory import activations, static, transients
from launch.memory.forecast import LOGIT_COPIES, forecast
from launch.memory.setting import Adapter, Setting, adapter_of
from launch.model.architecture import Architecture, from_config
from launch.spec import LoraSpec
from tests.conftest import Workspace
from tests.training.model.live_memory import Live, computing_in, saved_bytes
from tests.training.model.test_initial import plan_for
from training.model.casting import leave_inputs
from training.model.fused import fuse
from training.model.loading import hold_adapter, load, lora_config
from training.model.recompute import checkpoint_blocks, checkpointed_blocks

BATCH, LENGTH, VOCABULARY = 2, 64, 200
SHAPES = {
    "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY, "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}  # fmt: skip


def built(
    kind: str, precision: str, lora: LoraSpec, attention: str, zero: bool, fused: bool = False, **shapes: int
) -> Any:
    """A small model with its adapter, as a strategy of that engine holds them."""
    config = AutoConfig.for_model(kind, **{**SHAPES, **shapes})
    base = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    base.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    base.config.use_cache = False
    options: LoraConfig = lora_config(lora)
    assert options.task_type == TaskType.CAUSAL_LM
    model = get_peft_model(base, options, autocast_adapter_dtype=not zero).train()
    if not lora.cast_inputs:
        leave_inputs(model)
    if fused:
        fuse(model)
    return model


def architecture_of(model: Any) -> Architecture:
    return from_config(model.get_base_model().config.to_dict(), "config.json")


def setting(architecture: Architecture, precision: Any, lora: LoraSpec, zero: bool = False, **more: Any) -> Setting:
    values: dict[str, Any] = {"micro_batch_size": BATCH, "max_length": LENGTH, "gradient_checkpointing": False, **more}
    return Setting(
        strategy="zero2" if zero else "single", world_size=1, precision=precision, gpu=False,
        adapter=adapter_of(architecture, lora), **values,
    )  # fmt: skip


def inputs(masked: bool, length: int = LENGTH) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, VOCABULARY, (BATCH, length))
    attended = torch.ones_like(ids)
    if masked:
        attended[1, length // 2 :] = 0
    return {"input_ids": ids, "labels": ids, "attention_mask": attended}


# Activations

ENGINES = [("fp32", False), ("bf16", False), ("bf16", True)]
LORAS: list[dict[str, Any]] = [
    {}, {"rank": 16, "dropout": 0.1}, {"target_modules": ["q_proj", "v_proj"]}, {"layers_to_transform": [1, 2, 3]},
    {"use_dora": True}, {"use_dora": True, "dropout": 0.1, "layers_to_transform": [0, 1]},
    {"layers_to_transform": [1]}, {"layers_to_transform": [0, 3]}, {"target_modules": ["down_proj"]},
    {"target_modules": ["up_proj"]}, {"target_modules": ["v_proj"]}, {"target_modules": ["gate_proj", "o_proj"]},
    {"bias": "all", "layers_to_transform": [2]}, {"cast_inputs": True},
]  # fmt: skip
SETTINGS = [
    (kind, *engine, attention, masked, {"dropout": 0.0, **lora})
    for kind, engine, attention, masked, lora in itertools.product(
        ["qwen2", "qwen3", "llama"], ENGINES, ["sdpa", "eager"], [False, True], LORAS
    )
    # every second one: 252 of 504
    if (len(kind) + ENGINES.index(engine) + len(attention) + masked + LORAS.index(lora)) % 2
]


@pytest.mark.parametrize(("kind", "precision", "zero", "attention", "masked", "options"), SETTINGS)
def test_what_is_kept_for_the_backward_pass(
    kind: str, precision: str, zero: bool, attention: str, masked: bool, options: dict[str, Any]
) -> None:
    lora = LoraSpec(**options)
    model = built(kind, precision, lora, attention, zero)
    here = setting(architecture_of(model), precision, lora, zero, attention=attention, masked=masked)
    assert kept_bytes(model, here) == pytest.approx(expected_bytes(model, here), rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_is_kept_with_an_adapter_in_bf16(precision: str, attention: str, dropout: float) -> None:
    """Under the trainer's autocast, which has nothing to cast in a run in bf16."""
    lora = LoraSpec(dropout=dropout, precision="bf16")
    model = built("qwen2", precision, lora, attention, zero=False)
    hold_adapter(model, torch.bfloat16)
    here = setting(architecture_of(model), precision, lora, attention=attention, masked=True, adapter_precision="bf16")
    assert kept_bytes(model, here, autocast=precision == "bf16") == pytest.approx(expected_bytes(model, here), rel=0.03)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize(("attention", "masked"), [("sdpa", False), ("eager", True)])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    "options",
    [{}, {"target_modules": ["q_proj", "v_proj"]}, {"target_modules": ["down_proj"]}, {"layers_to_transform": [1, 3]}],
    ids=str,
)
def test_what_is_kept_where_an_adapted_layer_is_one_operation(
    kind: str, precision: str, zero: bool, attention: str, masked: bool, dropout: float, options: dict[str, Any]
) -> None:
    lora = LoraSpec(dropout=dropout, **options)
    model = built(kind, precision, lora, attention, zero, fused=True)
    here = setting(architecture_of(model), precision, lora, zero, attention=attention, masked=masked, fused_lora=True)
    assert kept_bytes(model, here) == pytest.approx(expected_bytes(model, here), rel=0.03)


@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_one_head_of_keys_is_repeated_without_a_copy(precision: str, zero: bool, attention: str) -> None:
    lora = LoraSpec(dropout=0.0)
    model = built("qwen2", precision, lora, attention, zero, num_key_value_heads=1)
    here = setting(architecture_of(model), precision, lora, zero, attention=attention, masked=True)
    assert kept_bytes(model, here) == pytest.approx(expected_bytes(model, here), rel=0.03)


def kept_bytes(model: Any, here: Setting, autocast: bool = False) -> int:
    """What is alive after a forward pass. Hooks on what autograd saves would also count what is dropped on the way:
    DoRA multiplies its pair in a graph that nothing refers to afterwards."""
    given = inputs(here.masked)
    with (
        Live([*model.parameters(), *model.buffers(), *given.values()]) as live,
        computing_in(here.precision, autocast or here.casts),
    ):
        loss = model(**given).loss
        kept: int = live.live
    del loss
    return kept


def expected_bytes(model: Any, here: Setting) -> int:
    log_softmax = 4 * here.tokens * VOCABULARY
    architecture = architecture_of(model)
    return activations.saved(architecture, here) + activations.cast_weights(architecture, here) + log_softmax


CHECKPOINTED = [
    (kind, *engine, attention, masked, layers, {"dropout": 0.0, **lora})
    for kind, engine, (attention, masked), layers, lora in itertools.product(
        ["qwen2", "qwen3"], ENGINES, [("sdpa", False), ("sdpa", True), ("eager", True)], [1, 2, 3, 4],
        [{}, {"rank": 16, "dropout": 0.1}, {"layers_to_transform": [1, 3]}, {"use_dora": True, "dropout": 0.1}],
    )
    # every third one: 96 of 288
    if (len(kind) + ENGINES.index(engine) + len(attention) + masked + layers + len(lora)) % 3 == 0
]  # fmt: skip


@pytest.mark.parametrize(("kind", "precision", "zero", "attention", "masked", "layers", "options"), CHECKPOINTED)
def test_what_is_kept_with_so_many_blocks_checkpointed(
    kind: str, precision: str, zero: bool, attention: str, masked: bool, layers: int, options: dict[str, Any]
) -> None:
    """A checkpoint is small beside what it stands for, so that the tables of the positions, which are in no term, count
    here: the model is wider, by which they grow no larger."""
    lora = LoraSpec(**options)
    model = built(kind, precision, lora, attention, zero, hidden_size=192)
    here = setting(
        architecture_of(model), precision, lora, zero, attention=attention, masked=masked,
        gradient_checkpointing=True, checkpointed_layers=layers,
    )  # fmt: skip
    checkpoint_first(model, here)
    assert kept_bytes(model, here) == pytest.approx(expected_bytes(model, here), rel=0.03)


def checkpoint_first(model: Any, here: Setting) -> None:
    layers = here.checkpointed(architecture_of(model).layers)
    checkpoint_blocks(model.get_base_model(), here.adapter.first_block, layers)
    assert checkpointed_blocks(model) == layers


@pytest.mark.parametrize("layers", range(5))
@pytest.mark.parametrize(("precision", "zero"), [("fp32", False), ("bf16", True)])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_hooks_find_what_so_many_blocks_keep(kind: str, precision: str, zero: bool, layers: int) -> None:
    """Inside a checkpointed block autograd asks its own hooks, and these drop all but the block's input. A mask and
    autocast's copies, which those of a block are given or make, they do not see: here there are none."""
    lora = LoraSpec(dropout=0.0)
    model = built(kind, precision, lora, "sdpa", zero)
    here = setting(
        architecture_of(model), precision, lora, zero, masked=False,
        gradient_checkpointing=layers > 0, checkpointed_layers=layers,
    )  # fmt: skip
    checkpoint_first(model, here)
    hooked = saved_bytes(model, lambda: model(**inputs(here.masked)).loss)
    assert hooked == pytest.approx(expected_bytes(model, here), rel=0.03)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("precision", "zero"), ENGINES)
def test_hooks_find_what_is_alive(precision: str, zero: bool, dropout: float) -> None:
    """The two ways to measure agree where no graph is dropped."""
    lora = LoraSpec(dropout=dropout)
    model = built("qwen2", precision, lora, "sdpa", zero)
    here = setting(architecture_of(model), precision, lora, zero)
    with computing_in(precision, here.casts):
        hooked = saved_bytes(model, lambda: model(**inputs(here.masked)).loss)
    assert hooked == pytest.approx(kept_bytes(model, here), rel=0.01)


def test_there_are_enough_settings() -> None:
    assert len(SETTINGS) >= 40


# Static terms

LORA_OPTIONS: list[dict[str, Any]] = [
    {}, {"modules_to_save": ["embed_tokens", "lm_head"]}, {"use_dora": True, "rank": 4},
    {"target_modules": ["q_proj"], "layers_to_transform": [1]},
]  # fmt: skip


STATIC = [
    (quantization, options)
    for quantization, options in itertools.product(["none", "nf4", "int8"], LORA_OPTIONS)
    if not (quantization == "int8" and options.get("use_dora"))  # refused
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("quantization", "options"), STATIC, ids=str)
def test_weights_constants_and_adapters_are_exact(
    wide_base: Workspace, precision: Any, quantization: Any, options: dict[str, Any]
) -> None:
    plan = plan_for(wide_base, lora=options, model={"quantization": quantization})
    model = load(plan.model_copy(update={"precision": precision}))
    here = setting(plan.architecture, precision, plan.spec.lora, quantization=quantization)
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert static.base_weights(plan.architecture, here) == frozen
    assert static.quantization_constants(plan.architecture, here) == _constants(model)
    assert static.adapters(here) == static.gradients(here) == trained


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "options", [{"bias": "all"}, {"bias": "lora_only", "target_modules": ["q_proj", "up_proj"]}], ids=str
)
def test_biases_that_are_trained_are_exact(wide_base: Workspace, precision: Any, options: dict[str, Any]) -> None:
    """They are the base's own: their weights are counted there."""
    plan = plan_for(wide_base, lora=options)
    model = load(plan.model_copy(update={"precision": precision}))
    here = setting(plan.architecture, precision, plan.spec.lora)
    assert any(name.endswith("bias") and p.requires_grad for name, p in model.named_parameters())
    assert static.base_weights(plan.architecture, here) + static.adapters(here) == sum(
        p.nbytes for p in model.parameters()
    )
    assert static.gradients(here) == sum(p.nbytes for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("views", [True, False])
def test_ddp_holds_gradients_in_its_buckets_and_beside_them_while_it_accumulates(
    views: bool, wide_base: Workspace
) -> None:
    plan = plan_for(wide_base)
    here = replace(setting(plan.architecture, "fp32", plan.spec.lora), strategy="ddp", world_size=2, bucket_views=views)
    model = load(plan.model_copy(update={"precision": "fp32"}))
    store = torch.distributed.HashStore()  # type: ignore[no-untyped-call]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=views)
        for _ in range(2):  # buckets are built anew after the first
            wrapped(torch.arange(8)[None]).logits.sum().backward()
        exchanged = gradient_storages(model)
        wrapped.zero_grad()
        with wrapped.no_sync():
            wrapped(torch.arange(8)[None]).logits.sum().backward()
        earlier = gradient_storages(model)
    finally:
        torch.distributed.destroy_process_group()
    assert static.gradients(here) == (0 if views else sum(exchanged.values()))
    assert static.buffers(plan.architecture, here) == sum(exchanged.values())
    assert (len(exchanged) < sum(p.requires_grad for p in model.parameters())) is views
    if views:  # else what was exchanged has gone, and its addresses are used again
        assert not exchanged.keys() & earlier.keys()
    assert static.accumulated(here) == static.gradients(here)
    assert static.accumulated(replace(here, accumulates=True)) == sum(earlier.values())


def gradient_storages(model: Any) -> dict[int, int]:
    """Bytes by address."""
    found = [p.grad.untyped_storage() for p in model.parameters() if p.grad is not None]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def test_fsdp2_holds_whole_gradients_until_a_step_s_last_micro_batch(tmp_path: Path) -> None:
    script = tmp_path / "accumulate.py"
    script.write_text(ACCUMULATE, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    whole, shares = map(int, done.stdout.split())
    assert (whole, shares) == (3 * 8 * 8 * 4, 3 * 8 * 8 * 4 // 2)
    adapter = Adapter(rank=1, pairs=3 * 8 * 8)
    architecture = from_config({"model_type": "qwen2", **SHAPES}, "config.json")
    here = replace(setting(architecture, "fp32", LoraSpec()), strategy="fsdp2", world_size=2, adapter=adapter)
    assert static.gradients(here) == static.accumulated(here) == shares
    assert static.accumulated(replace(here, accumulates=True)) == whole


# As accelerate's no_sync does under FSDP2. Rank 0 prints the bytes of gradients after a step's first micro-batch, and
# after its last one.
ACCUMULATE = """
import os

import torch
from torch.distributed.fsdp import fully_shard

torch.distributed.init_process_group("gloo")
model = torch.nn.Sequential(*[torch.nn.Linear(8, 8, bias=False) for _ in range(3)])
for layer in [*model, model]:
    fully_shard(layer)
whole = []
for last in (False, True):
    model.set_requires_gradient_sync(last)
    model(torch.ones(1, 8)).sum().backward()
    if not last:
        groups = [layer._get_fsdp_state()._fsdp_param_group for layer in model]
        whole = [p._unsharded_param.grad.nbytes for group in groups for p in group.fsdp_params]
shares = [p.grad.to_local().nbytes for p in model.parameters()]
if torch.distributed.get_rank() == 0:
    print(sum(whole), sum(shares), flush=True)
torch.distributed.barrier()
os._exit(0)  # an interpreter that ends beside gloo's threads may be aborted ("terminate called")
"""


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    ("precision", "held"), [("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "fp32"), ("bf16", "bf16")]
)
def test_constants_and_adapters_are_held_as_the_spec_says(
    wide_base: Workspace, double: bool, precision: Any, held: Any
) -> None:
    model = {"quantization": "nf4", "double_quantization": double}
    plan = plan_for(wide_base, model=model, lora={"precision": held})
    loaded = load(plan.model_copy(update={"precision": precision}))
    here = replace(plan.setting, precision=precision)
    trained = [p for p in loaded.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {{"fp32": torch.float32, "bf16": torch.bfloat16}[held]}
    assert static.adapters(here) == static.gradients(here) == sum(p.nbytes for p in trained)
    assert static.quantization_constants(plan.architecture, here) == _constants(loaded)


def _constants(model: Any) -> int:
    found: dict[int, int] = {}
    for weight in model.parameters():
        state = getattr(weight, "quant_state", None)
        tensors = [getattr(weight, "SCB", None)]
        if state is not None:
            tensors = [state.absmax, state.code]
            tensors += [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
        found |= {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
    return sum(found.values())


@pytest.mark.parametrize("name", ["adamw_torch", "paged_adamw_32bit"])
def test_the_optimizer_s_moments_are_exact(workspace: Workspace, name: Any) -> None:
    from bitsandbytes.optim import PagedAdamW32bit

    plan = plan_for(workspace)
    model = load(plan)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind: Any = torch.optim.AdamW if name == "adamw_torch" else PagedAdamW32bit
    optimizer = kind(parameters, lr=1e-4)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    moments = sum(value.nbytes for value in states if isinstance(value, torch.Tensor) and value.numel() > 1)
    assert static.optimizer(setting(plan.architecture, "fp32", plan.spec.lora, optimizer=name)) == moments


# Peaks


@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize("layers", [0, 2, 3, 4])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("kind", "length"), [("qwen2", 256), ("qwen3", 640)])
def test_the_peak_of_a_step_that_holds_every_score(
    kind: str, length: int, masked: bool, precision: str, zero: bool, layers: int
) -> None:
    """Eager attention: the softmax's gradient is the peak."""
    lora = LoraSpec(dropout=0.0)
    options = {"attention": "eager", "masked": masked, "length": length}
    assert check_the_peak(kind, precision, zero, layers, lora, vocab_size=100, **options) == "backward"


@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize("layers", [0, 2, 3, 4])
@pytest.mark.parametrize(("kind", "vocabulary"), [("qwen2", 8000), ("qwen3", 100)])
def test_the_peak_of_a_step(kind: str, vocabulary: int, precision: str, zero: bool, layers: int) -> None:
    """Where the vocabulary is large it is the loss's, where it is small the backward pass's."""
    phase = check_the_peak(kind, precision, zero, layers, LoraSpec(dropout=0.0), vocab_size=vocabulary)
    assert (phase == "loss") is (vocabulary == 8000)


@pytest.mark.parametrize(
    ("precision", "zero", "dropout"),
    [("bf16", False, 0.0), ("bf16", False, 0.1), ("bf16", True, 0.1), ("fp32", False, 0.1)],
)
@pytest.mark.parametrize("layers", [0, 3, 4])
@pytest.mark.parametrize("width", [384, 1024])
def test_the_peak_of_a_step_whose_inputs_peft_casts(
    precision: str, zero: bool, dropout: float, layers: int, width: int
) -> None:
    """With dropout always; an adapter's own copies, cast once, are in no term of a token, so that these are many."""
    lora = LoraSpec(dropout=dropout, cast_inputs=True)
    sizes = {"vocab_size": 100, "intermediate_size": width, "length": 512}
    check_the_peak("qwen2", precision, zero, layers, lora, **sizes)


@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize("layers", [0, 2, 3, 4])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("width", [384, 1024])
def test_the_peak_of_a_step_with_dora(precision: str, zero: bool, layers: int, dropout: float, width: int) -> None:
    """Of a wide MLP it is the identity matrix, 1,024 by 1,024, by which DoRA multiplies the pair of down_proj."""
    lora = LoraSpec(dropout=dropout, use_dora=True)
    check_the_peak("qwen2", precision, zero, layers, lora, vocab_size=100, intermediate_size=width)


@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize("layers", [0, 2, 3, 4])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("width", [384, 1024])
def test_the_peak_of_a_step_where_an_adapted_layer_is_one_operation(
    precision: str, zero: bool, layers: int, dropout: float, width: int
) -> None:
    lora = LoraSpec(dropout=dropout)
    check_the_peak("qwen2", precision, zero, layers, lora, fused=True, vocab_size=100, intermediate_size=width)


@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize("layers", [0, 2, 3, 4])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "options", [{"target_modules": ["q_proj", "v_proj"]}, {"layers_to_transform": [1, 3]}], ids=str
)
def test_the_peak_of_a_step_where_an_mlp_is_not_adapted(
    precision: str, zero: bool, layers: int, fused: bool, options: dict[str, Any]
) -> None:
    lora, shapes = LoraSpec(dropout=0.0, **options), {"vocab_size": 100, "intermediate_size": 1024}
    check_the_peak("qwen2", precision, zero, layers, lora, fused=fused, **shapes)


def check_the_peak(
    kind: str, precision: str, zero: bool, layers: int, lora: LoraSpec, attention: str = "sdpa",
    masked: bool = False, length: int = 256, fused: bool = False, **shapes: int,
) -> str:  # fmt: skip
    """That what is forecast of a step is within 6 % of what was alive; the phase that it was forecast for."""
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 8, **shapes}
    model = built(kind, precision, lora, attention, zero, fused, **sizes)
    architecture = architecture_of(model)
    here = setting(
        architecture, precision, lora, zero, max_length=length, masked=masked, attention=attention,
        gradient_checkpointing=layers > 0, checkpointed_layers=layers, fused_lora=fused,
    )  # fmt: skip
    checkpoint_first(model, here)
    peak = peak_of_a_step(model, here)
    made = forecast(architecture, here)
    held = static.base_weights(architecture, here) + static.adapters(here) + static.gradients(here)
    held += static.optimizer(here) + static.buffers(architecture, here)
    steps = [made.phases[phase] for phase in ("forward", "loss", "backward")]
    assert max(steps) - held == pytest.approx(peak, rel=0.06)
    return made.phase


def peak_of_a_step(model: Any, here: Setting, computed: bool = False) -> int:
    """Bytes alive at most in a step on two rows, beside what was there before; the shorter one ends half way."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    ids = torch.randint(0, model.config.vocab_size, (BATCH, here.max_length))
    attended = torch.ones_like(ids)
    attended[1, here.max_length // 2 :] = 0 if here.masked else 1
    before = [ids, attended, *model.parameters(), *model.buffers()]
    live = Live([*before, *(p.grad for p in model.parameters() if p.grad is not None)], computed)
    with live:
        with computing_in(here.precision, here.casts):
            result = model(input_ids=ids, labels=ids, attention_mask=attended)
            loss = result.loss
            del result
        loss.backward()
    return live.peak


@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_a_product_holds_is_its_result(precision: str, zero: bool, fused: bool, attention: str) -> None:
    """So that the peaks above are those of a step which is computed, though none of them is."""
    lora, length, layers = LoraSpec(dropout=0.1), 64, 2
    model = built("qwen2", precision, lora, attention, zero, fused, vocab_size=100, num_attention_heads=8)
    here = setting(
        architecture_of(model), precision, lora, zero, max_length=length, masked=True, attention=attention,
        gradient_checkpointing=True, checkpointed_layers=layers, fused_lora=fused,
    )  # fmt: skip
    checkpoint_first(model, here)
    assert peak_of_a_step(model, here) == peak_of_a_step(model, here, computed=True)


@pytest.mark.parametrize(
    ("precision", "zero", "dropout"), [("bf16", False, 0.0), ("bf16", False, 0.1), ("bf16", True, 0.1)]
)
@pytest.mark.parametrize("layers", [0, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]}, {"target_modules": ["o_proj", "gate_proj", "up_proj"]},
        {"layers_to_transform": [0, 2]},
    ],
    ids=str,
)  # fmt: skip
def test_the_peak_of_a_step_whose_inputs_are_narrow(
    precision: str, zero: bool, dropout: float, layers: int, options: dict[str, Any]
) -> None:
    """Where no down is adapted, or not that of the last block."""
    lora = LoraSpec(dropout=dropout, cast_inputs=True, **options)
    check_the_peak("qwen2", precision, zero, layers, lora, vocab_size=100, intermediate_size=1024, length=512)


@pytest.mark.parametrize(("precision", "zero"), ENGINES)
@pytest.mark.parametrize("options", [{"dropout": 0.1}, {"dropout": 0.0}, {"use_dora": True}], ids=str)
@pytest.mark.parametrize("width", [384, 1024])
def test_the_peak_of_an_evaluation(precision: str, zero: bool, options: dict[str, Any], width: int) -> None:
    """Of the blocks, in passing. DoRA's two largest may not meet: as much, and at most half as much more."""
    lora = LoraSpec(**options)
    sizes = {"hidden_size": 128, "intermediate_size": width, "num_attention_heads": 8, "vocab_size": 100}
    model = built("qwen2", precision, lora, "sdpa", zero, **sizes).eval()
    architecture, length = architecture_of(model), 512
    here = setting(architecture, precision, lora, zero, max_length=length, masked=False)
    ids = torch.zeros(BATCH, length, dtype=torch.long)
    live = Live([ids, *model.parameters(), *model.buffers()])
    with torch.no_grad(), live, computing_in(precision, here.casts):
        model(input_ids=ids)
    forecast_bytes, most = transients.evaluating(architecture, here), 1.5 if lora.use_dora else 1.06
    assert 0.94 * live.peak < forecast_bytes < most * live.peak


def test_keys_and_values_of_an_answer() -> None:
    model = built("qwen2", "fp32", LoraSpec(), "sdpa", zero=False).eval()
    there = setting(architecture_of(model), "fp32", LoraSpec(), answer_tokens=LENGTH)
    with torch.no_grad():
        layers = model(input_ids=torch.zeros(BATCH, LENGTH, dtype=torch.long), use_cache=True).past_key_values.layers
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    short, long = (
        forecast(architecture_of(model), replace(there, answer_tokens=length)).phases["answers"]
        for length in (LENGTH, 2 * LENGTH)
    )
    passing = 4 * 4 * (SHAPES["hidden_size"] + SHAPES["intermediate_size"])
    assert long - short == held + BATCH * LENGTH * passing


def test_what_torch_s_adamw_makes_in_its_step() -> None:
    """Its foreach implementation, which it chooses on a GPU; the lists that it divides by are of no size."""
    architecture = architecture_of(built("qwen2", "fp32", LoraSpec(), "sdpa", zero=False))
    here = setting(architecture, "fp32", LoraSpec(), optimizer="adamw_torch")
    weights = [torch.zeros(size, 8, requires_grad=True) for size in range(1000, 1100)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW(weights, foreach=True)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    with Live([*weights, *(weight.grad for weight in weights), *states]) as live:
        optimizer.step()
    of = replace(here, gpu=True, adapter=Adapter(pairs=sum(weight.numel() for weight in weights)))
    assert static.updating(of) == pytest.approx(live.peak, rel=0.01)
    assert static.updating(replace(of, optimizer="paged_adamw_32bit")) == 0
    assert static.updating(replace(of, gpu=False)) == 0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_logits_that_the_loss_makes(precision: torch.dtype) -> None:
    """Log-softmax, its gradient and that of the logits, in the type that the loss is computed in."""
    logits = torch.randn(64, 5000, dtype=precision, requires_grad=True)
    labels = torch.randint(0, 5000, (64,))
    with Live([logits, labels]) as live:
        torch.nn.functional.cross_entropy(logits, labels).backward()
    assert live.peak == pytest.approx(LOGIT_COPIES * logits.nbytes, rel=0.01)


def test_what_a_fused_loss_makes() -> None:
    """Liger's algorithm, whose kernel runs on a GPU alone, in torch's words: chunk by chunk, gradients in place."""
    architecture = architecture_of(built("qwen2", "fp32", LoraSpec(), "sdpa", zero=False, vocab_size=4000))
    here = setting(architecture, "fp32", LoraSpec(), max_length=512, fused_loss=True)
    hidden = torch.randn(here.tokens, architecture.hidden_size)
    head, labels = (
        torch.randn(architecture.vocab_size, architecture.hidden_size),
        torch.randint(0, 4000, (here.tokens,)),
    )
    chunk = 32  # 1,024 tokens in ceil(4000 / 96) chunks are 24.4 each
    with Live([hidden, head, labels]) as live:
        gradient = torch.zeros_like(hidden)
        for start in range(0, here.tokens, chunk):
            logits = hidden[start : start + chunk] @ head.T
            torch.softmax(logits, -1, out=logits)
            logits[torch.arange(chunk), labels[start : start + chunk]] -= 1
            torch.mm(logits, head, out=gradient[start : start + chunk])
            del logits
    plain = forecast(architecture, replace(here, fused_loss=False)).phases["loss"]
    fused = forecast(architecture, here).phases["loss"]
    assert fused - (plain - 3 * 4 * here.tokens * 4000) == pytest.approx(live.peak, rel=0.01)


# Host memory

LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM
def private():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))
AutoModelForCausalLM.from_pretrained(sys.argv[1])  # imports what it needs
for precision in (torch.bfloat16, torch.float32):
    before = private()
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=precision)
    print(private() - before)
    del model
"""


def test_a_process_copies_weights_only_into_another_type(tmp_path: Path) -> None:
    """Files in bf16 are mapped, and their pages are every process's; in fp32 they are its own."""
    shapes = {**SHAPES, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **shapes)).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    done = subprocess.run([sys.executable, "-c", LOAD, tmp_path], capture_output=True, text=True, check=True)
    mapped, copied = map(int, done.stdout.split())
    assert mapped < 0.1 * size
    assert copied == pytest.approx(size, rel=0.15)
