"""Candidates and the choice among them."""

import json
import re
from typing import Any

import pytest

from launch.errors import ConflictError, NoPlanError
from launch.machine.hardware import GIB, Topology, parse_gpus
from launch.plan import Plan
from launch.plan.strategy import ORDER, Candidate, candidates, choose
from launch.spec import SAFE_SHARE, RunSpec, TrainingSpec
from tests.launch.conftest import CPU, architecture_of, plan_of, spec_of

SMALL = {"max_length": 512}
PAIRS = 34_406_400


def found(spec: RunSpec, gpus: str | Topology, micro: tuple[int, ...] = (4,)) -> list[Candidate]:
    topology = gpus if isinstance(gpus, Topology) else parse_gpus(gpus)
    precision = "bf16" if topology.device == "gpu" else "fp32"
    return candidates(spec, architecture_of(spec), topology, precision, list(micro))[0]


def chosen(spec: RunSpec, gpus: str | Topology, micro: tuple[int, ...] = (4,)) -> tuple[str, bool, int] | None:
    best = choose(found(spec, gpus, micro))
    return (best.strategy, best.gradient_checkpointing, best.micro_batch_size) if best else None


def test_strategies_are_tried_from_the_least_communication_to_the_most() -> None:
    tried = list(dict.fromkeys(candidate.strategy for candidate in found(spec_of(), "8xA100-80GB")))
    assert tried == ["ddp", "zero1", "zero2", "zero3", "fsdp2", "zero2_offload", "zero3_offload"]
    assert tried == [strategy for strategy in ORDER if strategy in tried]


def test_recomputation_is_tried_after_doing_without_and_the_largest_micro_batch_first() -> None:
    spec = spec_of(data={"max_length": 2048}, cluster={"strategy": "ddp"})
    assert [(c.checkpointed_layers, c.micro_batch_size) for c in found(spec, "8xA100-80GB", (4, 2))] == [
        (0, 4),
        (0, 2),
        (42, 4),
        (28, 2),
        (48, 4),
        (48, 2),
    ]


def test_the_peak_is_the_sum_of_the_components_and_fits_under_80_percent() -> None:
    for candidate in found(spec_of(), "8xA100-80GB"):
        assert candidate.memory.process_bytes == sum(candidate.memory.components.values())
        assert candidate.fits == (candidate.memory.process_bytes <= SAFE_SHARE * parse_gpus("A100-80GB").memory_bytes)
    assert SAFE_SHARE == 0.8


def test_ddp_where_the_base_fits_one_gpu() -> None:
    assert chosen(spec_of("qwen2.5-7b-instruct", data=SMALL), "8xA100-80GB") == ("ddp", False, 4)


def test_single_on_one_gpu() -> None:
    assert chosen(spec_of(data=SMALL), "1xH100-80GB") == ("single", False, 4)


def test_the_fastest_that_fits_wins_and_ties_go_to_the_simpler() -> None:
    """zero2 needs as long as ddp within a percent; zero3, which moves the base, does not; recomputing takes longest."""
    ways = found(spec_of(data=SMALL), "8xA100-80GB")
    seconds = {(c.strategy, c.gradient_checkpointing): step_seconds(c) for c in ways}
    assert seconds["zero2", False] == pytest.approx(seconds["ddp", False], rel=0.01)
    assert seconds["ddp", False] < seconds["zero3", False] < seconds["zero3", True]
    best = choose(ways)
    assert best is not None
    assert (best.strategy, best.gradient_checkpointing) == ("ddp", False)
    fitting = [c for c in ways if c.fits]
    assert step_seconds(best) <= 1.02 * min(step_seconds(c) for c in fitting)
    # Sharding without recomputing is faster than recomputing all without sharding, but not than a few blocks.
    ways = found(spec_of(data={"max_length": 640}), "8xA100-80GB")
    seconds = {(c.strategy, c.checkpointed_layers): step_seconds(c) for c in ways}
    assert seconds["ddp", 11] < seconds["zero3", 0] < seconds["ddp", 48]
    assert chosen(spec_of(data={"max_length": 640}), "8xA100-80GB") == ("ddp", True, 4)


