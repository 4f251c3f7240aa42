"""Which rows share a sequence: best-fit decreasing, exactly as placing them one by one would do."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from training.data.sequences.packing import Packs, one_each, pack


def lists(packs: Packs) -> list[list[int]]:
    return [packs.rows(index).tolist() for index in range(len(packs))]


def packed(lengths: list[int], capacity: int) -> Packs:
    return pack(np.array(lengths, dtype=np.int32), capacity)


def fills(lengths: list[int], packs: Packs) -> list[int]:
    return sorted(sum(lengths[row] for row in rows) for rows in lists(packs))


def one_by_one(lengths: list[int], capacity: int) -> list[int]:
    """How full each sequence is when rows are placed longest first, each where the least room is left over."""
    used: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, fill in enumerate(used) if fill + length <= capacity]
        if fitting:
            used[max(fitting, key=lambda index: used[index])] += length
        else:
            used.append(length)
    return sorted(used)


def is_whole(lengths: list[int], capacity: int, packs: Packs) -> bool:
    rows = lists(packs)
    once = sorted(row for group in rows for row in group) == list(range(len(lengths)))
    return once and all(group and sum(lengths[row] for row in group) <= capacity for group in rows)


def test_sequences_are_filled_best_fit_decreasing() -> None:
    assert sorted(map(sorted, lists(packed([3, 7, 5, 5], 10)))) == [[0, 1], [2, 3]]
    assert sorted(map(sorted, lists(packed([9, 9, 1, 1], 10)))) == [[0, 2], [1, 3]]


def test_the_fullest_sequence_that_has_room_takes_a_row() -> None:
    # 6 and 5 open a sequence each; 4 goes beside the 6 and fills it, 3 beside the 5.
    assert fills([6, 5, 4, 3], packed([6, 5, 4, 3], 10)) == [8, 10]


def test_the_last_sequence_takes_the_few_that_are_left() -> None:
    assert fills([3] * 7, packed([3] * 7, 10)) == [3, 9, 9]
    assert fills([6] * 3 + [2] * 3, packed([6] * 3 + [2] * 3, 10)) == [6, 8, 10]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 65), max_size=200), st.integers(65, 256))
def test_every_row_once_never_too_full_and_as_if_one_by_one(lengths: list[int], capacity: int) -> None:
    packs = packed(lengths, capacity)
    assert is_whole(lengths, capacity, packs)
    assert fills(lengths, packs) == one_by_one(lengths, capacity)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 5, 8, 13]), max_size=120), st.integers(13, 40))
def test_many_rows_of_few_lengths(lengths: list[int], capacity: int) -> None:
    packs = packed(lengths, capacity)
    assert is_whole(lengths, capacity, packs)
    assert fills(lengths, packs) == one_by_one(lengths, capacity)


@pytest.mark.parametrize("power", range(9))
@pytest.mark.parametrize("unit", [1, 3, 7])
def test_rows_of_half_the_length_and_a_token(power: int, unit: int) -> None:
    """max_length = 2^k x n + 1, where a row of n leaves room for nothing but single tokens."""
    capacity = 2**power * unit + 1
    lengths = [unit] * 50 + [2 ** (power // 2) * unit] * 20 + [capacity] * 3 + [1] * 9
    packs = packed(lengths, capacity)
    assert is_whole(lengths, capacity, packs)
    assert fills(lengths, packs) == one_by_one(lengths, capacity)


def test_a_row_of_exactly_the_capacity_is_alone() -> None:
    assert sorted(map(sorted, lists(packed([10, 10, 1], 10)))) == [[0], [1], [2]]


def test_the_same_lengths_are_packed_the_same() -> None:
    lengths = [3, 9, 4, 4, 2, 7] * 20
    assert lists(packed(lengths, 16)) == lists(packed(lengths, 16))


def test_a_row_longer_than_a_sequence_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^row 1 has 11 tokens, more than 10$"):
        packed([1, 11], 10)


def test_no_rows_are_no_sequences() -> None:
    assert lists(packed([], 10)) == []
    assert len(packed([], 10)) == 0


def test_without_packing_every_row_is_a_sequence() -> None:
    assert lists(one_each(3)) == [[0], [1], [2]]
    assert len(one_each(0)) == 0


def test_the_recorded_mixture_wastes_at_most_a_thousandth_of_the_positions() -> None:
    """Twenty thousand rows drawn from it, in sequences of the default length."""
    recorded = json.loads((ROOT / "benchmarks/lengths.json").read_text())["lengths"]
    every = np.array([length for lengths in recorded.values() for length in lengths], dtype=np.int32)
    drawn = np.random.default_rng(0).choice(every, 20_000)
    packs = pack(drawn, 4096)
    assert 1 - drawn.sum() / (len(packs) * 4096) <= 0.001


def test_short_instructions_waste_at_most_a_hundredth() -> None:
    recorded = json.loads((ROOT / "benchmarks/lengths.json").read_text())["lengths"]
    lengths = np.array(recorded["instructions (alpaca)"], dtype=np.int32)
    packs = pack(lengths, 2048)
    assert 1 - lengths.sum() / (len(packs) * 2048) <= 0.01
