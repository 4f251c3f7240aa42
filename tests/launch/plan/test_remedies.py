"""What would make a spec fit: each change it names does, when it is made."""

from typing import Any

import pytest

from launch.errors import NoPlanError
from launch.machine.hardware import GIB, parse_gpus
from launch.plan.remedies import remedies
from launch.spec import RunSpec
from launch.versions import NEWEST
from tests.launch.conftest import CPU, architecture_of, plan_of, spec_of


def told(spec: RunSpec, gpus: str) -> list[str]:
    with pytest.raises(NoPlanError):
        plan_of(gpus, 1, spec)
    topology = parse_gpus(gpus)
    found = remedies(spec, architecture_of(spec), topology, "bf16" if topology.bf16 else "fp16", NEWEST)
    for remedy in found:
        assert remedy.best.fits
    return [remedy.text for remedy in found]


def test_the_cheapest_first() -> None:
    assert told(spec_of(data={"max_length": 2048}), "8xRTX4090-24GB") == [
        "training.loss: chunked", "training.micro_batch_size: 1, gradient_accumulation_steps: 16",
        "data.max_length: 1024",
    ]  # fmt: skip


def test_a_base_in_int8_may_be_held_in_half_of_that() -> None:
    base = {"model": {"quantization": "int8"}, "training": {"micro_batch_size": 1}}
    spec = spec_of("qwen2.5-7b-instruct", data={"max_length": 1024}, **base)
    assert told(spec, "1xT4-16GB")[0] == "model.quantization: nf4"


def test_a_micro_batch_that_the_planner_could_not_choose_is_told_a_smaller_one() -> None:
    """With its accumulation steps given, as another micro-batch would make another global batch."""
    spec = spec_of(
        data={"max_length": 2048}, training={"micro_batch_size": "auto", "gradient_accumulation_steps": 2}
    )  # fmt: skip
    assert "training.micro_batch_size: 1, gradient_accumulation_steps: 8" in told(spec, "8xRTX4090-24GB")


def test_weights_in_half_are_told_before_shorter_sequences() -> None:
    spec = spec_of(training={"precision": "fp32", "micro_batch_size": 1}, cluster={"strategy": "single"})
    with pytest.raises(NoPlanError) as caught:
        plan_of("A100-80GB", 1, spec)
    plan = plan_of("A100-80GB", 1, spec_of(training={"micro_batch_size": 1}, cluster={"strategy": "single"}))
    assert caught.value.remedies[1] == {
        "change": "training.precision: auto", "strategy": "single", "process_bytes": plan.memory.process_bytes
    }  # fmt: skip


def test_an_output_head_in_fp32_is_a_way_out() -> None:
    spec = spec_of(
        model={"quantization": "nf4", "upcast_unquantized": True}, data={"max_length": 4096},
        training={"micro_batch_size": 1, "loss": "chunked"}, cluster={"strategy": "single"},
    )  # fmt: skip
    assert told(spec, "L4-24GB")[0] == "model.upcast_unquantized: false"


def test_layers_as_one_operation_are_a_way_out() -> None:
    spec = spec_of(
        model={"quantization": "nf4"}, data={"max_length": 4096},
        training={"micro_batch_size": 1, "loss": "chunked", "gradient_checkpointing": False},
    )  # fmt: skip
    assert told(spec, "1xA100-80GB")[1] == "lora.implementation: fused"


def test_inputs_left_as_they_are_are_a_way_out() -> None:
    spec = spec_of(
        data={"max_length": 3072}, lora={"dropout": 0.0, "cast_inputs": True}, cluster={"strategy": "single"},
        training={"micro_batch_size": 1, "gradient_checkpointing": False, "loss": "chunked"},
    )  # fmt: skip
    assert "lora.cast_inputs: false" in told(spec, "1xH100-80GB")


