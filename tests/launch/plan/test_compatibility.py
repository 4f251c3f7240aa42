"""Combinations that are refused, with the whole sentence."""

from typing import get_args

import pytest

from launch.errors import NoPlanError
from launch.plan.compatibility import refusals
from launch.spec import RunSpec, Strategy
from launch.versions import NEWEST, Versions
from tests.launch.conftest import plan_of, spec_of

STRATEGIES: tuple[Strategy, ...] = ("single", "ddp", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2")
SHARDED: tuple[Strategy, ...] = ("zero3", "zero3_offload", "fsdp2")


def told(spec: RunSpec, strategy: Strategy, world_size: int = 8, versions: Versions = NEWEST) -> list[str]:
    return [str(refusal) for refusal in refusals(spec, strategy, world_size, versions)]


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


# Those that were run, each against a single process (tests/runs, some of them each time).
QUANTISED = {
    "nf4": {"single", "ddp", "zero2", "zero3", "zero2_offload", "fsdp2"},
    "int8": {"single", "ddp", "zero2", "zero3", "zero2_offload"},
}


@pytest.mark.parametrize("quantization", QUANTISED)
def test_a_quantised_base_runs_where_it_was_seen_to_train_as_on_one_device(quantization: str) -> None:
    spec = spec_of(model={"quantization": quantization})
    allowed = {strategy for strategy in STRATEGIES if not told(spec, strategy, 1 if strategy == "single" else 8)}
    assert allowed == QUANTISED[quantization]


def test_int8_does_not_know_fsdp2() -> None:
    assert told(spec_of(model={"quantization": "int8"}), "fsdp2") == [
        "int8 with fsdp2: FSDP2 replaces the weight on which bitsandbytes keeps its int8 state (AttributeError: CB);"
        " use model.quantization: nf4, or zero3 or ddp"
    ]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_packed_base_is_not_moved_to_the_host(quantization: str) -> None:
    assert told(spec_of(model={"quantization": quantization}), "zero3_offload") == [
        f"{quantization} with zero3_offload: packed weights would travel between host and GPU, which nobody has shown"
        " to keep them whole; use zero3, zero2_offload or ddp: a quantised base is small"
    ]


def test_a_packed_base_is_sharded_only_with_versions_that_keep_it() -> None:
    versions = {"transformers": "5.17.0", "deepspeed": "0.19.8", "bitsandbytes": "0.49.2", "torch": "2.13.0+cpu"}
    spec = spec_of(model={"quantization": "nf4"})
    assert told(spec, "zero3", versions=versions) == [
        "nf4 with zero3: packed weights were not seen to survive sharding with bitsandbytes 0.49.2 (needs 0.50);"
        " upgrade, or use ddp or zero2"
    ]
    versions["bitsandbytes"] = "0.50.2"
    assert told(spec, "zero3", versions=versions) == []
    assert told(spec, "fsdp2", versions={**versions, "torch": "2.12.1"})[0].startswith(
        "nf4 with fsdp2: packed weights were not seen to survive sharding with torch 2.12.1 (needs 2.13)"
    )
    assert told(spec, "ddp", versions=versions) == []


def test_zero_needs_a_deepspeed_that_adds_gradients_up() -> None:
    for strategy in get_args(Strategy):
        found = told(spec_of(), strategy, 1 if strategy == "single" else 2, versions={"deepspeed": "0.19.7"})
        told_of_zero = [
            f"{strategy} with deepspeed 0.19.7 (needs 0.19.8): a step may train on one of its micro-batches alone;"
            " pip install -U 'deepspeed>=0.19.8', or use a strategy without ZeRO"
        ]
        assert found == (told_of_zero if strategy.startswith("zero") else [])
        assert not told(spec_of(), strategy, 1 if strategy == "single" else 2, versions={"deepspeed": "0.19.8"})


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "zero2_offload", "fsdp2"])
def test_only_whole_models_have_two_types(strategy: Strategy) -> None:
    spec = spec_of(model={"quantization": "nf4", "upcast_unquantized": True})
    assert told(spec, strategy) == [
        f"model.upcast_unquantized with {strategy}: the engine holds all that is not packed in one type; remove it,"
        " or use ddp"
    ]
    assert told(spec, "ddp") == []


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_engine_that_holds_the_adapter_its_own_way(strategy: Strategy, precision: str) -> None:
    found = told(spec_of(lora={"precision": precision}), strategy, 1 if strategy == "single" else 8)
    if strategy.startswith("zero"):
        assert found == [
            f"lora.precision {precision} with {strategy}: DeepSpeed holds the adapter in the run's precision beside an"
            " fp32 copy that it updates; use auto, or ddp or single"
        ]
    elif (strategy, precision) == ("fsdp2", "bf16"):
        fsdp2 = "lora.precision bf16 with fsdp2: accelerate makes fp32 of whatever FSDP2 trains; use auto, or ddp"
        assert found == [fsdp2]
    else:
        assert found == []


