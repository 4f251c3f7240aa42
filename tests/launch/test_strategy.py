"""Candidates and the choice among them."""

import pytest

from launch.errors import NoPlanError
from launch.hardware import GIB, Topology, parse_gpus
from launch.spec import RunSpec
from launch.strategy import ORDER, SAFE_SHARE, Candidate, candidates, choose
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
    spec = spec_of(cluster={"strategy": "ddp"})
    assert [(c.gradient_checkpointing, c.micro_batch_size) for c in found(spec, "8xA100-80GB", (4, 2))] == [
        (False, 4),
        (False, 2),
        (True, 4),
        (True, 2),
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
    # Sharding without recomputing is faster than recomputing without sharding.
    assert chosen(spec_of(data={"max_length": 640}), "8xA100-80GB") == ("zero3", False, 4)


def test_a_slow_network_makes_recomputing_the_faster_way() -> None:
    """Between nodes over 10 Gb/s the base takes longer to gather than the blocks to compute twice."""
    spec = spec_of(data={"max_length": 640}, cluster={"nodes": 2, "network_gbps": 10})
    assert chosen(spec, parse_gpus("8xA100-80GB", 2)) == ("ddp", True, 4)
    fast = spec_of(data={"max_length": 640}, cluster={"nodes": 2, "network_gbps": 3200})
    assert chosen(fast, parse_gpus("8xA100-80GB", 2)) == ("zero3", False, 4)


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
