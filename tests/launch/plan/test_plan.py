"""resolve(spec, architecture, topology) -> Plan, and Plan <-> plan.json."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.errors import ConflictError, NoPlanError, PlanMismatch, UsageError
from launch.machine.hardware import Topology, parse_gpus
from launch.plan import Plan, as_launched, differences, resolve
from launch.plan.batch import divide_batch
from launch.plan.from_spec import text_bytes
from launch.rundir.journal import write_json
from launch.spec import Precision, RunSpec
from tests.launch.conftest import CPU, architecture_of, plan_of, spec_of

SMALL = {"max_length": 512}


def refused(gpus: str | Topology = "8xA100-80GB", nodes: int = 1, **sections: Any) -> str:
    with pytest.raises(UsageError) as caught:
        plan_of(gpus, nodes, spec_of(**sections))
    return str(caught.value)


def batch(gpus: str = "8xA100-80GB", nodes: int = 1, **training: Any) -> tuple[int, int, int]:
    plan = plan_of(gpus, nodes, spec_of("qwen2.5-7b-instruct", data=SMALL, training=training))
    assert plan.global_batch_size == plan.micro_batch_size * plan.gradient_accumulation_steps * plan.world_size
    return plan.micro_batch_size, plan.gradient_accumulation_steps, plan.global_batch_size


# The choice


def test_the_recipe_on_eight_a100() -> None:
    plan = plan_of()
    assert (plan.strategy, plan.zero_stage, plan.offload) == ("zero3", 3, False)
    assert (plan.world_size, plan.precision, plan.gradient_checkpointing) == (8, "bf16", True)
    assert (plan.optimizer, plan.lr_scheduler, plan.attention) == ("paged_adamw_32bit", "constant_with_warmup", "sdpa")
    assert (plan.micro_batch_size, plan.gradient_accumulation_steps, plan.global_batch_size) == (4, 4, 128)
    assert plan.memory.process_bytes == sum(plan.memory.components.values())
    assert plan.warnings == []


def test_nothing_in_a_plan_but_its_spec_says_auto() -> None:
    assert "auto" not in json.dumps(plan_of().model_dump(exclude={"spec"}))


@pytest.mark.parametrize(
    ("gpus", "sections", "reason"),
    [
        (
            "1xH200-141GB",
            {},
            "single: one device, nothing to share; 39 of 48 blocks checkpointed, fewer would not fit;"
            " 109.9 GiB of 139.8 GiB (79 %) on each GPU",
        ),
        (
            "8xA100-80GB",
            {"data": SMALL},
            "ddp: the fastest that fits; each device sends 229.7 MiB a step (zero1 172.3 MiB, zero2 976.2 MiB, zero3"
            " 193.5 GiB); 62.7 GiB of 79.2 GiB (79 %) on each GPU",
        ),
        (
            "8xA100-80GB",
            {"cluster": {"strategy": "zero2"}, "data": SMALL},
            "zero2: as the spec asks; 62.3 GiB of 79.2 GiB (79 %) on each GPU",
        ),
    ],
)
def test_the_reason_is_told(gpus: str, sections: dict[str, Any], reason: str) -> None:
    assert plan_of(gpus, 1, spec_of(**sections)).reason == reason


def test_the_reason_names_the_simpler_strategies_alone() -> None:
    assert plan_of().reason == (
        "zero3: the fastest that fits (ddp, zero1, zero2 would not); each device sends 284.0 GiB a step (ddp 229.7 MiB,"
        " zero1 172.3 MiB, zero2 976.2 MiB); 45 of 48 blocks checkpointed, fewer would not fit;"
        " 60.1 GiB of 79.2 GiB (76 %) on each GPU"
    )
    shared = plan_of(spec=spec_of(training={"global_batch_size": 64, "micro_batch_size": "auto"})).reason
    assert shared.startswith("zero3: the fastest that fits (ddp, zero1, zero2 slower); ")


def test_nothing_fits() -> None:
    with pytest.raises(NoPlanError) as caught:
        plan_of("1xRTX4090-24GB")
    assert str(caught.value) == (
        "no plan fits 1 x 1 RTX4090-24GB with 23.6 GiB each: the smallest, zero3_offload, needs 42.3 GiB and muster"
        " plans for at most 80 %. What would make it fit: training.micro_batch_size: 1, gradient_accumulation_steps: 16"
        " (zero3_offload, 18.0 GiB); data.max_length: 1024 (zero3_offload, 17.9 GiB); A100-80GB GPUs (zero3_offload,"
        " 61.1 GiB)"
    )
    assert caught.value.remedies[1] == {
        "change": "data.max_length: 1024", "strategy": "zero3_offload",
        "process_bytes": plan_of("1xRTX4090-24GB", 1, spec_of(data={"max_length": 1024})).memory.process_bytes,
    }  # fmt: skip


def test_a_refused_strategy_gives_the_reason_and_the_way_out() -> None:
    assert refused(cluster={"strategy": "single"}) == (
        "single on 8 devices: single trains on one device; use ddp, or ask for one device"
    )


def test_a_target_that_is_no_linear_layer() -> None:
    assert refused(lora={"target_modules": ["q_proj", "lm_head"]}) == (
        "lora.target_modules: lm_head: not a linear layer of this model; allowed: all-linear, a regular expression,"
        " or a list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    )


def test_rows_longer_than_the_model() -> None:
    message = "data.max_length 32769 is beyond the model's 32768 positions; lower it"
    assert refused("8xB200-180GB", data={"max_length": 32769}, training={"micro_batch_size": 1}) == message


def test_rows_longer_than_the_model_are_told_before_memory() -> None:
    assert (
        refused(data={"max_length": 32769}) == "data.max_length 32769 is beyond the model's 32768 positions; lower it"
    )


def test_all_mistakes_are_told_at_once() -> None:
    message = refused(lora={"target_modules": ["lm_head"]}, training={"global_batch_size": 60})
    assert "lora.target_modules" in message
    assert "training.global_batch_size" in message


# Precision, optimizer, schedule


@pytest.mark.parametrize(
    ("asked", "gpus", "precision"),
    [
        ("auto", "8xA100-80GB", "bf16"),
        ("auto", "8xV100-32GB", "fp16"),
        ("auto", CPU, "fp32"),
        ("bf16", "8xA100-80GB", "bf16"),
        ("fp16", "8xV100-32GB", "fp16"),
        ("fp32", "8xA100-80GB", "fp32"),
        ("fp32", CPU, "fp32"),
    ],
)
def test_precision(asked: str, gpus: str | Topology, precision: Precision) -> None:
    spec = spec_of("qwen2.5-7b-instruct", data=SMALL, training={"precision": asked, "micro_batch_size": 1})
    assert plan_of(gpus, 1, spec).precision == precision


def test_fp16_forced_on_a_machine_that_has_bf16_is_a_warning() -> None:
    plan = plan_of("8xA100-80GB", 1, spec_of(training={"precision": "fp16"}))
    assert plan.precision == "fp16"
    assert plan.warnings == [
        "training.precision fp16 on A100-80GB, which has bf16: Qwen was trained in bf16 and can overflow in fp16;"
        " use auto"
    ]


def test_a_machine_without_bf16_is_a_warning() -> None:
    assert plan_of("8xV100-32GB", 1, spec_of("qwen2.5-7b-instruct", data={"max_length": 384})).warnings == [
        "V100-32GB has no bf16: training in fp16, in which Qwen can overflow; watch for NaN"
    ]


def test_bf16_on_a_machine_that_has_none() -> None:
    assert refused("8xV100-32GB", training={"precision": "bf16"}) == (
        "training.precision bf16 needs compute capability 8.0; V100-32GB has none: use fp16 or auto"
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_cpu_processes(precision: str) -> None:
    assert refused(CPU, training={"precision": precision}) == (
        f"training.precision {precision} needs a GPU; on CPU processes use auto or fp32"
    )


def test_an_adapter_in_bf16_where_there_is_none() -> None:
    lora = {"precision": "bf16"}
    assert refused("8xV100-32GB", lora=lora) == "lora.precision bf16, which V100-32GB does not have; use fp32 or auto"
    assert refused(CPU, lora={**lora, "use_dora": True}) == (
        "lora.precision bf16 with lora.use_dora in fp32: the magnitudes would be coarser than the weights; use fp32 or"
        " auto"
    )


def test_what_the_spec_says_of_attention_constants_and_adapter_is_what_memory_is_forecast_for() -> None:
    spec = spec_of(
        "qwen2.5-7b-instruct", data=SMALL, training={"gradient_checkpointing": True},
        model={"quantization": "nf4", "double_quantization": False, "attention": "eager"}, lora={"precision": "bf16"},
    )  # fmt: skip
    plan = plan_of("1xA100-80GB", 1, spec)
    assert plan.attention == plan.setting.attention == "eager"
    assert (plan.setting.double_quantization, plan.setting.adapter_type) == (False, "bf16")
    usual = plan_of("1xA100-80GB", 1, spec.model_copy(update={"model": spec.model.model_copy(
        update={"double_quantization": True, "attention": "auto"}
    ), "lora": spec.lora.model_copy(update={"precision": "auto"})}))  # fmt: skip
    assert (usual.attention, usual.setting.adapter_type) == ("sdpa", "fp32")
    held, less = plan.memory.components, usual.memory.components
    linears = plan.architecture.linear_parameters
    assert held["quantisation constants"] == pytest.approx(linears / 16, rel=1e-3)
    assert less["quantisation constants"] == pytest.approx(linears * (1 / 64 + 1 / 4096), rel=2e-2)
    assert held["adapters"] == less["adapters"] / 2
    assert plan.memory.phases["backward"] > usual.memory.phases["backward"]


def test_the_default_optimizer_gives_way_to_offloading_with_a_warning() -> None:
    plan = plan_of("8xA100-80GB", 1, spec_of(cluster={"strategy": "zero3_offload"}))
    assert (plan.optimizer, plan.offload) == ("adamw_torch", True)
    assert plan.warnings == [
        "the recipe's paged_adamw_32bit does not go with zero3_offload: adamw_torch, the same update, is used"
    ]


@pytest.mark.parametrize(
    ("training", "name"),
    [
        ({}, "constant_with_warmup"),
        ({"warmup_ratio": 0.0}, "constant"),
        ({"lr_scheduler": "cosine"}, "cosine"),
        ({"lr_scheduler": "linear", "warmup_ratio": 0.0}, "linear"),
    ],
)
def test_constant_with_a_warmup_has_another_name_in_transformers(training: dict[str, Any], name: str) -> None:
    assert plan_of(spec=spec_of(training=training)).lr_scheduler == name


# Batches


def test_the_recipe_grows_with_the_devices() -> None:
    assert batch("1xH100-80GB") == (4, 4, 16)
    assert batch("8xH100-80GB", nodes=2) == (4, 4, 256)


def test_a_global_batch_is_kept_on_any_number_of_devices() -> None:
    assert batch("1xH100-80GB", global_batch_size=64) == (4, 16, 64)
    assert batch("8xH100-80GB", global_batch_size=64) == (4, 2, 64)
    assert batch("8xH100-80GB", nodes=2, global_batch_size=64) == (4, 1, 64)
    assert batch("8xH100-80GB", nodes=4, global_batch_size=64) == (2, 1, 64)


def test_a_global_batch_with_one_of_the_other_two() -> None:
    assert batch(global_batch_size=64, micro_batch_size=2) == (2, 4, 64)
    assert batch(global_batch_size=64, gradient_accumulation_steps=8) == (1, 8, 64)
    assert batch(global_batch_size=64, gradient_accumulation_steps=8, micro_batch_size=1) == (1, 8, 64)


def test_an_automatic_micro_batch_is_the_fastest_that_fits() -> None:
    """The smaller it is, the fewer blocks have to be computed again."""
    assert batch(global_batch_size=256, micro_batch_size="auto") == (8, 4, 256)
    plan = plan_of(spec=spec_of(training={"global_batch_size": 64, "micro_batch_size": "auto"}))
    assert (plan.strategy, plan.micro_batch_size, plan.gradient_accumulation_steps) == ("zero3", 1, 8)
    assert plan.checkpointed_layers == 10


def test_a_global_batch_that_the_accumulation_steps_do_not_divide() -> None:
    """With a number of steps and no micro-batch it is their multiples that can be divided, and the nearest do."""
    assert refused(training={"global_batch_size": 128, "gradient_accumulation_steps": 5}) == (
        "training.global_batch_size 128 cannot be divided into 5 accumulation steps on 8 devices;"
        " nearest that can: 120 or 160"
    )
    assert batch(global_batch_size=120, gradient_accumulation_steps=5) == (3, 5, 120)
    assert batch(global_batch_size=160, gradient_accumulation_steps=5) == (4, 5, 160)


def test_a_global_batch_that_the_devices_cannot_share() -> None:
    assert refused(training={"global_batch_size": 60}) == (
        "training.global_batch_size 60 cannot be divided into micro-batches of 1 on 8 devices;"
        " nearest that can: 56 or 64"
    )
    assert refused(training={"global_batch_size": 4}) == (
        "training.global_batch_size 4 cannot be divided into micro-batches of 1 on 8 devices; nearest that can: 8"
    )


def test_three_batch_sizes_that_contradict_one_another_on_these_devices() -> None:
    training = {"global_batch_size": 64, "micro_batch_size": 4, "gradient_accumulation_steps": 4}
    assert refused(training=training) == (
        "training.global_batch_size 64 contradicts micro_batch_size 4 x gradient_accumulation_steps 4 x 8 devices"
        " = 128; give global_batch_size alone, or the other two alone"
    )
    training = {"global_batch_size": 24, "micro_batch_size": 4, "gradient_accumulation_steps": 2}
    assert refused(training=training) == (  # no multiple of 32 but this one would do
        "training.global_batch_size 24 contradicts micro_batch_size 4 x gradient_accumulation_steps 2 x 8 devices"
        " = 64; give global_batch_size alone, or the other two alone"
    )


@given(total=st.integers(1, 4096), world=st.sampled_from([1, 2, 3, 4, 8, 12, 16, 64]), micro=st.integers(1, 16))
def test_a_global_batch_is_divided_exactly_or_refused_with_sizes_that_can_be(
    total: int, world: int, micro: int
) -> None:
    spec = spec_of(training={"global_batch_size": total})
    try:
        size, accumulation = divide_batch(spec, world, micro)
    except UsageError as error:
        assert total % (micro * world) != 0
        near = [int(word) for word in str(error).split("can: ")[1].split(" or ")]
        assert all(value % (micro * world) == 0 for value in near)
        assert max(near) - total < micro * world
    else:
        assert (size, size * accumulation * world) == (micro, total)


# plan.json


@pytest.mark.parametrize("gpus", ["8xA100-80GB", "1xH200-141GB", CPU], ids=["zero3", "single", "cpu"])
def test_a_plan_that_was_written_is_read_back_equal(tmp_path: Path, gpus: str | Topology) -> None:
    spec = spec_of(
        "qwen2.5-7b-instruct", data=SMALL, lora={"target_modules": ["q_proj"]}, training={"extra": {"a": [1]}}
    )
    plan = plan_of(gpus, 1, spec)
    write_json(tmp_path / "plan.json", plan.model_dump(mode="json"))
    assert Plan.model_validate_json((tmp_path / "plan.json").read_text()) == plan


def test_a_plan_that_does_not_say_who_computes_adapted_layers_meant_peft() -> None:
    written = plan_of(CPU, 1, spec_of("qwen2.5-7b-instruct", data=SMALL)).model_dump(mode="json")
    assert written["lora_implementation"] == "fused"
    del written["lora_implementation"]
    assert Plan.model_validate(written).lora_implementation == "peft"
    assert written.pop("norms") == "plain"
    assert Plan.model_validate(written).norms == "plain"


# Started by hand


def test_a_launch_that_the_spec_leaves_open() -> None:
    spec, notes = as_launched(spec_of(), "ddp", 1, 2, fallback=False)
    assert (spec.cluster.strategy, spec.cluster.nodes, spec.cluster.devices_per_node) == ("ddp", 1, 2)
    assert notes == []
    assert spec.training == spec_of().training


def test_a_launch_that_is_not_what_the_spec_says() -> None:
    with pytest.raises(PlanMismatch) as caught:
        as_launched(spec_of(cluster={"strategy": "zero3", "devices_per_node": 8}), "ddp", 1, 2, fallback=False)
    assert str(caught.value) == (
        "cluster.strategy: the spec says zero3, this launch is ddp\n"
        "devices: the spec says 8, this launch has 2\n"
        "launch what the spec says, or change it with -s"
    )


def test_one_process_keeps_the_global_batch_of_the_spec_that_asks_for_more() -> None:
    asked = spec_of(cluster={"strategy": "zero3", "nodes": 2, "devices_per_node": 8})
    spec, notes = as_launched(asked, "single", 1, 1, fallback=True)
    assert (spec.cluster.strategy, spec.cluster.nodes, spec.cluster.devices_per_node) == ("single", 1, 1)
    assert (spec.training.micro_batch_size, spec.training.gradient_accumulation_steps) == (4, 64)
    assert notes == [
        "cluster.strategy: the spec says zero3, this launch is single",
        "devices: the spec says 16, this launch has 1",
        "one device instead of 16: the global batch of 256, schedule and order of samples are kept",
    ]


def test_one_process_leaves_a_global_batch_to_the_planner() -> None:
    asked = spec_of(cluster={"devices_per_node": 8}, training={"global_batch_size": 64})
    spec, notes = as_launched(asked, "single", 1, 1, fallback=True)
    assert spec.training == asked.training
    assert notes == [
        "devices: the spec says 8, this launch has 1",
        "one device instead of 8: the global batch of 64, schedule and order of samples are kept",
    ]


def test_one_process_keeps_the_global_batch_of_an_automatic_micro_batch() -> None:
    asked = spec_of(data=SMALL, cluster={"devices_per_node": 8}, training={"micro_batch_size": "auto"})
    spec, _ = as_launched(asked, "single", 1, 1, fallback=True)
    assert plan_of("1xH200-141GB", 1, spec).global_batch_size == plan_of("8xH200-141GB", 1, asked).global_batch_size


def test_a_launch_on_fewer_nodes_than_the_spec_says() -> None:
    with pytest.raises(PlanMismatch):
        as_launched(spec_of(cluster={"nodes": 2}), "ddp", 1, 8, fallback=False)


def test_one_process_of_a_launcher_is_no_fallback() -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process and says nothing."""
    with pytest.raises(PlanMismatch) as caught:
        as_launched(spec_of(cluster={"strategy": "ddp", "devices_per_node": 2}), "single", 1, 1, fallback=False)
    assert str(caught.value) == (
        "cluster.strategy: the spec says ddp, this launch is single\n"
        "devices: the spec says 2, this launch has 1\n"
        "launch what the spec says, or change it with -s"
    )


