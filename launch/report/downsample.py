"""Fewer points of a curve, with every spike that was in it. Pure."""

from collections.abc import Sequence
from itertools import pairwise


def kept(values: Sequence[float], most: int) -> list[int]:
    """Places of at most `most` values, 4 or more, in their order: the first, the last, and of each of equal stretches
    between them the lowest and the highest.

    What is drawn has the same outline as the whole, one pixel wide stretches given; a spike of one step is the highest
    or the lowest of its stretch. Averages would flatten it, and every n-th step would miss it.
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    stretches = (most - 2) // 2
    edges = [1 + place * (count - 2) // stretches for place in range(stretches + 1)]
    places = {0, count - 1}
    for begin, end in pairwise(edges):
        stretch = values[begin:end]
        if stretch:
            places.update((begin + stretch.index(min(stretch)), begin + stretch.index(max(stretch))))
    return sorted(places)
