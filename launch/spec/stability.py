"""StabilitySpec: what follows a step whose loss or gradients are not sound."""

from typing import Annotated, Literal

from pydantic import Field

from launch.spec.section import MOST, SMALLEST, Count, PositiveFloat, PositiveInt, Section

Action = Literal["skip", "roll_back", "lower_learning_rate"]
# From the mildest to the strongest; a stop with exit 7 comes after the last one.
ACTIONS: tuple[Action, ...] = ("skip", "roll_back", "lower_learning_rate")


class StabilitySpec(Section):
    """What follows when a step's loss or gradients are not finite, or its loss is far above those before it
    (docs/stability.md)."""

    actions: list[Action] = Field(default=list(ACTIONS))
    """What is tried, one after the other, before the run stops with exit 7: `skip` leaves the step's update out,
    `roll_back` goes back to the last checkpoint before it and leaves its global batch out, `lower_learning_rate` goes
    back too, and on with a smaller learning rate. An empty list stops at once."""
    window: Annotated[int, Field(ge=8, le=MOST)] = 64
    """Optimizer steps before it that a loss is compared with."""
    spike_deviations: PositiveFloat | None = 10.0
    """A loss is a spike when it is this many standard deviations above the median of the window, and at least 0.5; the
    deviation is 1.4826 times the median distance from the median. `null` judges no finite loss."""
    skips_in_a_row: PositiveInt = 2
    """Steps in a row that may be left out; the next one is answered by the next action."""
    learning_rate_factor: Annotated[float, Field(ge=SMALLEST, lt=1)] = 0.5
    """What each `lower_learning_rate` multiplies the learning rate by."""
    rewarm_steps: Count = 10
    """Optimizer steps over which the smaller learning rate rises from 0."""
    reductions: PositiveInt = 3
    """Times that the learning rate is lowered for the same trouble."""


def conflicts(stability: StabilitySpec) -> list[tuple[tuple[str, ...], str]]:
    """Values that cannot hold, and values that nothing reads, each with its path in the spec."""
    found: list[tuple[tuple[str, ...], str]] = []
    ordered = [action for action in ACTIONS if action in stability.actions]
    if stability.actions != ordered:
        message = f"each action once, from the mildest to the strongest: {', '.join(ordered)}"
        found.append((("stability", "actions"), message))
    readers: dict[str, Action] = {
        "skips_in_a_row": "skip",
        "learning_rate_factor": "lower_learning_rate",
        "rewarm_steps": "lower_learning_rate",
        "reductions": "lower_learning_rate",
    }
    for key, action in readers.items():
        if key in stability.model_fields_set and action not in stability.actions:
            found.append((("stability", key), f"nothing reads this without {action} in stability.actions; remove it"))
    return found