# What a worker got


def test_differences_are_told_value_by_value() -> None:
    promised = {"world_size": 8, "precision": "bf16", "zero_stage": 3}
    assert differences(promised, {**promised, "extra": 1}) == []
    assert differences(promised, {"world_size": 1, "precision": "bf16", "zero_stage": 0}) == [
        "world_size: the plan says 8, this worker has 1",
        "zero_stage: the plan says 3, this worker has 0",
    ]


def test_a_spec_is_frozen_inside_its_plan() -> None:
    spec: RunSpec = plan_of().spec
    with pytest.raises(ValueError, match="frozen"):
        spec.training.seed = 1  # type: ignore[misc]


# Duration


def test_how_long_it_takes_by_its_steps_or_by_the_size_of_its_rows() -> None:
    by_steps = plan_of("8xH100-80GB", 1, spec_of(data=SMALL, training={"max_steps": 100}))
    assert by_steps.throughput is not None
    assert by_steps.duration_seconds == pytest.approx(100 * by_steps.throughput.step_seconds, abs=0.1)
    spec, eight = spec_of(data=SMALL, training={"epochs": 2}), parse_gpus("8xH100-80GB")
    plan = resolve(spec, architecture_of(spec), eight, data_bytes=9_000_000)
    assert plan.throughput is not None
    assert plan.duration_seconds == pytest.approx(4_000_000 / plan.throughput.tokens_per_second, abs=0.1)
    tiny = resolve(spec, architecture_of(spec), eight, data_bytes=10)
    assert tiny.duration_seconds == pytest.approx(2 * plan.throughput.step_seconds, abs=0.1)
    less = resolve(spec_of(data=SMALL, training={"epochs": 1e-6}), architecture_of(spec), eight, data_bytes=4_500)
    assert less.throughput is not None
    assert less.duration_seconds == pytest.approx(less.throughput.step_seconds, abs=0.1), "a step is the least"
    assert plan_of("8xH100-80GB", 1, spec).duration_seconds is None
    unknown = eight.model_copy(update={"rates": None})
    assert resolve(spec, architecture_of(spec), unknown, data_bytes=9_000_000).duration_seconds is None


