"""The same global batches on any number of devices."""

from hypothesis import given
from hypothesis import strategies as st

from training.data.sequences.order import MicroBatches, epoch_order, steps_per_epoch


@given(
    st.integers(1, 60),
    st.sampled_from([(1, 1, 8), (2, 1, 4), (4, 1, 2), (2, 2, 2), (8, 1, 1), (1, 4, 2)]),
    st.integers(0, 3),
)
def test_every_division_of_a_global_batch_trains_on_the_same_samples(
    count: int, division: tuple[int, int, int], epoch: int
) -> None:
    """8 sequences a step as world x micro-batch x accumulation."""
    world, micro, accumulation = division
    ranks = []
    for rank in range(world):
        batches = MicroBatches(count, 7, rank, world, micro, accumulation)
        batches.set_epoch(epoch)
        ranks.append(list(batches))
        assert len(ranks[-1]) == len(batches) == steps_per_epoch(count, 8) * accumulation
    order = epoch_order(count, 7, epoch)
    for step in range(steps_per_epoch(count, 8)):
        seen = [
            index
            for rank in ranks
            for batch in rank[step * accumulation : (step + 1) * accumulation]
            for index in batch
        ]
        assert sorted(seen) == sorted(order[8 * step : 8 * step + 8])


def test_epochs_differ_and_seeds_decide() -> None:
    assert epoch_order(10, 1, 0) == epoch_order(10, 1, 0)
    assert epoch_order(10, 1, 0) != epoch_order(10, 1, 1)
    assert epoch_order(10, 1, 0) != epoch_order(10, 2, 0)
    assert sorted(epoch_order(10, 1, 5)) == list(range(10))