def test_gradients_in_the_buckets_are_a_way_out() -> None:
    spec = spec_of(
        "qwen2.5-7b-instruct", model={"quantization": "nf4"}, data={"max_length": 1024}, lora={"rank": 256},
        cluster={"strategy": "ddp"},
        training={
            "micro_batch_size": 1, "gradient_accumulation_steps": 1, "gradient_checkpointing": True, "loss": "chunked",
            "gradient_as_bucket_view": False,
        },
    )  # fmt: skip
    assert "training.gradient_as_bucket_view: true" in told(spec, "8xRTX4090-24GB")


@pytest.mark.parametrize(("asked", "offered"), [("peft", True), ("auto", False), ("fused", False)])
def test_layers_as_one_operation_are_offered_on_a_cpu_to_whom_has_not_got_them(asked: str, offered: bool) -> None:
    here = CPU.model_copy(update={"memory_bytes": 50 * GIB, "host_bytes": 50 * GIB})
    spec = spec_of(
        "qwen2.5-7b-instruct", data={"max_length": 4096}, lora={"implementation": asked},
        training={"micro_batch_size": 1, "gradient_checkpointing": False},
    )  # fmt: skip
    found = remedies(spec, architecture_of(spec), here, "fp32", NEWEST)
    assert any("lora.implementation" in remedy.text for remedy in found) is offered


@pytest.mark.parametrize(
    "spec",
    [
        spec_of(training={"loss": "chunked"}),
        spec_of(lora={"modules_to_save": ["lm_head"]}),
        spec_of(training={"extra": {"use_liger_kernel": True}}),
    ],
)
def test_no_chunks_where_the_loss_has_them_or_cannot(spec: RunSpec) -> None:
    assert not any("training.loss" in remedy for remedy in told(spec, "8xRTX4090-24GB"))


def test_other_gpus_are_planned_for_in_their_own_precision() -> None:
    """bf16 where the one asked for has fp16 alone: a copy of the weights' files is no longer made."""
    spec, topology = spec_of(data={"max_length": 512}), parse_gpus("8xV100-32GB")
    with pytest.raises(NoPlanError) as caught:
        plan_of(topology.model_copy(update={"host_bytes": 100 * GIB}), 1, spec)
    assert [remedy["change"] for remedy in caught.value.remedies][1] == "A100-40GB GPUs"
    there = parse_gpus("8xA100-40GB").model_copy(update={"host_bytes": 100 * GIB})
    plan = plan_of(there, 1, spec)
    told = {key: caught.value.remedies[1][key] for key in ("strategy", "process_bytes")}
    assert told == {"strategy": plan.strategy, "process_bytes": plan.memory.process_bytes}


def test_of_gpus_that_are_as_large_the_slower() -> None:
    """An H100's memory is 0.1 GiB less than an A100's by nvidia-smi; nobody takes it for that."""
    spec = spec_of(data={"max_length": 1024}, training={"micro_batch_size": 1, "gradient_checkpointing": False})
    found = remedies(spec, architecture_of(spec), parse_gpus("A6000-48GB"), "bf16", NEWEST, most=9)
    assert [remedy.text for remedy in found if remedy.text.endswith("-80GB GPUs")] == ["A100-80GB GPUs"]


def test_what_the_spec_does_already_is_left_out() -> None:
    spec = spec_of(
        "qwen2.5-7b-instruct", model={"quantization": "nf4"}, data={"max_length": 1023},
        training={"micro_batch_size": 1, "gradient_checkpointing": False}, cluster={"strategy": "single"},
    )  # fmt: skip
    assert told(spec, "T4-16GB") == [
        "training.gradient_checkpointing: auto", "L4-24GB GPUs",
        "cluster.strategy: auto with lora.implementation: fused with 6 GPUs on each node",
    ]  # fmt: skip


def test_too_few_checkpointed_blocks() -> None:
    spec = spec_of(
        "qwen2.5-7b-instruct", data={"max_length": 2048}, training={"gradient_checkpointing": 1},
        cluster={"strategy": "single"},
    )  # fmt: skip
    assert told(spec, "1xA100-80GB")[0] == "training.gradient_checkpointing: auto"


