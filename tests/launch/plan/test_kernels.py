"""What `auto` takes for attention and loss, and what cannot be asked for."""

from typing import Any

import pytest

from launch.errors import UsageError
from launch.machine.hardware import Topology
from launch.memory import activations
from launch.plan.kernels import flash_attention_of
from tests.launch.conftest import CPU, plan_of, spec_of

SMALL = {"max_length": 512}


def chosen(where: Any, **sections: Any) -> tuple[str, str]:
    plan = plan_of(where, 1, spec_of("qwen2.5-7b-instruct", **{"data": SMALL, **sections}))
    assert plan.setting.attention == plan.attention
    assert plan.setting.chunked_loss is (plan.loss == "chunked")
    return plan.attention, plan.loss


def refused(where: Any, **sections: Any) -> str:
    with pytest.raises(UsageError) as caught:
        plan_of(where, 1, spec_of("qwen2.5-7b-instruct", **{"data": SMALL, **sections}))
    return str(caught.value)


def test_what_was_measured_to_be_faster_is_the_default_where_it_was() -> None:
    assert chosen(CPU) == ("varlen", "chunked")
    assert chosen(CPU, data={**SMALL, "packing": False}) == ("sdpa", "chunked")
    assert chosen("1xH100-80GB") == ("sdpa", "plain")


def test_what_is_asked_for_is_taken() -> None:
    asked = {"model": {"attention": "varlen"}, "training": {"loss": "chunked"}}
    assert chosen("1xH100-80GB", **asked) == ("varlen", "chunked")
    assert chosen(CPU, model={"attention": "eager"}, training={"loss": "plain"}) == ("eager", "plain")


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"lora": {"modules_to_save": ["lm_head"]}}, "lora.modules_to_save trains the output head"),
        ({"training": {"extra": {"use_liger_kernel": True}}}, "training.extra.use_liger_kernel brings a loss of its"),
    ],
)
def test_a_loss_that_cannot_be_in_chunks_is_plain_and_refused_by_name(sections: dict[str, Any], reason: str) -> None:
    assert chosen(CPU, **sections)[1] == "plain"
    asked = {**sections, "training": {**sections.get("training", {}), "loss": "chunked"}}
    assert f"training.loss chunked: {reason}" in refused(CPU, **asked)


def test_fp16_scales_its_loss_too_late() -> None:
    assert "in fp16 a chunk's small gradients vanish" in refused("1xV100-32GB", training={"loss": "chunked"})


@pytest.mark.parametrize("training", [{}, {"precision": "fp32"}])
def test_attention_by_documents_needs_the_gpu_s_kernel(training: dict[str, Any]) -> None:
    where = "1xA100-80GB" if training else "1xV100-32GB"
    told = refused(where, model={"attention": "varlen"}, training=training)
    assert "model.attention varlen needs bf16 or fp16 on compute capability 8.0" in told


def test_another_package_s_kernels_are_for_gpus_and_half_precision() -> None:
    asked = {"model": {"flash_attention": "fa3"}}
    assert flash_attention_of(spec_of(**asked), gpu=True) == "fa3"
    assert flash_attention_of(spec_of(**asked), gpu=False) == "torch"  # the same spec, tried on a CPU
    assert "model.flash_attention fa3 computes in bf16 and fp16" in refused(
        "1xH100-80GB", **asked, training={"precision": "fp32"}
    )


def test_another_package_s_kernels_are_never_called_beside_a_mask() -> None:
    """Packed rows under SDPA, which is what `auto` takes on GPUs."""
    asked = {"flash_attention": "fa3"}
    told = refused("1xH100-80GB", model=asked)
    assert "nothing reads this: packed rows have a mask under model.attention sdpa" in told
    assert told.endswith("use model.attention: varlen or data.packing: false")
    assert chosen("1xH100-80GB", model={**asked, "attention": "varlen"})[0] == "varlen"
    assert chosen("1xH100-80GB", model=asked, data={**SMALL, "packing": False})[0] == "sdpa"
    assert chosen(CPU, model={**asked, "attention": "sdpa"})[0] == "sdpa"


def test_chunks_take_the_largest_tensor_out_of_the_forecast() -> None:
    """7B, four rows of 4,096 tokens: 30 GB become 0.85."""
    peaks = {}
    for loss in ("plain", "chunked"):
        plan = plan_of(
            "1xH200-141GB", 1,
            spec_of("qwen2.5-7b-instruct", training={"loss": loss, "gradient_checkpointing": True}),
        )  # fmt: skip
        peaks[loss] = plan.memory.phases["loss"]
    assert peaks["plain"] - peaks["chunked"] == 12 * 16384 * 152_064 - 8 * 512 * 152_064 - 2 * 2 * 16384 * 3584


