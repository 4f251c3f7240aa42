"""GPU names to topologies."""

import pytest

from launch.errors import UsageError
from launch.machine.hardware import CATALOGUE, GIB, parse_gpus

KNOWN = (
    "Known: T4-16GB, V100-16GB, V100-32GB, RTX3090-24GB, RTX4090-24GB, RTX5090-32GB, A10-24GB, A40-48GB, L4-24GB,"
    " L40S-48GB, A6000-48GB, A100-40GB, A100-80GB, H100-80GB, H200-141GB, B200-180GB"
)


def test_eight_gpus_on_two_nodes() -> None:
    topology = parse_gpus("8xA100-80GB", nodes=2)
    assert (topology.nodes, topology.devices_per_node, topology.world_size) == (2, 8, 16)
    assert (topology.device, topology.device_name, topology.bf16) == ("gpu", "A100-80GB", True)
    assert topology.memory_bytes == int(79.2 * GIB)
    assert topology.rates is not None
    assert topology.rates.flops == 312e12


def test_one_gpu_needs_no_count_and_case_does_not_matter() -> None:
    assert parse_gpus("h100-80gb") == parse_gpus("1xH100-80GB")


def test_bf16_came_with_ampere() -> None:
    assert {gpu.name for gpu in CATALOGUE.values() if not gpu.bf16} == {"T4-16GB", "V100-16GB", "V100-32GB"}


def test_a_gpu_shows_less_memory_than_its_name_says() -> None:
    for gpu in CATALOGUE.values():
        sold = int(gpu.name.split("-")[1].removesuffix("GB"))
        assert 0.91 * sold <= gpu.memory_bytes / GIB < sold


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("8xA100", " Did you mean A100-80GB?"),
        ("4xH100", " Did you mean H100-80GB?"),
        ("8 x A100-80GB", " Did you mean A100-80GB?"),
        ("2xM1", ""),
        ("", ""),
    ],
)
def test_an_unknown_gpu(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_gpus(text)
    assert str(caught.value) == f"--gpus {text}: not COUNTxTYPE with a known type.{hint} {KNOWN}"


def test_no_gpus() -> None:
    with pytest.raises(UsageError) as caught:
        parse_gpus("0xA100-80GB")
    assert "Did you mean" not in str(caught.value)