def test_scores_need_not_be_held() -> None:
    model = {"quantization": "nf4", "attention": "eager"}
    spec = spec_of("qwen2.5-7b-instruct", model=model, data={"max_length": 2400}, training={"micro_batch_size": 1})
    assert told(spec, "T4-16GB")[0] == "model.attention: auto"


def test_a_packed_base_is_a_way_out_on_a_cpu_as_well() -> None:
    """7B in fp32 takes 38 GiB of 20, its blocks packed 17; bitsandbytes has kernels for both."""
    spec = spec_of("qwen2.5-7b-instruct", data={"max_length": 2048})
    small = CPU.model_copy(update={"memory_bytes": 22 * GIB})
    with pytest.raises(NoPlanError) as caught:
        plan_of(small, 1, spec)
    first = caught.value.remedies[0]
    assert (first["change"], first["strategy"]) == ("model.quantization: nf4", "single")
    nf4 = spec_of("qwen2.5-7b-instruct", data={"max_length": 2048}, model={"quantization": "nf4"})
    assert plan_of(small, 1, nf4).memory.process_bytes == first["process_bytes"]


def test_devices_that_cannot_share_the_global_batch_are_no_advice() -> None:
    """Nine sequences go to neither four nor six GPUs, but to three nodes with three each."""
    spec = spec_of(
        data={"max_length": 1024}, training={"global_batch_size": 9, "micro_batch_size": 1},
        cluster={"strategy": "zero3"},
    )  # fmt: skip
    assert told(spec, "3xV100-16GB")[2] == "3 nodes with 3 GPUs each"


def test_processes_that_share_a_node_s_own_memory() -> None:
    """fp16 of files in bf16: each of eight processes makes a copy of 29.5 GB."""
    spec = spec_of(data={"max_length": 512})
    topology = parse_gpus("8xV100-32GB").model_copy(update={"host_bytes": 100 * GIB})
    with pytest.raises(NoPlanError) as caught:
        plan_of(topology, 1, spec)
    assert str(caught.value).startswith(
        "no plan fits 1 x 8 V100-32GB: the least that a node needs of its own memory, ddp, is 236.1 GiB, and 100.0 GiB"
        " are free. What would make it fit: model.quantization: nf4 (ddp, "
    )
    found = remedies(spec, architecture_of(spec), topology, "fp16", NEWEST)
    assert [remedy.text for remedy in found][:3] == [
        "model.quantization: nf4", "A100-40GB GPUs", "2 devices on each node",
    ]  # fmt: skip
    assert found[2].best.memory.host_needed_bytes == pytest.approx(2 * (2 * GIB + 29.54e9), rel=1e-3)


def test_a_global_batch_is_kept_by_the_planner() -> None:
    spec = spec_of(data={"max_length": 2048}, training={"global_batch_size": 64, "micro_batch_size": 4})
    assert told(spec, "8xRTX4090-24GB")[:2] == ["training.loss: chunked", "training.micro_batch_size: 1"]


def test_several_together_where_one_is_not_enough() -> None:
    assert told(spec_of(cluster={"strategy": "single"}), "RTX3090-24GB") == [
        "H200-141GB GPUs",
        "cluster.strategy: auto with training.micro_batch_size: 1, gradient_accumulation_steps: 16",
        "cluster.strategy: auto with training.loss: chunked with model.norms: fused",
    ]


@pytest.mark.parametrize(
    ("gpus", "length"),
    [
        ("8xA10-24GB", 4096),
        ("8xT4-16GB", 2048),
        ("8xA100-80GB", 32768),
        ("1xRTX4090-24GB", 2048),
        ("2xV100-16GB", 4096),
        ("1xT4-16GB", 32768),
    ],
)
def test_three_changes_are_found_where_there_are_as_many(gpus: str, length: int) -> None:
    assert len(told(spec_of(data={"max_length": length}), gpus)) == 3


