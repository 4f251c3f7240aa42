"""GPUs as a heat map: every one of many nodes, and where there is no room, those that matter."""

from dataclasses import replace

from launch.watching.charts import ASCII, BLOCKS
from launch.watching.heat import heat, legend
from launch.watching.view import Gpu, Node
from tests.launch.watching.views import NOW, node


def plain(nodes: list[Node], width: int, height: int) -> list[str]:
    lines = heat(nodes, width, height, BLOCKS)
    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    return [line.plain for line in lines]


def test_a_node_is_a_row_with_its_numbers() -> None:
    assert plain([node("n0.cluster")], 80, 5) == ["n0 ████████ ▓▓▓▓▓▓▓▓    97 %  61.0 of 80 GiB  64 °C  2,480 W"]


def test_sixteen_nodes_of_eight_fit_eight_lines_of_a_small_terminal() -> None:
    nodes = [node(f"gpu-node-{number:03d}") for number in range(16)]
    lines = plain(nodes, 80, 8)
    assert len(lines) == 8
    assert lines[0] == "gpu-node-000 ████████ ▓▓▓▓▓▓▓▓   gpu-node-008 ████████ ▓▓▓▓▓▓▓▓"
    assert lines[7].startswith("gpu-node-007 ")


def test_one_below_the_other_where_there_is_room() -> None:
    lines = plain([node(f"n{number}") for number in range(16)], 80, 16)
    assert [line.split()[0] for line in lines] == [f"n{number}" for number in range(16)]
    assert all(line.endswith("2,480 W") for line in lines)


def test_where_not_all_fit_the_idlest_and_the_lost_are_shown() -> None:
    nodes = [node(f"n{number:02d}", utilization=90.0 + number / 10) for number in range(60)]
    nodes[41] = node("n41", utilization=3.0)
    broken = node("n57")
    nodes[57] = replace(broken, gpus=(replace(broken.gpus[0], error="lost"), *broken.gpus[1:]))
    lines = plain(nodes, 60, 4)
    assert "n57 ×███████ ×▓▓▓▓▓▓▓" in lines[0]
    assert "n41 ········ ▓▓▓▓▓▓▓▓" in lines[1]
    assert lines[-1] == "and 54 more nodes, none of them idler"


def test_what_the_driver_did_not_give_is_a_question_mark() -> None:
    assert plain([Node("n0", (Gpu(0), Gpu(1, utilization=50.0)), NOW)], 80, 2) == ["n0 ?▒ ??    50 %"]


def test_nodes_with_fewer_gpus_stay_in_line() -> None:
    lines = plain([node("n0", 2), node("n1", 4)], 80, 2)
    assert lines[0].startswith("n0 ██   ▓▓   ")
    assert lines[1].startswith("n1 ████ ▓▓▓▓ ")


def test_a_long_name_keeps_its_end() -> None:
    (line,) = plain([node("very-long-prefix-of-a-cluster-node-017.example.org")], 80, 2)
    assert line.startswith("~ster-node-017 ████████")


def test_a_host_without_a_gpu() -> None:
    assert plain([Node("n0", (), NOW, cpu=97.4, host_bytes=3.5 * 2**30)], 80, 3) == [
        "n0  cores 97 % busy, 3.5 GiB of memory used"
    ]


def test_no_place_and_no_node() -> None:
    assert heat([], 80, 5, BLOCKS) == heat([node("n0")], 80, 0, BLOCKS) == []


def test_the_legend_says_what_a_shade_means() -> None:
    assert legend(BLOCKS) == "· <5  ░ <30  ▒ <60  ▓ <85  █ 85+ %"
    assert legend(ASCII).isascii()


def test_colours_differ_too() -> None:
    (busy,), (idle,) = (heat([node("n0", 1, utilization=value)], 40, 1, BLOCKS) for value in (97.0, 10.0))
    assert [str(span.style) for span in busy.spans[:1]] == ["green"]
    assert [str(span.style) for span in idle.spans[:1]] == ["red"]