def test_the_size_of_training_rows(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "a.jsonl").write_text("x" * 100)
    (tmp_path / "more" / "b.csv").write_text("x" * 10)
    assert text_bytes(str(tmp_path / "a.jsonl")) == 100
    assert text_bytes(str(tmp_path)) == text_bytes(str(tmp_path / "**" / "*.*")) == 110
    (tmp_path / "c.parquet").write_text("x")
    assert text_bytes(str(tmp_path)) is None
    assert text_bytes(str(tmp_path / "missing.jsonl")) is None
    assert text_bytes("owner/name:train") is None


@pytest.mark.parametrize(
    "training",
    [
        {"micro_batch_size": 4, "gradient_accumulation_steps": 4, "global_batch_size": 128},
        {"gradient_accumulation_steps": 4, "global_batch_size": 128},
        {"micro_batch_size": 4, "global_batch_size": 128},
        {"micro_batch_size": 4, "gradient_accumulation_steps": 4},
        {"global_batch_size": 128},
    ],
)
def test_one_gpu_in_place_of_eight_keeps_the_global_batch(training: dict[str, Any]) -> None:
    spec = spec_of("qwen2.5-7b-instruct", data={"max_length": 512}, training=training, cluster={"devices_per_node": 8})
    for gpus in ("8xA100-80GB", "1xA100-80GB"):
        plan = plan_of(gpus, 1, spec)
        assert (plan.global_batch_size, plan.micro_batch_size) == (128, 4)
    assert plan.gradient_accumulation_steps == 32
    assert plan.notes == ["one device instead of 8: the global batch of 128, schedule and order of samples are kept"]


