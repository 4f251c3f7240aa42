"""Checks that a run can work here, before anything is spent on it.

Each check is a Check of one family's module: what it finds, its threshold, when it concerns a run. `run_checks` runs
those of `CHECKS` apart from one another. What could not be read is `unknown`, never `pass`.
"""

from launch.preflight.check import Check
from launch.preflight.registry import CHECKS, LISTED
from launch.preflight.result import Context, Result, Status, document, problem, require, sentence, verdict
from launch.preflight.rows import rows
from launch.preflight.runner import accept, run_checks

__all__ = [
    "CHECKS", "LISTED", "Check", "Context", "Result", "Status", "accept", "document", "problem", "require", "rows",
    "run_checks", "sentence", "verdict",
]  # fmt: skip
