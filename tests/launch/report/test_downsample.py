"""Few points that look like all of them: what must survive."""

from hypothesis import given
from hypothesis import strategies as st

from launch.report.downsample import kept

VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=3000)


@given(values=VALUES, most=st.integers(4, 200))
def test_at_most_so_many_places_in_their_order_with_both_ends(values: list[float], most: int) -> None:
    places = kept(values, most)
    assert len(places) <= most
    assert places == sorted(set(places))
    assert places[0] == 0
    assert places[-1] == len(values) - 1


@given(values=VALUES, most=st.integers(4, 200), place=st.integers(0, 2999), spike=st.sampled_from((1e3, -1e3)))
def test_a_spike_of_one_step_is_kept_wherever_it_is(values: list[float], most: int, place: int, spike: float) -> None:
    place %= len(values)
    values[place] = spike
    assert place in kept(values, most)


@given(values=VALUES, most=st.integers(4, 200))
def test_the_range_is_that_of_all_values(values: list[float], most: int) -> None:
    own = [values[place] for place in kept(values, most)]
    assert (min(own), max(own)) == (min(values), max(values))


def test_two_spikes_are_kept_where_each_has_a_stretch_of_its_own() -> None:
    values = [0.0] * 100_000
    values[31_234] = values[77_001] = 5.0
    places = kept(values, 2000)
    assert {31_234, 77_001} <= set(places)
    assert len(places) <= 2000


def test_few_values_are_all_kept() -> None:
    assert kept([3.0, 1.0, 2.0], 100) == [0, 1, 2]
    assert kept([3.0], 100) == [0]
    assert kept([], 100) == []