def test_a_slow_network_makes_recomputing_the_faster_way() -> None:
    """Between nodes over 10 Gb/s the base takes longer to gather than the blocks to compute twice."""
    slow, fast = (
        spec_of(data={"max_length": 1024}, cluster={"nodes": 2, "network_gbps": gbps}) for gbps in (100, 3200)
    )
    assert chosen(slow, parse_gpus("8xA100-80GB", 2)) == ("ddp", True, 4)
    assert chosen(fast, parse_gpus("8xA100-80GB", 2)) == ("zero3", True, 4)


# How many blocks are checkpointed

SEVEN: dict[str, Any] = {"variant": "qwen2.5-7b-instruct", "data": {"max_length": 2048}}


def forced(spec: RunSpec, gpus: str | Topology, strategy: str, layers: bool | int, micro: int = 4) -> Candidate:
    training = spec.training.model_copy(update={"gradient_checkpointing": layers})
    cluster = spec.cluster.model_copy(update={"strategy": strategy})
    (way,) = found(spec.model_copy(update={"training": training, "cluster": cluster}), gpus, (micro,))
    return way


def test_as_few_blocks_are_checkpointed_as_make_it_fit() -> None:
    best = choose(found(spec_of(**SEVEN), "1xA100-80GB"))
    assert best is not None
    assert (best.strategy, best.gradient_checkpointing, best.checkpointed_layers) == ("single", True, 15)
    without, fewer, same, everything = (
        forced(spec_of(**SEVEN), "1xA100-80GB", "single", layers) for layers in (False, 14, 15, True)
    )
    assert (without.fits, fewer.fits, same.fits, everything.fits) == (False, False, True, True)
    assert (without.checkpointed_layers, everything.checkpointed_layers) == (0, 28)
    assert same == best
    assert step_seconds(without) < step_seconds(fewer) < step_seconds(best) < step_seconds(everything)
    share = (step_seconds(best) - step_seconds(without)) / (step_seconds(everything) - step_seconds(without))
    assert share == pytest.approx(15 / 28, abs=1e-3)


@pytest.mark.parametrize(
    ("gpus", "lora"), [("8xA100-80GB", {}), ("4xL40S-48GB", {"layers_to_transform": [5, 20, 21]}), ("8xH100-80GB", {})]
)
@pytest.mark.parametrize("loss", ["plain", "chunked"])
def test_no_fewer_would_fit_in_any_way_to_run(gpus: str, lora: dict[str, Any], loss: str) -> None:
    seen = 0
    for length in (512, 1024, 2048, 4096):
        spec = spec_of("qwen2.5-7b-instruct", data={"max_length": length}, lora=lora, training={"loss": loss})
        ways = found(spec, gpus, (4, 2, 1))
        by_way: dict[tuple[str, int], list[Candidate]] = {}
        for way in ways:
            by_way.setdefault((way.strategy, way.micro_batch_size), []).append(way)
        for (strategy, micro), (without, *some, everything) in by_way.items():
            assert len(some) <= 1
            assert not (without.fits and some)
            for way in some:
                assert way.fits
                assert 0 < way.checkpointed_layers < everything.checkpointed_layers
                assert not forced(spec, gpus, strategy, way.checkpointed_layers - 1, micro).fits
                seen += 1
            if everything.fits and not without.fits and not some:
                assert not forced(spec, gpus, strategy, everything.checkpointed_layers - 1, micro).fits
    assert seen > 3


@pytest.mark.parametrize(
    ("gpus", "length", "micro"), [("8xH200-141GB", 4096, 2), ("4xA6000-48GB", 8192, 1), ("8xL40S-48GB", 2048, 4)]
)
def test_no_fewer_would_fit_beside_what_zero3_gathers(gpus: str, length: int, micro: int) -> None:
    """With large adapters that differs with the number, too, and arithmetic alone was a block off."""
    spec = spec_of("qwen3-14b", data={"max_length": length}, lora={"rank": 256}, cluster={"strategy": "zero3"})
    _, *some, everything = found(spec, gpus, (micro,))
    assert everything.fits
    least = [*some, everything][0].checkpointed_layers
    assert [forced(spec, gpus, "zero3", layers, micro).fits for layers in (least - 1, least)] == [False, True]