@pytest.mark.parametrize(
    ("training", "reason"),
    [
        ({"compile": True}, "training.compile merges their operations itself"),
        ({"extra": {"use_liger_kernel": True}}, "training.extra.use_liger_kernel brings norms of its own"),
    ],
)
def test_norms_that_others_merge_are_refused_by_name(training: dict[str, Any], reason: str) -> None:
    assert f"model.norms fused: {reason}" in refused(CPU, training=training, model={"norms": "fused"})


def test_a_norm_keeps_its_input_as_it_came() -> None:
    """7B, 2,048 tokens in bf16: 2 bytes of each element less, of two norms in each of 28 blocks. That of the last norm
    is gone when the peak comes."""
    saved = {}
    for name in ("plain", "fused"):
        plan = plan_of(
            "1xH200-141GB", 1,
            spec_of(
                "qwen2.5-7b-instruct", data={"max_length": 2048}, model={"norms": name},
                training={"micro_batch_size": 1, "gradient_checkpointing": False, "loss": "chunked"},
            ),
        )  # fmt: skip
        saved[name] = plan.memory.peak_bytes
    assert saved["plain"] - saved["fused"] == 2 * 2048 * 3584 * 2 * 28


def layers(where: Any, **sections: Any) -> str:
    """Who computes adapted layers."""
    plan = plan_of(where, 1, spec_of("qwen2.5-7b-instruct", **{"data": SMALL, **sections}))
    assert plan.setting.fused_lora is (plan.lora_implementation == "fused")
    return plan.lora_implementation


def test_adapted_layers_are_one_operation_where_that_was_measured_to_be_faster() -> None:
    assert layers(CPU) == "fused"
    assert layers("1xH100-80GB") == "peft"
    assert layers("1xH100-80GB", lora={"implementation": "fused"}) == "fused"
    assert layers(CPU, lora={"implementation": "peft"}) == "peft"


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"lora": {"use_dora": True}}, "lora.use_dora scales what the base makes"),
        ({"model": {"quantization": "int8"}}, "int8 weights are unpacked by bitsandbytes' own layer"),
        ({"training": {"compile": True}}, "training.compile merges PEFT's operations itself"),
        (
            {"training": {"extra": {"use_liger_kernel": True}}},
            "training.extra.use_liger_kernel computes the MLP itself",
        ),
        ({"lora": {"cast_inputs": True}}, "lora.cast_inputs is of PEFT's layers"),
    ],
)
def test_layers_that_cannot_be_one_operation_are_peft_s_and_refused_by_name(
    sections: dict[str, Any], reason: str
) -> None:
    assert layers(CPU, **sections) == "peft"
    asked = {**sections, "lora": {**sections.get("lora", {}), "implementation": "fused"}}
    assert f"lora.implementation fused: {reason}" in refused(CPU, **asked)


@pytest.mark.parametrize(("devices", "name"), [(CPU, "CPU process"), ("1xV100-32GB", "V100-32GB")])
def test_tf32_takes_tensor_cores_that_have_it(devices: Topology | str, name: str) -> None:
    """transformers raises a ValueError for it elsewhere, on every rank."""
    assert refused(devices, training={"extra": {"tf32": True}}).endswith(
        f"training.extra.tf32 needs a GPU of compute capability 8.0 or above, and {name} is none; remove it"
    )
    assert plan_of("1xA100-80GB", 1, spec_of("qwen2.5-7b-instruct", training={"extra": {"tf32": True}}))


def test_an_operation_keeps_one_byte_of_dropout_in_place_of_three_and_half_of_an_mlp() -> None:
    """7B, two rows of 2,048 tokens, adapted everywhere: of each layer's input a mask, and shared inputs once."""
    kept = {}
    for implementation in ("peft", "fused"):
        plan = plan_of(
            "1xH200-141GB", 1,
            spec_of(
                "qwen2.5-7b-instruct", data={"max_length": 2048},
                lora={"implementation": implementation, "dropout": 0.05},
                training={"micro_batch_size": 2, "gradient_checkpointing": False, "loss": "chunked"},
            ),
        )  # fmt: skip
        kept[implementation] = activations.saved(plan.architecture, plan.setting)
    hidden, wide = 3584, 18_944
    inputs, shared = 6 * hidden + wide, 2 * hidden  # o's is kept by the attention, down's is made again
    first = 3 * hidden  # PEFT's first q, k and v need no mask: no gradient goes on from their input
    assert kept["peft"] - kept["fused"] == 4096 * (28 * 2 * (inputs - shared + wide) - first)
