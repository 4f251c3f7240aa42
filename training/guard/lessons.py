"""What the stability guard has learnt in a run: it outlives a rollback, a restart and a requeue."""

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from launch.rundir.journal import write_text
from training.guard.stability import Trouble


class Lowered(BaseModel):
    """The learning rate from a step on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    from_step: int
    factor: float
    warmup_steps: int

    def warmth(self, position: int) -> float:
        """How far the learning rate has risen again after so many steps."""
        return min(1.0, (position - self.from_step + 1) / (self.warmup_steps + 1))


class OpenTrouble(BaseModel):
    """stability.Trouble, as the file keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: list[int]
    rolled_back: int
    lowered: int


class Lessons(BaseModel):
    """stability.json in the run directory. Steps are counted from 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    left_out: list[int] = []
    """Steps whose global batch is not trained on."""
    lowered: list[Lowered] = []
    trouble: OpenTrouble | None = None
    """What was not over when it was written."""

    def factor(self, position: int) -> float:
        """What the learning rate of the schedule is multiplied by, after `position` steps."""
        so_far = [each for each in self.lowered if each.from_step <= position]
        return math.prod(each.factor for each in so_far) * (so_far[-1].warmth(position) if so_far else 1.0)

    def after_roll_back(self, trouble: Trouble) -> "Lessons":
        """The unsound batches are to blame: they are left out."""
        left_out = sorted({*self.left_out, *trouble.steps})
        return self.model_copy(update={"left_out": left_out, "trouble": _kept(trouble)})

    def after_lowering(self, trouble: Trouble, lowered: Lowered) -> "Lessons":
        """The learning rate is to blame: the batches of this trouble are trained on again."""
        left_out = [step for step in self.left_out if step not in trouble.steps]
        return Lessons(left_out=left_out, lowered=[*self.lowered, lowered], trouble=_kept(trouble))

    def open_trouble(self) -> Trouble | None:
        return None if self.trouble is None else Trouble(**self.trouble.model_dump())


def _kept(trouble: Trouble) -> OpenTrouble:
    return OpenTrouble(steps=trouble.steps, rolled_back=trouble.rolled_back, lowered=trouble.lowered)


def read_lessons(path: Path) -> Lessons:
    """Those of a run; none where it had no trouble."""
    try:
        return Lessons.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Lessons()


def write_lessons(path: Path, lessons: Lessons) -> None:
    write_text(path, lessons.model_dump_json(indent=2) + "\n")