def test_on_a_cpu_the_node_s_memory_counts_as_well() -> None:
    """What is free of it may be less than what the processes' shares of it add up to."""
    spec = spec_of("qwen2.5-7b-instruct", data={"max_length": 2048}, training={"micro_batch_size": 1})
    for free in (45, 42):
        here = CPU.model_copy(update={"memory_bytes": 96 * GIB, "host_bytes": free * GIB})
        without, some, _ = found(spec, here, (1,))
        assert (without.fits, some.fits) == (False, True)
        assert not forced(spec, here, "single", some.checkpointed_layers - 1, 1).fits


def test_blocks_that_no_gradient_flows_through_are_not_computed_again() -> None:
    spec = spec_of("qwen2.5-7b-instruct", lora={"layers_to_transform": [20, 25]})
    assert found(spec, "1xH200-141GB")[-1].checkpointed_layers == 8
    message = (
        "training.gradient_checkpointing 9: the model has 28 transformer blocks, and gradients flow through the last 8"
        " of them alone; allowed: 0 to 8, true for all, false for none, or auto"
    )
    asked = spec.model_copy(update={"training": TrainingSpec(gradient_checkpointing=9)})
    with pytest.raises(ConflictError, match=re.escape(message)):
        plan_of("1xH200-141GB", 1, asked)


@pytest.mark.parametrize(("asked", "layers"), [(False, 0), (0, 0), (1, 1), (27, 27), (28, 28), (True, 28)])
def test_a_number_in_the_spec_forces_it(asked: bool | int, layers: int) -> None:
    spec = spec_of("qwen2.5-7b-instruct", data={"max_length": 1024}, training={"gradient_checkpointing": asked})
    assert {way.checkpointed_layers for way in found(spec, "8xH200-141GB")} == {layers}
    plan = plan_of("8xH200-141GB", 1, spec)
    assert (plan.checkpointed_layers, plan.gradient_checkpointing) == (layers, layers > 0)
    assert plan.setting.checkpointed(28) == layers
    read = Plan.model_validate_json(plan.model_dump_json())
    assert type(read.spec.training.gradient_checkpointing) is type(asked)
    assert read == plan


def test_more_blocks_than_the_model_has() -> None:
    with pytest.raises(ConflictError) as caught:
        plan_of("8xH200-141GB", 1, spec_of("qwen2.5-7b-instruct", training={"gradient_checkpointing": 29}))
    path = ("training", "gradient_checkpointing")
    told = "the model has 28 transformer blocks; allowed: 0 to 28, true for all, false for none, or auto"
    assert caught.value.problems == [(path, f"training.gradient_checkpointing 29: {told}")]


def test_the_plan_says_how_many() -> None:
    plan = plan_of("1xA100-80GB", 1, spec_of(**SEVEN))
    assert "; 15 of 28 blocks checkpointed, fewer would not fit; 62.4 GiB of 79.2 GiB" in plan.reason
    assert json.loads(plan.model_dump_json())["checkpointed_layers"] == 15
    asked = spec_of(**SEVEN, training={"gradient_checkpointing": 15})
    assert "blocks checkpointed" not in plan_of("1xA100-80GB", 1, asked).reason


def test_where_no_rate_is_known_the_simplest_that_fits_is_chosen() -> None:
    unknown = parse_gpus("8xA100-80GB").model_copy(update={"rates": None})
    ways = found(spec_of(data={"max_length": 640}), unknown)
    assert {candidate.throughput for candidate in ways} == {None}
    assert chosen(spec_of(data={"max_length": 640}), unknown) == ("ddp", True, 4)


def step_seconds(candidate: Candidate) -> float:
    assert candidate.throughput is not None
    return candidate.throughput.step_seconds


def test_a_smaller_micro_batch_before_recomputation() -> None:
    assert chosen(spec_of(data={"max_length": 4096}), "8xH200-141GB", (4, 2, 1)) == ("ddp", False, 1)


def test_recomputation_before_sharding() -> None:
    assert chosen(spec_of(data={"max_length": 2048}), "8xA100-80GB") == ("ddp", True, 4)


def test_sharding_where_the_base_does_not_fit() -> None:
    """ZeRO-3 gathers the base three times where blocks are computed again, FSDP2 twice: on slower links that tells."""
    assert chosen(spec_of(data=SMALL), "8xV100-32GB") == ("fsdp2", True, 4)
    ways = {c.strategy: c for c in found(spec_of(data=SMALL), "8xV100-32GB") if c.gradient_checkpointing}
    assert ways["zero3"].fits
    assert ways["zero3"].throughput.step_seconds > 1.02 * ways["fsdp2"].throughput.step_seconds


