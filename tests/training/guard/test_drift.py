"""Slow drifts, each from the numbers that show it."""

import math
import random
from collections.abc import Iterable

import pytest

from launch.spec import Strategy
from tests.launch.conftest import plan_of
from training.guard.drift import Drift, Drifting
from training.guard.gate import Outcome
from training.guard.stability import Step, Verdict
from training.ranks.control import Agreement, Memory

PLAN = plan_of("2xA100-80GB")


def drift(strategy: Strategy = "ddp") -> Drift:
    return Drift(PLAN.model_copy(update={"strategy": strategy}))


def ended(
    number: int, loss: float = 2.0, norm: float = 1.0, own: tuple[float, ...] = (1.0, 1.0), labels: int = 9
) -> Outcome:
    agreed = Agreement(False, [], loss, norm, list(own), Memory())
    what = Verdict("go_on" if labels else "skip")
    return Outcome(agreed, Step(number, loss, norm, labels), what, {})


def told(one: Drift, outcomes: Iterable[Outcome], learning_rate: float = 1e-4) -> list[tuple[int, Drifting]]:
    """(step, warning) of each."""
    return [
        (number, each)
        for number, outcome in enumerate(outcomes, 1)
        for each in one.after_step(outcome, number, learning_rate, last=False)
    ]


def falling(number: int) -> float:
    return 1.0 + math.exp(-number / 50)


def test_gradients_that_grow_tenfold_are_told_once() -> None:
    ((step, warning),) = told(drift(), (ended(n, falling(n), 0.5 * 1.05**n) for n in range(1, 400)))
    assert (warning.kind, step) == ("gradients_grow", 129)
    assert warning.message == "the gradients' norm grows: 18.1 -> 188 in 64 steps"
    assert warning.advice.startswith("lower training.learning_rate")


@pytest.mark.parametrize("factor", [0.05, 30.0])
def test_gradients_that_jump_once_are_no_growth(factor: float) -> None:
    norms = (factor if n > 200 else 1.0 for n in range(1, 400))
    assert not told(drift(), (ended(n, falling(n), norm) for n, norm in enumerate(norms, 1)))


def test_a_loss_that_stays_where_it_began_is_told_after_64_steps() -> None:
    chance = random.Random(0)
    ((step, warning),) = told(drift(), (ended(n, 2 + chance.gauss(0, 0.1)) for n in range(1, 200)))
    assert (warning.kind, step) == ("loss_flat", 64)
    assert "after 64 steps the loss is where it began: " in warning.message


def test_a_loss_that_is_above_where_it_began_is_not_called_flat() -> None:
    """What helps is the contrary of what helps against a flat one."""
    ((step, warning),) = told(drift(), (ended(n, 2 + 0.01 * n) for n in range(1, 200)))
    assert (warning.kind, step) == ("loss_risen", 64)
    assert warning.message == "after 64 steps the loss is above where it began: 2.085 -> 2.565"
    assert "too high" in warning.advice


def test_how_a_run_began_outlives_its_attempt() -> None:
    one, other = drift(), drift()
    losses = [2.0 + 0.01 * (number % 3) for number in range(80)]
    for number in range(1, 41):
        assert not one.after_step(ended(number, losses[number]), number, 1e-4, last=False)
    other.restore(one.state())
    found = [other.after_step(ended(number, losses[number]), number, 1e-4, last=False) for number in range(41, 80)]
    assert [(41 + place, each.kind) for place, every in enumerate(found) for each in every] == [(64, "loss_flat")]


@pytest.mark.parametrize(
    ("resumed", "steps", "expected"), [(70, 100, [(86, "loss_flat")]), (63, 100, [(79, "loss_flat")]), (19, 20, [])]
)
def test_the_first_steps_of_a_resumed_run_are_too_few_to_judge_it_by(
    resumed: int, steps: int, expected: list[tuple[int, str]]
) -> None:
    """Whatever the step that it goes on from, and where that is its last one."""
    one, other = drift(), drift()
    for number in range(1, resumed + 1):
        one.after_step(ended(number, 2.0 + 0.01 * (number % 3)), number, 1e-4, last=False)
    other.restore(one.state())
    found = [
        (number, each.kind)
        for number in range(resumed + 1, steps + 1)
        for each in other.after_step(ended(number, 2.0 + 0.01 * (number % 3)), number, 1e-4, last=number == steps)
    ]
    assert found == expected


def test_gradients_of_a_resumed_run_have_vanished_only_after_as_many_steps() -> None:
    one, other = drift(), drift()
    for number in range(1, 31):
        one.after_step(ended(number, 2.0), number, 1e-4, last=False)
    other.restore(one.state())
    found = [(n, each.kind) for n in range(31, 45) for each in other.after_step(ended(n, 2.0, 0.001), n, 1e-4, False)]
    assert found == [(38, "gradients_vanish")]


