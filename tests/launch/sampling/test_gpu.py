"""What is made of NVML's numbers."""

import pytest

from launch.sampling.gpu import Afforded, Traffic, rates, reasons


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0, []),
        (0x1, ["gpu_idle"]),
        (0x4 | 0x40, ["sw_power_cap", "hw_thermal_slowdown"]),
        (0x8 | 0x80, ["hw_slowdown", "hw_power_brake_slowdown"]),
        (0x4 | 1 << 20, ["sw_power_cap", "0x100000"]),
    ],
)
def test_what_holds_the_clocks_back_in_words(bits: int, words: list[str]) -> None:
    assert reasons(bits) == words


def test_traffic_is_what_the_counters_gained_in_the_time_between() -> None:
    assert rates(Traffic(1000, 5000, 10.0), Traffic(4000, 5500, 12.0)) == (1500, 250)


@pytest.mark.parametrize("before", [None, Traffic(9999, 0, 10.0), Traffic(0, 9999, 10.0), Traffic(0, 0, 12.0)])
def test_traffic_is_not_known_without_two_readings_of_the_same_count(before: Traffic | None) -> None:
    assert rates(before, Traffic(4000, 5500, 12.0)) == (None, None)


def test_what_was_dear_is_due_again_once_it_is_paid_off() -> None:
    pcie = Afforded(0.003)
    assert pcie.is_due(now=0.0)
    pcie.cost(0.3, now=100.0)
    assert not pcie.is_due(now=199.0)
    assert pcie.is_due(now=201.0)