def test_a_node_s_own_memory_limits_what_is_offloaded_to_it() -> None:
    """14B on eight GPUs: 27.5 GiB of bf16 weights take 48 GiB of pinned memory, beside 2 GiB for each process."""
    spec = spec_of(cluster={"strategy": "zero3_offload"}, data=SMALL)
    gpus = parse_gpus("8xRTX4090-24GB")
    (needed,) = {candidate.memory.host_needed_bytes for candidate in found(spec, gpus)}
    assert needed == pytest.approx(64 * GIB, rel=1e-3)
    for free, fits in ((None, True), (needed, True), (needed - 1, False)):
        ways = found(spec, gpus.model_copy(update={"host_bytes": free}))
        assert {c.host_fits for c in ways} == {fits}
        assert any(c.fits for c in ways) is fits
    # To keep the files as well, it would be 91 GiB: the kernel takes their pages back.
    assert found(spec, gpus)[0].memory.host_bytes == needed + 2 * architecture_of(spec).parameters - 16 * PAIRS


def test_nothing_is_offloaded_to_a_node_that_cannot_hold_it() -> None:
    spec = spec_of("qwen2.5-7b-instruct", data={"max_length": 1024})
    gpu = parse_gpus("1xRTX4090-24GB")
    ample, small = (gpu.model_copy(update={"host_bytes": size * GIB}) for size in (64, 2))
    assert chosen(spec, ample) == ("zero3_offload", True, 4)
    assert {c.strategy: c.host_fits for c in found(spec, small)} == {
        "single": True,
        "zero2_offload": False,
        "zero3_offload": False,
    }
    assert chosen(spec, small) is None
    with pytest.raises(
        NoPlanError, match=r"zero3_offload would fit the devices but needs [\d.]+ GiB of host memory, and 2"
    ):
        plan_of(small, 1, spec)


def test_nothing_where_nothing_fits() -> None:
    assert chosen(spec_of(), "8xT4-16GB") is None


def test_a_quantised_base_lands_whole_on_each_device_however_it_is_sharded_later() -> None:
    spec = spec_of(model={"quantization": "nf4"}, data=SMALL)
    loaded = {candidate.strategy: candidate.memory.phases["load"] for candidate in found(spec, "8xV100-32GB")}
    assert loaded["zero3"] == loaded["zero2"] == loaded["ddp"]
    assert chosen(spec, "8xV100-32GB") == ("ddp", True, 4)


def test_what_the_spec_names_is_the_only_one_tried() -> None:
    spec = spec_of(cluster={"strategy": "fsdp2"}, training={"gradient_checkpointing": True})
    assert [(c.strategy, c.gradient_checkpointing) for c in found(spec, "8xA100-80GB")] == [("fsdp2", True)]


def test_fsdp2_and_sharding_over_one_device_are_never_chosen_unasked() -> None:
    assert {candidate.strategy for candidate in found(spec_of(), "1xA100-80GB")} == {
        "single",
        "zero2_offload",
        "zero3_offload",
    }


def test_one_device_may_be_asked_to_use_zero() -> None:
    assert chosen(spec_of(cluster={"strategy": "zero3"}, data=SMALL), "1xH100-80GB") == ("zero3", False, 4)


def test_a_cpu_process_is_not_offered_offloading() -> None:
    assert {candidate.strategy for candidate in found(spec_of(), CPU)} == {"single"}


def test_how_much_of_a_device_a_plan_may_take_is_the_spec_s_to_say() -> None:
    """Of what is left nothing is planned; where more may be taken fewer blocks are computed again."""
    plans = {
        share: plan_of(spec=spec_of(data={"max_length": 2048}, cluster={"strategy": "ddp", "memory_share": share}))
        for share in (0.7, 0.8, 0.95)
    }
    for share, plan in plans.items():
        assert plan.memory.process_bytes <= share * plan.topology.memory_bytes
    layers = [plan.checkpointed_layers for plan in plans.values()]
    assert layers == sorted(layers, reverse=True)
    assert layers[2] < layers[1]
    with pytest.raises(NoPlanError, match="muster plans for at most 20 %"):
        plan_of(spec=spec_of(cluster={"memory_share": 0.2, "strategy": "ddp"}))
