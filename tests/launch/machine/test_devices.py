"""What CUDA_VISIBLE_DEVICES lets a process use."""

import pytest

from launch.machine.devices import Device, Gpu, in_another_order, mixed, visible

WHOLE = {index: Gpu(uuid) for index, uuid in enumerate(("GPU-1aaa", "GPU-1abb", "GPU-2aaa", "GPU-3aaa"))}
# Two GPUs in slices, the first slice of the second one taken away, a third that MIG is on for, and a whole one.
DIVIDED = {
    0: Gpu("GPU-1aaa", {0: "MIG-0a", 1: "MIG-0b"}),
    1: Gpu("GPU-1abb", {1: "MIG-1b"}),
    2: Gpu("GPU-2aaa", {}),
    3: Gpu("GPU-3aaa"),
}


@pytest.mark.parametrize(
    ("names", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("0,2", [0, 2]),
        ("3, 1", [3, 1]),
        ("0,9,1", [0]),  # the first that is no GPU ends the list
        ("0,-1,1", [0]),
        ("1,1", []),  # a GPU that is named twice empties it
        ("2gpu,0", [2, 0]),  # as strtoul reads numbers
        ("GPU-2aaa,GPU-3", [2, 3]),
        ("GPU-1", []),  # it could be two
        ("GPU-1ab", [1]),
        ("GPU-2,GPU-2aaa", []),
        ("GPU-2aaa,0", [2]),  # one kind of name
        ("0,GPU-2aaa", [0]),
        ("MIG-0a", []),
    ],
)
def test_whole_gpus(names: str | None, indices: list[int]) -> None:
    assert visible(WHOLE, names) == [Device(index) for index in indices]


@pytest.mark.parametrize(
    ("names", "devices"),
    [
        ("MIG-0b", [Device(0, 1)]),
        ("MIG-0b,MIG-1b", [Device(0, 1)]),  # of several a process sees the first
        ("MIG-0", []),
        ("MIG-1", [Device(1, 1)]),
        ("0", [Device(0, 0)]),
        ("1,0", [Device(1, 1)]),
        ("GPU-1abb", [Device(1, 1)]),
        ("3", [Device(3)]),
        ("GPU-3aaa", [Device(3)]),
        (None, [Device(0, 0), Device(1, 1), Device(2), Device(3)]),
    ],
)
def test_slices(names: str | None, devices: list[Device]) -> None:
    assert visible(DIVIDED, names) == devices
    assert mixed(devices) is (len(devices) > 1)


def test_a_gpu_that_is_divided_into_nothing_stands_in_nobody_s_way() -> None:
    """Neither is it taken for the first slice, nor are two slices taken for what a process sees."""
    several = {0: DIVIDED[2], 1: DIVIDED[1], 2: DIVIDED[0]}
    assert visible(several, None) == visible(several, "0,1,2") == [Device(1, 1)]
    assert visible(several, "0") == [Device(0)]


def test_a_gpu_that_is_lost_has_no_name() -> None:
    lost = {**WHOLE, 1: Gpu("")}
    assert visible(lost, "1,2") == [Device(1), Device(2)]
    assert visible(lost, "GPU-1") == [Device(0)]


@pytest.mark.parametrize(
    ("order", "names", "other"),
    [
        (None, None, False),
        ("PCI_BUS_ID", "1,0", False),
        ("FASTEST_FIRST", None, True),
        ("FASTEST_FIRST", "0,1", True),
        ("FASTEST_FIRST", "GPU-2aaa", False),
        ("FASTEST_FIRST", "MIG-0a", False),
    ],
)
def test_when_cuda_counts_otherwise_than_the_driver(order: str | None, names: str | None, other: bool) -> None:
    assert in_another_order(order, names) is other
