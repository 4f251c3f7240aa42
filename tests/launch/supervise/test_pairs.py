"""Which node breaks or slows down a network, by what pairs exchange."""

import pytest

from launch.supervise.pairs import Pair, culprits, rounds


@pytest.mark.parametrize("count", range(2, 12))
def test_every_node_has_another_partner_each_round(count: int) -> None:
    nodes = [f"n{number}" for number in range(count)]
    made = rounds(nodes)
    every = [frozenset(pair) for pairs in made for pair in pairs]
    assert len(set(every)) == len(every)
    for pairs in made:
        busy = [node for pair in pairs for node in pair]
        assert len(set(busy)) == len(busy) >= count - count % 2 - (count % 2 and 0)
    assert len(made) == min(3, count - 1 if count % 2 == 0 else count)


def rates(nodes: int, **bad: float | None) -> dict[Pair, float | None]:
    """All at 10 GB/s but for the pairs of the bad ones."""
    made: dict[Pair, float | None] = {}
    for pairs in rounds([f"n{number}" for number in range(nodes)]):
        for pair in pairs:
            found = [bad[node] for node in pair if node in bad]
            made[pair] = found[0] if found else 10.0
    return made


def test_a_healthy_network_has_no_culprit() -> None:
    assert culprits(rates(8)) == {}


@pytest.mark.parametrize("nodes", [3, 4, 7, 16, 64])
def test_a_broken_node_is_named(nodes: int) -> None:
    found = culprits(rates(nodes, n1=None))
    assert list(found) == ["n1"]
    assert found["n1"].startswith("exchanges with none of n")


def test_a_slow_node_is_named_with_its_rate() -> None:
    found = culprits(rates(8, n5=1.0))
    assert list(found) == ["n5"]
    assert "exchanges 1.00 GB/s with " in found["n5"]
    assert found["n5"].endswith("the others 10.00 GB/s")


def test_two_nodes_do_not_tell_which() -> None:
    assert culprits({("a", "b"): None}) == {}
