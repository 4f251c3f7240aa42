"""What `auto` takes for attention and loss, and what cannot be asked for."""

from typing import Any

import pytest

from launch.errors import UsageError
from launch.kernels import flash_attention_of
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
