"""Several nodes compared: the odd one is named, a thousand do not make a thousand rows."""

import resource
import time
from pathlib import Path
from typing import Any

import pytest

from launch.machine import discover
from launch.preflight.fingerprint import PACKAGES, fingerprint
from launch.preflight.fleet import NodeReport, answered, fleet_results, odd_ones
from launch.preflight.result import Result, sentence
from launch.spec import PreflightSpec
from tests.launch.preflight.test_network import ports

ALIKE = {"torch": "2.13.0", "driver": "580.65.06", "GPUs": "8 x NVIDIA H100 80GB HBM3", "kernel": "6.8.0"}


def report(node: str, clock: float = 1000.0, sees: bool = True, **changes: str) -> NodeReport:
    return NodeReport(node=node, fingerprint={**ALIKE, **changes}, clock=clock, sees_directory=sees)


def found(*reports: NodeReport) -> dict[str, Result]:
    return {result.name: result for result in fleet_results(reports, PreflightSpec())}


def test_nodes_that_are_alike() -> None:
    results = found(*(report(f"n{number}") for number in range(4)))
    assert {name: result.status for name, result in results.items()} == dict.fromkeys(results, "pass")
    assert results["fleet-alike"].evidence == "4 nodes alike"


def test_the_odd_node_is_named_with_what_differs() -> None:
    result = found(report("n0"), report("n1"), report("n2", torch="2.12.0", kernel="6.1.0"))["fleet-alike"]
    assert (result.status, result.evidence) == (
        "fail",
        "n2: torch 2.12.0 (others 2.13.0), kernel 6.1.0 (others 6.8.0)",
    )
    assert result.fix.startswith("make them alike")


def test_what_does_not_change_the_training_warns() -> None:
    assert found(report("n0"), report("n1"), report("n2", driver="570.26"))["fleet-alike"].status == "warn"


def test_a_field_that_is_missing_is_a_difference() -> None:
    without = NodeReport(node="n2", fingerprint={"torch": "2.13.0"}, clock=1000.0, sees_directory=True)
    odd = odd_ones({r.node: r.fingerprint for r in (report("n0"), report("n1"), without)})
    assert odd == {"n2": {name: ("missing", ALIKE[name]) for name in ("driver", "GPUs", "kernel")}}


@pytest.mark.parametrize(("seconds", "status"), [(0.5, "pass"), (5.0, "warn"), (-45.0, "fail")])
def test_clocks(seconds: float, status: str) -> None:
    result = found(report("n0"), report("n1"), report("n2", clock=1000.0 + seconds))["fleet-clock"]
    assert result.status == status
    if status != "pass":
        assert result.evidence == f"n2 is {seconds:+.1f} s off"


def test_of_two_clocks_the_head_s_is_the_measure() -> None:
    result = found(report("n0"), report("n1", clock=1045.0))["fleet-clock"]
    assert (result.status, result.evidence) == ("fail", "n1 is +45.0 s off")


def test_of_two_halves_the_head_s_is_the_measure() -> None:
    result = found(report("n0"), report("n1"), report("n2", clock=1045.0), report("n3", clock=1045.0))["fleet-clock"]
    assert (result.status, result.evidence) == ("fail", "n2 is +45.0 s off, n3 is +45.0 s off")


def test_clocks_by_the_spec_s_own_thresholds() -> None:
    reports = [report("n0"), report("n1"), report("n2", clock=1005.0)]
    wide, narrow = PreflightSpec(clock_skew_warn_seconds=10), PreflightSpec(clock_skew_seconds=0.5)
    for limits, status in ((wide, "pass"), (narrow, "fail")):
        assert {r.name: r.status for r in fleet_results(reports, limits)}["fleet-clock"] == status


def test_many_clocks_are_told_by_those_that_are_off_most() -> None:
    reports = [report("n000"), *(report(f"n{n:03}", clock=1000.0) for n in range(1, 60))]
    reports += [report(f"x{n:02}", clock=1002.0 + n) for n in range(20)]
    result = found(*reports)["fleet-clock"]
    assert result.evidence == (
        "x19 is +21.0 s off, x18 is +20.0 s off, x17 is +19.0 s off, x16 is +18.0 s off, x15 is +17.0 s off and 15 more"
    )


def test_a_directory_that_is_not_shared() -> None:
    result = found(report("n0"), report("n1", sees=False))["fleet-directory"]
    assert (result.status, result.evidence) == ("fail", "n1: does not see the run directory")


@pytest.mark.parametrize(("least", "status"), [(None, "pass"), (20.0, "pass"), (200.0, "fail")])
def test_an_all_reduce_that_is_slow(least: float | None, status: str) -> None:
    result = answered(0.01, 42.0, least)
    assert (result.status, result.values) == (status, {"gbps": 42.0})
    assert "42.00 GB/s, 10.0 ms" in result.evidence


def test_a_thousand_nodes_are_compared_in_a_moment_and_told_in_a_line() -> None:
    """Of eight GPUs each: under 2 s and 500 MB."""
    reports = [report(f"node-{n:04d}", torch="2.12.0" if n % 100 == 7 else "2.13.0") for n in range(1000)]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    results = fleet_results(reports, PreflightSpec())
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    line = sentence(results, "8,000 GPUs on 1,000 nodes")
    assert line == (
        "Not ready: fleet-alike: node-0007, node-0107, node-0207, node-0307, node-0407 and 5 more: torch 2.12.0"
        " (others 2.13.0)"
    )


def test_this_machine_s_fingerprint() -> None:
    own: dict[str, Any] = fingerprint()
    assert {"torch", "transformers", "accelerate", "kernel", "driver", "GPUs", "open files"} <= own.keys()
    assert all(isinstance(value, str) for value in own.values())
    assert own == fingerprint()
    assert set(PACKAGES) - own.keys() <= {"triton", "liger-kernel", "muster-lora"}  # of some installations alone


def test_a_node_whose_infiniband_runs_at_half_the_rate_is_the_odd_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its own ports are alike: no check of that node by itself can find it."""
    prints = {}
    for node, rate in (("n0", "400 Gb/sec (4X NDR)"), ("n1", "400 Gb/sec (4X NDR)"), ("n2", "200 Gb/sec (4X HDR)")):
        monkeypatch.setattr(discover, "INFINIBAND", ports(tmp_path / node, *[("4: ACTIVE", rate, "InfiniBand")] * 2))
        prints[node] = {"InfiniBand": fingerprint()["InfiniBand"]}
    assert odd_ones(prints) == {
        "n2": {"InfiniBand": ("2 x 4: ACTIVE at 200 Gb/sec (4X HDR)", "2 x 4: ACTIVE at 400 Gb/sec (4X NDR)")}
    }
