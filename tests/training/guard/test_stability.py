"""What the stability guard decides, from numbers alone."""

import math
import random
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.spec.stability import StabilitySpec
from training.guard.stability import Guard, Step, threshold

VOCABULARY = 151_936  # Qwen's
NAN = math.nan


def guard(**spec: Any) -> Guard:
    return Guard(StabilitySpec(**spec), VOCABULARY)


def step(number: int, loss: float = 2.0, grad_norm: float = 1.0, labels: int = 100) -> Step:
    return Step(number, loss, grad_norm, labels)


def judged(one: Guard, losses: list[float], first: int = 1) -> list[str]:
    return [one.judge(step(number, loss)).what for number, loss in enumerate(losses, first)]


@pytest.mark.parametrize(
    ("losses", "limit"),
    [
        ([], 1.5 * math.log(VOCABULARY)),  # worse than guessing
        ([2.0, 2.2], 4.1),  # few: two nats above their median
        ([2.0] * 8, 2.5),  # without any deviation: half a nat
        ([1.8, 1.9, 2.0, 2.1, 2.2, 1.8, 1.9, 2.1, 2.2], 2.0 + 10 * 1.4826 * 0.1),
        ([20.0] * 8, 1.5 * math.log(VOCABULARY)),
    ],
)
def test_the_limit_of_a_loss(losses: list[float], limit: float) -> None:
    assert threshold(losses, 10.0, VOCABULARY) == pytest.approx(limit)


def test_a_loss_that_climbs_little_by_little_is_stopped_where_it_has_left_what_it_was() -> None:
    """Its median and its deviation climb along, and would let it reach anything."""
    chance = random.Random(0)
    losses = [2.0 * 1.015 ** max(0, number - 20) + chance.gauss(0, 0.1) for number in range(120)]
    verdicts = judged(guard(), losses)
    first = next(number for number, what in enumerate(verdicts) if what != "go_on")
    assert 3.5 < losses[first] < 4.5
    alone = guard()
    for number, loss in enumerate(losses, 1):
        alone.lowest = None
        assert alone.judge(step(number, loss)).what == "go_on"


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_that_has_always_been_scattered_may_rise_as_far_as_it_is_scattered(seed: int) -> None:
    chance = random.Random(seed)
    one = guard()
    verdicts = judged(one, [max(0.01, 2.0 + chance.gauss(0, 0.8)) for _ in range(1000)])
    assert set(verdicts[16:]) == {"go_on"}
    assert one.lowest is not None
    assert 5.0 < one.lowest < 15.0


def test_without_deviations_no_finite_loss_is_a_spike() -> None:
    one = guard(spike_deviations=None)
    assert judged(one, [2.0] * 10 + [500.0]) == ["go_on"] * 11
    assert one.judge(step(12, NAN)).what == "skip"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (step(9, NAN), "its loss is nan"),
        (step(9, math.inf), "its loss is inf"),
        (step(9, grad_norm=NAN), "its gradients are not finite"),
        (step(9, 2.6), "its loss of 2.6 is above 2.5, the limit after the steps before it"),
    ],
)
def test_one_unsound_step_is_left_out_and_changes_no_later_judgement(bad: Step, reason: str) -> None:
    one = guard()
    judged(one, [2.0] * 8)
    verdict = one.judge(bad)
    assert (verdict.what, verdict.reason, verdict.threshold) == ("skip", reason, 2.5)
    assert one.skipped == 1
    assert one.judge(step(10)).threshold == 2.5
    assert one.in_a_row == 0


def test_actions_go_from_the_mildest_to_the_strongest_and_then_stop() -> None:
    one = guard()
    judged(one, [2.0] * 8)
    assert judged(one, [NAN] * 8, 9) == ["skip", "skip", "roll_back"] + ["lower_learning_rate"] * 3 + ["stop"] * 2


@pytest.mark.parametrize(
    ("actions", "answers"),
    [
        ([], ["stop"]),
        (["skip"], ["skip", "skip", "stop"]),
        (["roll_back"], ["roll_back", "stop"]),
        (["lower_learning_rate"], ["lower_learning_rate"] * 3 + ["stop"]),
        (["skip", "lower_learning_rate"], ["skip", "skip"] + ["lower_learning_rate"] * 3 + ["stop"]),
    ],
)
def test_only_what_the_spec_names_is_done(actions: list[str], answers: list[str]) -> None:
    assert judged(guard(actions=actions), [NAN] * len(answers)) == answers


def test_a_sound_step_begins_the_count_in_a_row_anew_but_not_the_trouble() -> None:
    one = guard()
    assert judged(one, [NAN, NAN, 2.0, NAN, NAN, 2.0, NAN]) == [
        "skip",
        "skip",
        "go_on",
        "skip",
        "skip",
        "go_on",
        "skip",
    ]
    assert one.trouble is not None
    assert one.trouble.steps == [1, 2, 4, 5, 7]


def test_steps_that_are_unsound_now_and_then_are_left_out_for_ever() -> None:
    """A poisoned row comes once an epoch, and an epoch may be short: going back would not mend it."""
    assert set(judged(guard(), [NAN if number % 4 == 3 else 2.0 for number in range(400)])) == {"go_on", "skip"}


def test_trouble_is_over_after_eight_sound_steps_beyond_it() -> None:
    one = guard(actions=["roll_back"])
    assert judged(one, [NAN]) == ["roll_back"]
    judged(one, [2.0] * 8, 2)
    assert one.trouble is not None
    judged(one, [2.0], 10)
    assert one.trouble is None
    assert judged(one, [NAN], 11) == ["roll_back"]


def test_a_batch_without_labels_is_skipped_and_is_no_trouble() -> None:
    one = guard()
    verdict = one.judge(step(1, NAN, labels=0))
    assert (verdict.what, verdict.reason) == (
        "skip", "no token of its global batch is trained on: all labels are masked",
    )  # fmt: skip
    assert (one.trouble, one.in_a_row, one.skipped) == (None, 0, 1)


def test_a_checkpoint_brings_back_what_later_losses_are_compared_with() -> None:
    one, other = guard(), guard()
    judged(one, [2.0 + 0.01 * number for number in range(20)])
    other.restore(one.state())
    assert other.judge(step(21, 2.6)) == one.judge(step(21, 2.6))
    assert other.state() == one.state()


@given(st.lists(st.floats(0.01, 12.0), max_size=80), st.integers(0, 2**32))
def test_the_limit_lies_above_the_median_and_at_most_where_guessing_is_left_behind(
    losses: list[float], seed: int
) -> None:
    limit = threshold(losses, 10.0, VOCABULARY)
    assert limit is not None
    assert limit <= 1.5 * math.log(VOCABULARY)
    shuffled = list(losses)
    random.Random(seed).shuffle(shuffled)
    assert threshold(shuffled, 10.0, VOCABULARY) == pytest.approx(limit)
    if losses:
        assert limit >= min(statistics.median(losses) + 0.5, 1.5 * math.log(VOCABULARY)) - 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_no_alarm_while_a_healthy_loss_falls(seed: int) -> None:
    """The shape of a run: from 2.5 down to 1.0, batches scattered by a tenth, now and then one by three."""
    chance = random.Random(seed)
    one = guard()
    for number in range(1, 2001):
        mean = 1.0 + 1.5 * math.exp(-number / 100)
        spread = 0.3 if chance.random() < 0.02 else 0.1
        assert one.judge(step(number, max(0.01, mean * (1 + chance.gauss(0, spread))))).what == "go_on"