@pytest.mark.parametrize("seed", range(20))
def test_a_loss_that_falls_is_not_flat(seed: int) -> None:
    chance = random.Random(seed)
    assert not told(drift(), (ended(n, falling(n) * (1 + chance.gauss(0, 0.1))) for n in range(1, 400)))


def test_a_learning_rate_of_zero_is_told_at_the_second_step() -> None:
    one = drift()
    ((step, warning),) = told(one, (ended(n, falling(n)) for n in range(1, 20)), learning_rate=0.0)
    assert (step, warning.kind) == (2, "learning_rate_zero")


def test_a_warm_up_begins_and_a_schedule_ends_with_zero() -> None:
    one = drift()
    rates = [0.0, 1e-4, 1e-4, 0.0]
    assert not [w for n, rate in enumerate(rates, 1) for w in one.after_step(ended(n), n, rate, last=n == 4)]


def test_a_batch_without_labels_is_told_once() -> None:
    ((step, warning),) = told(drift(), (ended(n, labels=0 if n in (3, 5) else 9) for n in range(1, 10)))
    assert (step, warning.kind) == (3, "labels_masked")


@pytest.mark.parametrize(
    ("strategy", "what"),
    [("ddp", "it reads its data and makes its forward passes in 1.3 s a step, the others in 1 s"),
     ("zero3", "it reads its data in 1.3 s a step, the others in 1 s")],
)  # fmt: skip
def test_a_rank_that_is_always_last_is_named(strategy: Strategy, what: str) -> None:
    times = [(1.0, 1.3) if n % 20 else (1.0, 1.0) for n in range(1, 100)]
    ((step, warning),) = told(drift(strategy), (ended(n, falling(n), own=own) for n, own in enumerate(times, 1)))
    assert (step, warning.kind) == (64, "rank_last")
    assert warning.message == f"rank 1 is always last: {what}"


def test_ranks_that_take_turns_are_fine() -> None:
    chance = random.Random(0)
    times = [tuple(1 + chance.random() for _ in range(2)) for _ in range(300)]
    assert not told(drift(), (ended(n, falling(n), own=own) for n, own in enumerate(times, 1)))


def rows(*rates: float, seconds: float = 30.0) -> list[Drifting]:
    one = drift()
    found = ((number * seconds, rate) for number, rate in enumerate(rates))
    return [warning for time, rate in found for warning in one.after_log({"time": time, "tokens_per_second": rate})]


def test_tokens_a_second_that_fall_by_a_third_and_stay_there() -> None:
    (warning,) = rows(*[1000.0] * 8, 600, 610, 620)
    assert warning.kind == "slower"
    assert warning.message == "tokens/s have fallen by 38%: 1,000 -> 620"


def test_one_slow_row_and_rows_of_steps_that_were_left_out_are_no_fall() -> None:
    assert not rows(*[1000.0] * 8, 600, 610, 900, 600, 1000)
    assert not rows(*[1000.0] * 8, 0, 0, 0, 0)


def test_a_slow_minute_is_not_half_a_minute() -> None:
    assert not rows(*[1000.0] * 8, 600, 610, 620, seconds=19)


def test_an_adapter_that_has_died_is_told() -> None:
    """The loss has settled where it began, and no gradient says which way is better."""
    outcomes = (ended(n, 2.0, 1.0 if n < 12 else 0.004) for n in range(1, 60))
    ((step, warning),) = told(drift(), outcomes)
    assert (step, warning.kind) == (19, "gradients_vanish")
    assert "their norm was 1 and is 0.004" in warning.message


def test_small_gradients_of_a_run_that_has_learnt_are_no_death() -> None:
    assert not told(drift(), (ended(n, 2 * falling(n), 1.0 if n < 40 else 0.004) for n in range(1, 200)))


def test_a_short_run_is_asked_at_its_end_whether_it_has_learnt() -> None:
    def kinds(losses: list[float]) -> set[str]:
        one = drift()
        every = [one.after_step(ended(n, loss), n, 1e-4, last=n == len(losses)) for n, loss in enumerate(losses, 1)]
        return {warning.kind for found in every for warning in found}

    assert kinds([2.0 + 0.01 * (n % 3) for n in range(22)]) == {"loss_flat"}
    assert not kinds([2.0 - 0.02 * n for n in range(22)])
    assert not kinds([2.0 + 0.01 * (n % 3) for n in range(12)])


def test_a_row_that_is_in_every_batch_that_is_left_out_is_named_once() -> None:
    one = drift()
    assert not one.after_skip(3, ["a", "b", "poison"])
    (warning,) = one.after_skip(9, ["c", "poison"])
    assert warning.message == "more than one step was left out with poison in its batch"
    assert not one.after_skip(12, ["d", "poison"])


def test_a_step_that_is_tried_again_makes_no_row_suspect() -> None:
    one = drift()
    assert not one.after_skip(3, ["a", "b"])
    assert not one.after_skip(3, ["a", "b"])
    assert [each.kind for each in one.after_skip(4, ["b", "c"])] == ["row_suspect"]
