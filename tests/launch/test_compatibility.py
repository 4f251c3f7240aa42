"""Combinations that are refused, with the whole sentence."""

import pytest

from launch.compatibility import refusals
from launch.spec import RunSpec, Strategy
from tests.launch.conftest import spec_of

STRATEGIES: tuple[Strategy, ...] = ("single", "ddp", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2")
SHARDED: tuple[Strategy, ...] = ("zero3", "zero3_offload", "fsdp2")


def told(spec: RunSpec, strategy: Strategy, world_size: int = 8) -> list[str]:
    return [str(refusal) for refusal in refusals(spec, strategy, world_size)]


@pytest.mark.parametrize("strategy", [strategy for strategy in STRATEGIES if strategy != "single"])
def test_the_recipe_runs_under_every_strategy_on_eight_devices(strategy: Strategy) -> None:
    assert told(spec_of(), strategy) == []


@pytest.mark.parametrize("strategy", ["single", "zero2", "zero3", "zero2_offload", "zero3_offload"])
def test_the_recipe_runs_on_one_device(strategy: Strategy) -> None:
    assert told(spec_of(), strategy, 1) == []


def test_single_on_several_devices() -> None:
    assert told(spec_of(), "single") == [
        "single on 8 devices: single trains on one device; use ddp, or ask for one device"
    ]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_sharing_on_one_device(strategy: Strategy) -> None:
    assert told(spec_of(), strategy, 1) == [f"{strategy} on one device: there is nothing to share; use single"]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_quantised_base_is_never_sharded(quantization: str, strategy: Strategy) -> None:
    expected = (
        f"{quantization} with {strategy}: sharding packed weights value-casts or replicates them unless the storage"
        " type matches the engine's (accelerate#3987, DeepSpeed#5637);"
        " use ddp or zero2: a quantised base is small enough to be held whole"
    )
    spec = spec_of(model={"quantization": quantization})
    assert told(spec, strategy, 1 if strategy == "single" else 8) == ([expected] if strategy in SHARDED else [])


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_biases_are_not_trained_on_a_sharded_base(bias: str, strategy: Strategy) -> None:
    expected = (
        f"lora.bias {bias} with {strategy}: biases of the sharded base are not saved with the adapter;"
        " use lora.bias: none, or ddp"
    )
    found = told(spec_of(lora={"bias": bias}), strategy, 1 if strategy == "single" else 8)
    assert found == ([expected] if strategy in SHARDED else [])


@pytest.mark.parametrize("strategy", ["zero2_offload", "zero3_offload"])
def test_a_paged_optimizer_is_not_offloaded_as_well(strategy: Strategy) -> None:
    assert told(spec_of(training={"optimizer": "paged_adamw_32bit"}), strategy) == [
        f"paged_adamw_32bit with {strategy}: both would move the optimizer states to the host;"
        " use training.optimizer: adamw_torch"
    ]


def test_a_paged_optimizer_does_not_know_fsdp2() -> None:
    assert told(spec_of(training={"optimizer": "paged_adamw_32bit"}), "fsdp2") == [
        "paged_adamw_32bit with fsdp2: bitsandbytes cannot update sharded (DTensor) parameters;"
        " use training.optimizer: adamw_torch"
    ]


def test_all_reasons_are_given() -> None:
    spec = spec_of(model={"quantization": "nf4"}, lora={"bias": "all"}, training={"optimizer": "paged_adamw_32bit"})
    assert [refusal.combination for refusal in refusals(spec, "fsdp2", 1)] == [
        "fsdp2 on one device",
        "nf4 with fsdp2",
        "paged_adamw_32bit with fsdp2",
        "lora.bias all with fsdp2",
    ]
