"""Checks that a run can work here, before anything is spent on it.

A check is a function of a Context that returns one Result; `run_checks` runs each of CHECKS. What could not be read is
`unknown`, never `pass`.
"""

from launch.preflight.checks import CHECKS
from launch.preflight.result import Context, Result, Status, document, problem, require, run_checks, verdict
from launch.preflight.rows import rows

__all__ = ["CHECKS", "Context", "Result", "Status", "document", "problem", "require", "rows", "run_checks", "verdict"]
