"""What the plan becomes in transformers' words."""

import pytest

from tests.launch.conftest import plan_of, spec_of
from training.loop.arguments import warmup_steps


@pytest.mark.parametrize(("steps", "ratio", "expected"), [(100, 0.03, 3), (10, 0.03, 1), (1, 0.03, 0), (2, 0.9, 1)])
def test_the_warm_up_rounds_up_but_leaves_a_step_to_learn_in(steps: int, ratio: float, expected: int) -> None:
    plan = plan_of("1xH200-141GB", 1, spec_of(training={"max_steps": steps, "warmup_ratio": ratio}))
    assert warmup_steps(plan, sequences=1) == expected
