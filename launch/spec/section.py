"""What every part of the spec is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# What products of several of them can be computed with, and what torch and C count in 64 bits.
MOST = 10**9
PositiveInt = Annotated[int, Field(gt=0, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
# What fp32 holds (1e-38 to 3e38), with room for what is computed with it.
SMALLEST, LARGEST = 1e-30, 1e30
PositiveFloat = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=LARGEST)]
# Eleven days. C's timers count milliseconds in 32 bits: no wait can be longer than 24.
LONGEST = 1_000_000
Seconds = Annotated[float, Field(ge=0.001, le=LONGEST)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of the spec. Unknown keys are errors and values are never converted (strict)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
