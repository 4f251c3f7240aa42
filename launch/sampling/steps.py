"""The newest values of metrics.jsonl, which another process appends to and, after a resume, writes anew."""

from pathlib import Path

from launch.rundir.tail import Tail

# Of a long run: some thousand rows, more than any one interval of evaluations is likely to have.
LAST_BYTES = 1 << 20


class Newest:
    """The last value of each key that is a number; a look costs what is new since the one before."""

    def __init__(self, path: Path):
        self.tail = Tail(path, last=LAST_BYTES)
        self.values: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        for row in self.tail.rows():
            for key, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self.values[key] = value
                elif value is None:
                    self.values.pop(key, None)
        return self.values
