"""What is shown of a run, out of the rows that it writes."""

from launch.watching.view import Happening, Node, gpu_troubles, grown, happenings, in_order, nodes_of

SAMPLE = {
    "node": "n0", "time": 5.0, "gpu": 1, "utilization": 97, "memory_used_bytes": 40, "power_watts": 300.5,
    "temperature": 64, "host_memory_used_bytes": 7, "host_cpu_percent": 12.5,
}  # fmt: skip


def steps(kept: list[int], new: list[int], most: int = 100) -> list[int]:
    return [row["step"] for row in grown([{"step": step} for step in kept], [{"step": step} for step in new], most)]


def test_steps_that_are_trained_again_take_the_place_of_the_earlier_ones() -> None:
    assert steps([1, 2, 3], [4]) == [1, 2, 3, 4]
    assert steps([1, 2, 3, 4], [3]) == [1, 2, 3]
    assert steps([1, 2, 3, 4], [1, 2, 3]) == [1, 2, 3]
    assert steps([1, 2, 3], [4, 5], most=2) == [4, 5]


def test_a_node_keeps_the_last_sample_of_each_gpu() -> None:
    nodes = nodes_of([SAMPLE, {**SAMPLE, "gpu": 0}, {**SAMPLE, "utilization": 50, "time": 6.0}], {}, 80.0)
    (node,) = nodes.values()
    assert [gpu.index for gpu in node.gpus] == [0, 1]
    assert (node.gpus[1].utilization, node.gpus[1].memory, node.time, node.cpu) == (50.0, 50.0, 6.0, 12.5)
    later = nodes_of([{**SAMPLE, "node": "n1"}], nodes, 80.0)
    assert (sorted(later), later["n0"]) == (["n0", "n1"], node)


def test_memory_is_a_share_of_what_the_sample_says_or_the_plan() -> None:
    assert nodes_of([{**SAMPLE, "memory_total_bytes": 160}], {}, 80.0)["n0"].gpus[0].memory == 25.0
    assert nodes_of([SAMPLE], {}, None)["n0"].gpus[0].memory is None


def test_a_host_without_a_gpu_and_a_driver_that_gives_nothing() -> None:
    assert nodes_of([{"node": "n0", "time": 1.0, "gpu": None, "host_cpu_percent": 3}], {}, None) == {
        "n0": Node("n0", (), 1.0, 3.0, None)
    }
    gpu = nodes_of([{"node": "n0", "gpu": 0, "utilization": None}], {}, 80.0)["n0"].gpus[0]
    assert (gpu.utilization, gpu.memory, gpu.error) == (None, None, None)


def test_gpus_that_are_lost_or_hot_are_trouble_and_a_power_limit_is_none() -> None:
    rows = [
        {**SAMPLE, "gpu": 0, "error": "lost", "utilization": None},
        {**SAMPLE, "gpu": 1, "throttle_reasons": ["sw_power_cap", "gpu_idle"]},
        {**SAMPLE, "gpu": 2, "throttle_reasons": ["sw_power_cap", "hw_thermal_slowdown"]},
    ]
    assert gpu_troubles(nodes_of(rows, {}, 80.0).values()) == [
        "n0 GPU 0: lost", "n0 GPU 2: slowed down (hw_thermal_slowdown)",
    ]  # fmt: skip


def test_what_happened_stands_by_its_time_and_worries_are_marked() -> None:
    events = [
        {"event": "warning", "time": 3.0, "kind": "loss_flat", "step": 9, "message": "flat"},
        {"event": "stopped", "time": 2.0, "step": 9},
    ]
    said = [Happening("without a time", None, False)]
    found = in_order([*happenings(events), *said])
    assert [one.text for one in found] == ["stopped as asked at step 9", "step 9: warning: flat", "without a time"]
    assert [one.worry for one in found] == [False, True, False]
