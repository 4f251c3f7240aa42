"""The run directory: writable and large enough."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launch.preflight import storage
from tests.launch.preflight.conftest import ON_CPU, context


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    found = storage.run_directory(context(ON_CPU, tmp_path / "runs/demo"))
    assert (found.status, found.evidence, found.fix) == ("pass", f"{tmp_path} can be written", "")
    assert list(tmp_path.iterdir()) == []


def test_nodes_that_look_at_once_with_the_same_process_number_do_not_disturb_one_another(tmp_path: Path) -> None:
    """As in containers, where the first process of each is 1. Threads have it in common as well."""
    place = context(ON_CPU, tmp_path / "runs/demo")
    with ThreadPoolExecutor(8) as nodes:
        found = list(nodes.map(lambda _: storage.run_directory(place), range(400)))
    assert {(finding.status, finding.evidence) for finding in found} == {("pass", f"{tmp_path} can be written")}
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written() -> None:
    found = storage.run_directory(context(ON_CPU, Path("/proc/demo")))
    assert (found.status, found.evidence.split(": ")[0]) == ("fail", "/proc")
    assert found.fix == "choose another place with --run-dir"


def test_a_file_in_place_of_the_run_directory(tmp_path: Path) -> None:
    (tmp_path / "demo").touch()
    found = storage.run_directory(context(ON_CPU, tmp_path / "demo"))
    assert (found.status, found.evidence) == ("fail", f"{tmp_path}/demo is a file")


def test_the_space_of_all_checkpoints_that_are_kept_and_two(tmp_path: Path) -> None:
    """64 MiB, and five checkpoints of 12 bytes for each of 20,185,088 adapter parameters."""
    found = storage.space(context(ON_CPU, tmp_path))
    assert (found.status, found.values["needed"]) == ("pass", 5 * 12 * 20_185_088 + (64 << 20))
    assert found.evidence.endswith(" free, 1.2 GiB needed for 5 checkpoints")


def test_the_elements_of_a_sweep_keep_their_checkpoints_on_one_disk(tmp_path: Path) -> None:
    alone, beside = context(ON_CPU, tmp_path), context(ON_CPU, tmp_path).model_copy(update={"beside": (ON_CPU, ON_CPU)})
    one, all_three = storage.space(alone), storage.space(beside)
    assert all_three.values["needed"] == 3 * one.values["needed"]
    assert all_three.evidence.endswith(" needed for 15 checkpoints")


@pytest.mark.parametrize(("options", "what"), [("size=32m", "free"), ("size=4g,nr_inodes=20", "inodes")])
def test_a_disk_that_is_too_small(options: str, what: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path], check=True)
    try:
        found = storage.space(context(ON_CPU, tmp_path / "demo"))
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert found.status == "fail"
    assert what in found.evidence
    assert found.fix.endswith("or choose another place with --run-dir")
