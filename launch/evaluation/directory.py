"""The name of every file that one `muster evaluate` leaves behind, as rundir/paths.py has those of a run."""

import shutil
from pathlib import Path

from launch.rundir import RankFiles


class Evaluation(RankFiles):
    @property
    def job(self) -> Path:
        """What was asked for, as the processes read it."""
        return self.root / "job.json"

    @property
    def quarantine(self) -> Path:
        """Rows that were left out, each with its errors."""
        return self.root / "quarantine.jsonl"

    @property
    def report(self) -> Path:
        """The numbers of base and adapter."""
        return self.root / "report.json"

    @property
    def answers(self) -> Path:
        """A row per question: the reference, what base and adapter answered, and how each was judged."""
        return self.root / "answers.jsonl"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    def found(self, rank: int) -> Path:
        """What one process has found so far."""
        return self.root / f"rank-{rank}.jsonl"

    def unfinished(self) -> bool:
        """Whether nothing is there but what an evaluation that failed has left."""
        return not self.report.exists() and set(self.root.iterdir()) == set(self._leftovers())

    def clear(self) -> None:
        """Removes what an evaluation that failed has left."""
        for path in self._leftovers():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _leftovers(self) -> list[Path]:
        ours = ("job.json", "tokens", "quarantine.jsonl", "rank-*.jsonl", "rank-*.log", "failure-rank-*.json")
        return [path for pattern in ours for path in self.root.glob(pattern)]
