"""Numbers as characters."""

import math

import pytest

from launch.watching.charts import ASCII, BLOCKS, Glyphs, columns, curve, limits, shade


def test_a_column_is_the_mean_of_its_neighbours() -> None:
    assert columns([1, 2, 3, 4], 2) == [1.5, 3.5]
    assert columns([1, 2, 3], 6) == [1, 1, 2, 2, 3, 3]
    assert columns([], 2) == [None, None]


def test_what_is_no_number_is_a_gap() -> None:
    assert columns([None, 4, math.nan, math.inf], 2) == [4, None]
    assert limits([None, math.nan]) is None
    assert curve([None, 1.0], 2, 1, BLOCKS) == [" ▅"]


def test_a_curve_goes_from_its_least_to_its_most() -> None:
    assert curve([0, 1, 2, 3, 4, 5, 6, 7], 8, 1, BLOCKS) == ["▁▂▃▄▅▆▇█"]
    assert curve([0, 7.5, 15], 3, 2, BLOCKS) == [" ▁█", "▁██"]
    assert curve([10, 20], 2, 1, BLOCKS, zero=True) == ["▅█"]
    assert curve([], 3, 2, BLOCKS) == ["   ", "   "]


def test_a_fall_from_a_height_does_not_hide_the_rest() -> None:
    falling = [100.0, *(2.0 + number % 2 for number in range(39))]
    assert limits(falling) == (2.0, 3.0)
    assert curve(falling, 40, 1, BLOCKS) == ["█" + "▁█" * 19 + "▁"]
    assert limits(falling, zero=True) == (0.0, 100.0)
    assert limits([100.0, *[2.0] * 39]) == (2.0, 100.0)


def test_values_that_are_all_the_same_are_in_the_middle() -> None:
    assert curve([5.0, 5.0], 2, 1, BLOCKS) == ["▅▅"]


@pytest.mark.parametrize("glyphs", [BLOCKS, ASCII])
def test_shades_tell_more_from_less_without_colour(glyphs: Glyphs) -> None:
    shades = [shade(percent, glyphs) for percent in (0, 4.9, 5, 30, 60, 85, 100)]
    assert shades == [glyphs.shades[at] for at in (0, 0, 1, 2, 3, 4, 4)]
    assert len({*glyphs.shades, glyphs.lost, glyphs.unknown}) == 7
    assert shade(None, glyphs) == glyphs.unknown


def test_plain_characters_are_ascii() -> None:
    texts = (ASCII.levels, ASCII.shades, ASCII.lost, ASCII.unknown, ASCII.line, ASCII.filled, ASCII.left, ASCII.dot)
    assert all(text.isascii() for text in texts)
    assert len(ASCII.levels) == len(BLOCKS.levels)
