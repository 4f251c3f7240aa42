"""Bytes per rank: what each strategy divides, and what makes a run need more."""

from dataclasses import replace

import pytest

from launch.memory import NF4_BYTES, Setting, components
from launch.spec import Strategy
from launch.variants import VARIANTS

QWEN = VARIANTS["qwen2.5-14b"].architecture
ADAPTER = 34_406_400
BASE = 2 * QWEN.parameters
"""Bytes of the whole base in bf16."""
ONE_GPU = Setting(
    strategy="single",
    world_size=1,
    micro_batch_size=4,
    max_length=4096,
    gradient_checkpointing=True,
    quantization="none",
    element_bytes=2,
    gpu=True,
)


def parts(strategy: Strategy = "single", world_size: int = 1, **changes: object) -> dict[str, int]:
    setting = replace(ONE_GPU, strategy=strategy, world_size=world_size, **changes)  # type: ignore[arg-type]
    return components(QWEN, ADAPTER, setting)


def peak(strategy: Strategy = "single", world_size: int = 1, **changes: object) -> int:
    return sum(parts(strategy, world_size, **changes).values())


def test_the_components() -> None:
    assert list(parts()) == [
        "base weights",
        "adapter, gradients, optimizer",
        "activations",
        "logits and loss",
        "framework",
        "fragmentation",
    ]


def test_a_cpu_process_has_neither_a_cuda_context_nor_an_allocator_that_reserves() -> None:
    assert list(parts(gpu=False)) == [
        "base weights",
        "adapter, gradients, optimizer",
        "activations",
        "logits and loss",
    ]


@pytest.mark.parametrize("strategy", ["single", "ddp", "zero2", "zero2_offload"])
def test_without_sharding_every_rank_holds_the_whole_base(strategy: Strategy) -> None:
    assert parts(strategy, 8)["base weights"] == BASE


@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_sharding_divides_the_base_and_adds_a_window(strategy: Strategy) -> None:
    two, eight = parts(strategy, 2)["base weights"], parts(strategy, 8)["base weights"]
    assert two - eight == BASE // 2 - BASE // 8
    # Two layers of 275,251,200 weights and the output head.
    assert eight - BASE // 8 == 2 * (2 * 275_251_200 + 152_064 * 5_120)


def test_on_a_gpu_offloading_leaves_the_window_alone() -> None:
    assert parts("zero3_offload", 1)["base weights"] == parts("zero3_offload", 8)["base weights"]
    assert parts("zero3_offload", 8)["base weights"] == parts("zero3", 8)["base weights"] - BASE // 8


@pytest.mark.parametrize("strategy", ["zero2_offload", "zero3_offload"])
def test_on_a_cpu_process_offloading_frees_nothing(strategy: Strategy) -> None:
    assert peak(strategy, 1, gpu=False) >= peak("single", 1, gpu=False)


@pytest.mark.parametrize(
    ("strategy", "bytes_a_parameter"),
    [
        ("single", 16),
        ("ddp", 20),
        ("zero2", 4 + 12 / 8),
        ("zero3", 16 / 8),
        ("fsdp2", 16 / 8),
        ("zero2_offload", 4),
        ("zero3_offload", 4),
    ],
)
def test_what_of_the_adapter_each_strategy_divides(strategy: Strategy, bytes_a_parameter: float) -> None:
    assert parts(strategy, 8)["adapter, gradients, optimizer"] == bytes_a_parameter * ADAPTER


def test_quantization_packs_the_linear_layers_alone() -> None:
    rest = 2 * (QWEN.parameters - QWEN.linear_parameters)
    assert parts(quantization="int8")["base weights"] == QWEN.linear_parameters + rest
    assert parts(quantization="nf4")["base weights"] == int(QWEN.linear_parameters * NF4_BYTES) + rest
    assert pytest.approx(0.516, abs=0.001) == NF4_BYTES


def test_fp32_doubles_base_and_activations() -> None:
    half, full = parts(), parts(element_bytes=4)
    assert full["base weights"] == 2 * half["base weights"]
    assert full["activations"] == 2 * half["activations"]
    assert full["adapter, gradients, optimizer"] == half["adapter, gradients, optimizer"]


def test_logits_cost_twelve_bytes_a_token_and_word() -> None:
    assert parts(micro_batch_size=1, max_length=1000)["logits and loss"] == 12 * 1000 * 152_064


def test_activations_follow_the_tokens_however_they_are_divided() -> None:
    assert parts(micro_batch_size=8, max_length=512) == parts(micro_batch_size=1, max_length=4096)
    assert parts(micro_batch_size=8)["activations"] == 2 * parts(micro_batch_size=4)["activations"]


@pytest.mark.parametrize("strategy", ["single", "ddp", "zero2", "zero3", "fsdp2", "zero2_offload", "zero3_offload"])
def test_what_makes_a_run_need_more(strategy: Strategy) -> None:
    least = peak(strategy, 8)
    assert peak(strategy, 8, micro_batch_size=5) > least
    assert peak(strategy, 8, max_length=8192) > least
    assert peak(strategy, 8, gradient_checkpointing=False) > least
    assert peak(strategy, 8, element_bytes=4) > least
    assert peak(strategy, 64) <= least


def test_ddp_needs_the_most_of_the_ways_to_share() -> None:
    order: list[Strategy] = ["ddp", "zero2", "zero2_offload", "zero3", "zero3_offload"]
    peaks = [peak(strategy, 8) for strategy in order]
    assert peaks == sorted(peaks, reverse=True)
