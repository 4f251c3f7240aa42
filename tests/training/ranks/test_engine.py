"""What a worker finds out about its place before it joins the others."""

import pytest

from training.ranks.engine import cpu_threads, launched

BY_HAND: dict[str, str] = {}
RANK = {"ACCELERATE_USE_CPU": "true", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        (BY_HAND, 8),
        (BY_HAND | {"OMP_NUM_THREADS": "1"}, 1),
        (BY_HAND | {"OMP_NUM_THREADS": "3"}, 3),
        (BY_HAND | {"OMP_NUM_THREADS": "0"}, 8),
        (BY_HAND | {"OMP_NUM_THREADS": "2,1"}, 8),
        (RANK, 4),
        (RANK | {"OMP_NUM_THREADS": "1"}, 4),  # accelerate launch writes that itself
        (RANK | {"OMP_NUM_THREADS": "2"}, 2),
    ],
)
def test_threads_are_those_that_were_asked_for_or_a_share_of_the_cores(
    environment: dict[str, str], threads: int
) -> None:
    assert cpu_threads(launched(environment), 8, environment) == threads


def test_more_ranks_than_cores_have_a_thread_each() -> None:
    assert cpu_threads(launched(RANK), 1, RANK) == 1