def test_another_number_of_devices_tells_of_another_batch() -> None:
    eight = {"data": {"max_length": 512}, "cluster": {"devices_per_node": 8}}
    spec = spec_of("qwen2.5-7b-instruct", **eight)
    assert plan_of("8xA100-80GB", 1, spec).warnings == []
    assert plan_of("2xA100-80GB", 1, spec).warnings == [
        "the global batch is 32 on 2 devices, 128 on the 8 that the spec asks for: training.global_batch_size: 128"
        " keeps it"
    ]
    kept = spec_of("qwen2.5-7b-instruct", **eight, training={"global_batch_size": 128})
    assert plan_of("2xA100-80GB", 1, kept).warnings == []


@pytest.mark.parametrize(
    ("devices", "training"),
    [
        (8, {}), (2, {}), (6, {}), (3, {"gradient_accumulation_steps": 2}), (6, {"micro_batch_size": "auto"}),
        (5, {"micro_batch_size": 3, "gradient_accumulation_steps": 5}), (6, {"micro_batch_size": 4}),
        (6, {"micro_batch_size": 1, "gradient_accumulation_steps": 1}),
    ],
)  # fmt: skip
def test_a_batch_that_is_said_to_keep_it_is_one_that_the_devices_can_share(
    devices: int, training: dict[str, Any]
) -> None:
    """On 4 devices, whose batch many others cannot divide."""
    told = re.compile(
        r"the global batch is \d+ on 4 devices, (\d+) on the \d that the spec asks for: (so many devices cannot share"
        r" that; )?training.global_batch_size: (\d+)(?: in place of (\S+)(?: and (\S+))?)?"
        r" (?:keeps it|is the nearest that they can)"
    )
    base: dict[str, Any] = {"data": {"max_length": 512}, "cluster": {"devices_per_node": devices}}
    plan = plan_of("4xA100-80GB", 1, spec_of("qwen2.5-7b-instruct", **base, training=training))
    found = re.fullmatch(told, plan.warnings[0])
    assert found is not None, plan.warnings
    batch = int(found[3])
    assert found[2] or batch == int(found[1])
    kept = {key: value for key, value in training.items() if key not in found.groups()}
    said = spec_of("qwen2.5-7b-instruct", **base, training={**kept, "global_batch_size": batch})
    assert plan_of("4xA100-80GB", 1, said).global_batch_size == batch


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_one_gpu_has_nothing_to_share_by_the_strategy_of_eight(strategy: str) -> None:
    """Of a spec for several; one that says nothing of their number is refused, as it may mean what it says."""
    asked = {"data": {"max_length": 512}, "training": {"global_batch_size": 128}}
    spec = spec_of("qwen2.5-7b-instruct", cluster={"devices_per_node": 8, "strategy": strategy}, **asked)
    plan = plan_of("1xA100-80GB", 1, spec)
    assert (plan.strategy, plan.global_batch_size, plan.gradient_accumulation_steps) == ("single", 128, 32)
    assert plan.notes == [
        "one device instead of 8: the global batch of 128, schedule and order of samples are kept",
        f"{strategy} takes several devices: it is left out",
    ]
    with pytest.raises(ConflictError, match=f"{strategy} on one device: there is nothing to share; use single"):
        plan_of("1xA100-80GB", 1, spec_of("qwen2.5-7b-instruct", cluster={"strategy": strategy}, **asked))


def test_a_global_batch_is_not_rounded_to_what_the_other_two_make() -> None:
    """144 and 128 have the same whole number of micro-batches."""
    batch = {"micro_batch_size": 4, "gradient_accumulation_steps": 4, "global_batch_size": 144}
    told = r"global_batch_size 144 contradicts .* = 128; give global_batch_size alone"
    with pytest.raises(ConflictError, match=told):
        plan_of("8xA100-80GB", 1, spec_of(training=batch))