@pytest.mark.parametrize("strategy", ["zero3", "zero3_offload"])
def test_layers_that_are_one_operation_need_their_weights_in_both_passes(strategy: Strategy) -> None:
    wrong = f"lora.implementation fused with {strategy}: ZeRO-3 gathers a layer's weights for the layer itself"
    assert wrong in told(spec_of(lora={"implementation": "fused"}), strategy, 8)[0]
    assert not told(spec_of(lora={"implementation": "peft"}), strategy, 8)
    assert not told(spec_of(lora={"implementation": "fused"}), "fsdp2", 8)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pissa_needs_whole_weights(strategy: Strategy) -> None:
    expected = (
        f"lora.init_lora_weights pissa with {strategy}: the principal part is taken out of whole weights, and ZeRO-3"
        " never holds one while it loads; use fsdp2, zero2 or ddp"
    )
    found = told(spec_of(lora={"init_lora_weights": "pissa"}), strategy, 1 if strategy == "single" else 8)
    assert found == ([expected] if strategy in ("zero3", "zero3_offload") else [])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dora_on_int8_is_not_unpacked_twice(strategy: Strategy) -> None:
    spec = spec_of(model={"quantization": "int8"}, lora={"use_dora": True})
    expected = (
        "lora.use_dora and int8: peft's DoRA cannot unpack an int8 weight that has been used once (AttributeError:"
        " dtype); use model.quantization: nf4, or leave use_dora out"
    )
    assert expected in told(spec, strategy, 1 if strategy == "single" else 8)


def test_when_every_strategy_is_refused_the_reasons_are_told() -> None:
    with pytest.raises(NoPlanError) as caught:
        plan_of("1xA100-80GB", 1, spec_of(model={"quantization": "int8"}, lora={"use_dora": True}))
    lines = str(caught.value).splitlines()
    assert lines[0] == "no strategy can run this spec on these devices"
    assert "  lora.use_dora and int8: peft's DoRA cannot unpack an int8 weight that has been used once" in lines[1]
    assert len(lines) == len(set(lines))


def test_dora_and_a_packed_base_do_not_know_zero3() -> None:
    spec = spec_of(model={"quantization": "nf4"}, lora={"use_dora": True})
    assert told(spec, "zero3") == [
        "lora.use_dora and nf4 with zero3: peft takes DoRA's magnitudes from a packed base that ZeRO-3 has not divided"
        " yet (no attribute ds_id); use fsdp2, zero2 or ddp"
    ]
    assert told(spec, "fsdp2") == []


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
    spec = spec_of(
        model={"quantization": "int8"}, lora={"init_lora_weights": "pissa"}, training={"optimizer": "paged_adamw_32bit"}
    )
    assert [refusal.combination for refusal in refusals(spec, "fsdp2", 1, NEWEST)] == [
        "fsdp2 on one device",
        "int8 with fsdp2",
        "paged_adamw_32bit with fsdp2",
    ]