def test_where_nothing_here_is_enough_other_gpus_are_told_with_what_they_need_as_well() -> None:
    """14B on a T4, quantised already: of three changes each is needed."""
    spec = spec_of(model={"quantization": "nf4"}, data={"max_length": 32768})
    assert told(spec, "1xT4-16GB") == [
        "training.micro_batch_size: 1, gradient_accumulation_steps: 16 with H200-141GB GPUs",
        "data.max_length: 8192 with H200-141GB GPUs",
        "data.max_length: 4096 with A100-80GB GPUs",
    ]


def test_no_change_is_told_with_another_that_is_enough_alone() -> None:
    spec = spec_of("qwen2.5-14b-instruct", cluster={"strategy": "ddp"}, data={"max_length": 2048})
    found = [remedy.split(" with ") for remedy in told(spec, "2xRTX3090-24GB")]
    for number, changes in enumerate(found):
        assert not any(set(earlier) <= set(changes) for earlier in found[:number])


def test_sequences_are_shortened_as_far_as_it_takes() -> None:
    assert "training.micro_batch_size: 1, gradient_accumulation_steps: 16 with data.max_length: 2048" in told(
        spec_of(data={"max_length": 32768}), "1xT4-16GB"
    )


@pytest.mark.parametrize(
    ("change", "gpus"),
    [
        ({"training": {"micro_batch_size": 1, "gradient_accumulation_steps": 16}}, "8xRTX4090-24GB"),
        ({"data": {"max_length": 1024}}, "8xRTX4090-24GB"),
        ({"training": {"loss": "chunked"}}, "8xRTX4090-24GB"),
    ],
)
def test_what_is_told_is_so(change: dict[str, Any], gpus: str) -> None:
    sections: dict[str, Any] = {"data": {"max_length": 2048}, **change}
    plan = plan_of(gpus, 1, spec_of(**sections))
    (size,) = (
        remedy.best.memory.process_bytes
        for remedy in remedies(
            spec_of(data={"max_length": 2048}), plan.architecture, parse_gpus("8xRTX4090-24GB"), "bf16", NEWEST
        )
        if remedy.best.memory == plan.memory
    )
    assert size == plan.memory.process_bytes


def test_nothing_helps_a_cpu_that_is_too_small() -> None:
    small = CPU.model_copy(update={"memory_bytes": 1 << 30})
    with pytest.raises(NoPlanError, match=r"What would make it fit: no change that muster knows is enough: a smaller"):
        plan_of(small)


def test_on_one_device_a_change_is_one_of_the_spec_as_it_was_written() -> None:
    """It asks for eight: four sequences x four steps on each are 128, on one device as well. In micro-batches of 1 that
    is 16 steps in the spec, whatever becomes of them on one device."""
    asked: dict[str, Any] = {"data": {"max_length": 2048}, "cluster": {"devices_per_node": 8}}
    spec = spec_of(**asked, training={"micro_batch_size": 4, "gradient_accumulation_steps": 4})
    with pytest.raises(NoPlanError) as caught:
        plan_of("RTX4090-24GB", 1, spec)
    told = "training.micro_batch_size: 1, gradient_accumulation_steps: 16"
    (change,) = [remedy for remedy in caught.value.remedies if remedy["change"] == told]
    changed = spec_of(**asked, training={"micro_batch_size": 1, "gradient_accumulation_steps": 16})
    plan = plan_of("RTX4090-24GB", 1, changed)
    assert (plan.global_batch_size, plan.memory.process_bytes) == (128, change["process_bytes"])


def test_of_three_batch_sizes_two_change_together() -> None:
    training = {"global_batch_size": 64, "micro_batch_size": 4, "gradient_accumulation_steps": 2}
    spec = spec_of(data={"max_length": 2048}, training=training, cluster={"devices_per_node": 8})
    assert told(spec, "8xRTX4090-24GB")[1] == "training.micro_batch_size: 1, gradient_accumulation_steps: 8"
    changed = {"global_batch_size": 64, "micro_batch_size": 1, "gradient_accumulation_steps": 8}
    plan = plan_of("8xRTX4090-24GB", 1, spec.model_copy(update={"training": spec_of(training=changed).training}))
    assert plan.global_batch_size == 64
