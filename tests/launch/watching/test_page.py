"""A run's page: exactly as large as the terminal, whatever the run does and whatever is written in it."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from launch.watching.charts import ASCII, BLOCKS, Glyphs
from launch.watching.page import Share, page, share, snapshot
from launch.watching.view import Happening, Node, View
from tests.launch.watching.views import NOW, node, status, view

SIZES = [(80, 24), (100, 30), (200, 60), (120, 8), (40, 12), (20, 5), (10, 3), (3, 2), (1, 1)]
EMPTY = View(
    status(state="prepared", attempt=0, step=None, steps=None, loss=None, eta_seconds=None, checkpoint=None), NOW
)
VIEWS = {
    "one GPU": view(1, 1),
    "many nodes": view(16),
    "a fleet": view(200),
    "no GPU": replace(view(0), nodes=(Node("host", (), NOW, 50.0, 2.0**31),)),
    "nothing yet": EMPTY,
    "in the queue": replace(EMPTY, status=status(state="waiting", why="Priority", attempt=0, job="7", step=None)),
    "one row": view(1, count=1, happened=1),
    "trouble": view(2, troubles=tuple(f"rank {number} on n0: no sign of life for 12 s" for number in range(9))),
    "attempts": view(1, attempts=tuple(f"{number} ended as worker: killed" for number in range(1, 30))),
    "wide characters": view(1, status=status(name="模型" * 30, why="é\u0301" * 50)),
    "control characters": view(1, happenings=(Happening("\x1b[2J[red]x[/red]\r\nnext\tcolumn", NOW, True),) * 9),
    "nulls": view(1, logged=({"step": 1, "loss": None, "tokens_per_second": None, "step_seconds": None},)),
    "no calendar's time": view(1, happenings=(Happening("x", 1e18, True), Happening("y", float("nan"), False))),
    "not finite": view(1, logged=({"step": 1, "loss": float("nan"), "tokens_per_second": float("inf")},)),
}  # fmt: skip


def drawn(view: View, width: int, height: int, glyphs: Glyphs = BLOCKS, **console: object) -> list[str]:
    """As a terminal of that width shows it."""
    out = io.StringIO()
    screen = Console(file=out, width=width, height=height, **console)  # type: ignore[arg-type]
    for line in page(view, width, height, glyphs):
        screen.print(line)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("glyphs", [BLOCKS, ASCII], ids=["blocks", "ascii"])
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", VIEWS)
def test_the_page_fits_exactly(name: str, width: int, height: int, glyphs: Glyphs) -> None:
    lines = page(VIEWS[name], width, height, glyphs)
    assert len(lines) == height
    assert [line.cell_len for line in lines] == [width] * height
    assert all(line.plain.isprintable() for line in lines)
    assert len(drawn(VIEWS[name], width, height, glyphs)) == height  # none is wrapped
    if glyphs is ASCII:
        assert all(line.plain.isascii() for line in lines)


def test_a_small_terminal_shows_all_that_matters() -> None:
    text = "\n".join(drawn(view(16, troubles=("rank 3 on n0: no sign of life for 12 s",)), 80, 24))
    for part in (
        "demo  running  attempt 1", " 50 %", "step 500 of 1,000", "2.0 h left", "saved step 475, 60 s ago",
        "128 ranks training", "! rank 3 on n0: no sign of life for 12 s", "learning rate 2.00e-04", "MFU 41.2 %",
        "2 s a step (data 1 %, compute 90 %, optimizer 5 %)", "2 skipped steps",
        "loss 1.040 eval 1.300 (best)", "tokens/s 14,050",
        "gpu-node-000", "gpu-node-015", "GPUs: utilisation, memory", "events and warnings", "step 750: saved",
        "q leaves",
    ):  # fmt: skip
        assert part in text, part


def test_a_single_node_leaves_room_for_what_happened() -> None:
    lines = drawn(view(1), 80, 24)
    assert sum("saved a checkpoint" in line for line in lines) >= 5
    assert sum(line.startswith("gpu-node-") for line in lines) == 1


def test_markup_is_text() -> None:
    named = status(name="[bold]x[/bold]", why="[link=file:///]y")
    found = view(1, status=named, happenings=(Happening("[red]z", NOW, False),))
    text = "\n".join(drawn(found, 100, 24))
    assert "[bold]x[/bold]" in text
    assert "[link=file:///]y" in text
    assert "[red]z" in text


def test_a_worry_is_marked_without_colour() -> None:
    lines = drawn(view(1), 100, 30, no_color=True)
    marked = [line for line in lines if " ! step " in line]
    assert marked
    assert all("\x1b[3" not in line for line in lines)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (80, 18)])
def test_the_last_warning_stays_in_sight_however_many_saves_follow(width: int, height: int) -> None:
    saved = [Happening(f"step {number}: saved", NOW, False) for number in range(100)]
    worries = [Happening(f"warning {number}", NOW, True) for number in range(2)]
    lines = "\n".join(drawn(view(8, happenings=(*saved[:9], *worries, *saved[9:])), width, height))
    assert " ! warning 1" in lines
    assert "warning 0" not in lines
    assert "step 99: saved" in lines


def test_samples_of_long_ago_say_so() -> None:
    old = replace(node("n0"), time=NOW - 300)
    assert "GPUs: utilisation, memory, 5.0 min ago" in "\n".join(drawn(replace(view(0), nodes=(old,)), 100, 24))


def test_what_a_run_that_waits_shows() -> None:
    waits = {"state": "PENDING", "nodes": "", "start": NOW + 3600}
    found = status(state="waiting", why="Priority", job="7", slurm=waits, attempt=0, step=None, eta_seconds=None)
    text = "\n".join(drawn(View(found, NOW), 100, 24))
    assert "waiting: Priority" in text
    assert "job 7" in text
    assert "expected to start 20" in text


def test_a_snapshot_has_no_empty_lines_and_no_keys() -> None:
    lines = [line.plain.strip() for line in snapshot(view(1, happened=2), 80, 40, BLOCKS)]
    assert len(lines) < 40
    assert all(lines)
    assert not any("q leaves" in line for line in lines)


@pytest.mark.parametrize("height", range(60))
@pytest.mark.parametrize(("dense", "nodes"), [(0, 0), (1, 1), (8, 16), (100, 200)])
def test_a_share_is_never_more_than_there_is(height: int, dense: int, nodes: int) -> None:
    parts = share(height, 50, dense, nodes, 30)
    assert parts.curves + parts.heat + parts.happenings <= height
    assert parts.heat != 1
    assert parts.happenings != 1


def test_shares() -> None:
    assert share(16, 50, 8, 16, 30) == Share(curves=4, heat=9, happenings=3)
    assert share(16, 50, 1, 1, 30) == Share(curves=8, heat=2, happenings=6)
    assert share(16, 0, 0, 0, 30) == Share(curves=0, heat=0, happenings=16)
