"""What outlives a rollback, and where it goes back to."""

from pathlib import Path

import pytest
import torch

from launch.rundir import RunDir
from training.checkpoint.checkpoints import write_directory
from training.guard.lessons import Lessons, Lowered, read_lessons, write_lessons
from training.guard.stability import Trouble
from training.loop.rollback import START, candidates


def lowered(step: int, factor: float = 0.5, warmup: int = 3) -> Lowered:
    return Lowered(from_step=step, factor=factor, warmup_steps=warmup)


def test_a_lowered_rate_rises_from_nearly_nothing_to_its_share() -> None:
    lessons = Lessons(lowered=[lowered(10)])
    assert [lessons.factor(position) for position in range(8, 16)] == [1, 1, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


def test_rates_that_were_lowered_twice_are_multiplied_and_rise_once() -> None:
    lessons = Lessons(lowered=[lowered(10), lowered(10), lowered(20)])
    assert [lessons.factor(position) for position in (10, 13, 19, 20, 23)] == [0.0625, 0.25, 0.25, 0.03125, 0.125]


def test_a_rollback_blames_the_batches_and_a_lower_rate_the_rate() -> None:
    trouble = Trouble([7, 9], rolled_back=1)
    after = Lessons(left_out=[3]).after_roll_back(trouble)
    assert after.left_out == [3, 7, 9]
    assert after.open_trouble() == trouble
    later = after.after_lowering(Trouble([7, 9, 11], 1, 1), lowered(4))
    assert later.left_out == [3]
    assert later.lowered == [lowered(4)]


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    lessons = Lessons().after_roll_back(Trouble([7], 1)).after_lowering(Trouble([7, 8], 1, 1), lowered(4))
    write_lessons(tmp_path / "stability.json", lessons)
    assert read_lessons(tmp_path / "stability.json") == lessons
    assert read_lessons(tmp_path / "none.json") == Lessons()


@pytest.mark.parametrize(
    ("trouble", "left_out", "from_start", "places"),
    [
        ([11], [], False, ["step-000008", "step-000004"]),
        ([9], [], False, ["step-000004"]),  # nothing was trained between 8 and 9: what 8 holds is not proven
        ([11], [9, 10], False, ["step-000004"]),
        ([11], [], True, ["step-000008", "step-000004", START]),
        ([4, 11], [], True, [START]),
        ([5], [], False, ["step-000004"]),  # for want of a better one
        ([5], [], True, [START]),
        ([2], [], False, []),
    ],
)
def test_where_training_goes_back_to(
    tmp_path: Path, trouble: list[int], left_out: list[int], from_start: bool, places: list[str]
) -> None:
    run = RunDir(tmp_path)
    for step in (4, 8, 12):
        write_directory(run.checkpoint(step), {"a.safetensors": {"a": torch.ones(1)}}, {"progress.json": "{}"})
    found = candidates(run, Trouble(trouble), left_out, from_start)
    assert [place if isinstance(place, str) else place.name for place in found] == places


def test_a_damaged_checkpoint_is_no_place_to_go_back_to(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in (4, 8):
        write_directory(run.checkpoint(step), {}, {"progress.json": "{}"})
    (run.checkpoint(8) / "progress.json").write_text("{ }")
    assert candidates(run, Trouble([11]), [], False) == [run.checkpoint(4)]
