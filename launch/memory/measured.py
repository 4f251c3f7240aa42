"""What a run's largest batch took, beside the forecast for that batch."""

from pydantic import BaseModel, ConfigDict

from launch.machine.hardware import GIB

# A forecast further off than this share of what was measured is an event of its own.
TOLERANCE = 0.1
# A process's resident memory has Python's and torch's libraries in it as well, of which machines keep more or less in
# memory for the same run: 0.54 to 0.61 GiB for a small model on two of them.
LIBRARIES = int(0.1 * GIB)


class Measured(BaseModel):
    """Of the rank that took most. Bytes; None for what cannot be read where it ran."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int
    """Tokens of the longest sequence to train on, which may be fewer than data.max_length."""
    evaluation_length: int | None = None
    """And to evaluate on; None without data.eval."""
    answer_length: int | None = None
    """Of the longest question to answer, with its answer; None without training.eval_samples."""
    seconds: float
    peak_bytes: int | None
    """torch.cuda.max_memory_allocated; without a GPU None."""
    reserved_bytes: int | None
    """torch.cuda.max_memory_reserved."""
    process_bytes: int | None
    """On a GPU what the driver says of the process, on a CPU its resident memory at its most."""
    forecast_bytes: int
    """Of the number that `compared` compares, for sequences of these lengths."""

    @property
    def compared(self) -> int | None:
        """peak_bytes, which the forecast is most exact about; the process's where torch does not count."""
        return self.peak_bytes if self.peak_bytes is not None else self.process_bytes

    @property
    def error(self) -> float | None:
        """(forecast - measured) / measured: above 0 where the forecast was too large."""
        return None if not self.compared else self.forecast_bytes / self.compared - 1

    @property
    def surprising(self) -> bool:
        """Off by more than TOLERANCE, and on a CPU by more than its libraries may differ as well."""
        if not self.compared:
            return False
        spread = LIBRARIES if self.peak_bytes is None else 0
        return abs(self.forecast_bytes - self.compared) > TOLERANCE * self.compared + spread
