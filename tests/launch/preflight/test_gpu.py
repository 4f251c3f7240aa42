"""GPUs, through the real nvidia-ml-py and a simulated driver: what each check says of each machine."""

import os

import pytest

from launch.preflight.nvml import judge
from launch.preflight.selftest import Tried, selftest
from launch.preflight.selftest.machines import ASKED, MACHINES
from tests.conftest import ROOT

GOLDEN = ROOT / "tests/golden/preflight-machines.txt"


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> list[Tried]:
    return selftest(tmp_path_factory.mktemp("nvml"), faults=())


def test_each_fault_is_found_by_the_checks_that_should_and_by_no_other(tried: list[Tried]) -> None:
    assert {t.scenario: t.found for t in tried} == {name: dict(machine.found) for name, machine in MACHINES.items()}
    assert all(t.right for t in tried)


def test_there_are_enough_faults_and_healthy_machines() -> None:
    assert len([m for m in MACHINES.values() if m.found]) >= 25
    assert len([m for m in MACHINES.values() if not m.found]) >= 10


def test_every_check_of_a_gpu_finds_something_on_some_machine() -> None:
    """On one with a fault of its own."""
    found = {name for machine in MACHINES.values() if len(machine.found) <= 2 for name in machine.found}
    assert {check.name for check in ASKED} - found == set()


def test_no_gpu_is_no_healthy_gpu() -> None:
    """As where CUDA_VISIBLE_DEVICES names a slice."""
    assert judge([], lambda value: None, "fine", "").status == "unknown"


def test_what_is_said_of_each_machine(tried: list[Tried]) -> None:
    """Evidence and fix, word for word: MUSTER_UPDATE_GOLDEN=1 writes them anew."""
    lines = []
    for each in tried:
        told = sorted({(r.status, r.evidence, r.fix) for r in each.results if r.status not in ("pass", "skipped")})
        lines += [f"{each.scenario}: {status}: {evidence}. {fix}" for status, evidence, fix in told]
    text = "\n".join(lines) + "\n"
    if os.environ.get("MUSTER_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_what_could_not_be_read_never_passes(tried: list[Tried]) -> None:
    for each in tried:
        for result in each.results:
            values = result.values.get("gpus", {})
            unsupported = [index for index, value in values.items() if value == "Not Supported"]
            if result.status == "pass":  # then it is told
                assert all(index in result.evidence.partition("; ")[2] for index in unsupported)
            assert result.fix or result.status in ("pass", "skipped")
