"""Somebody's own accelerate YAML and DeepSpeed JSON against each other and against a plan, with file and line."""

from launch.consistency.check import check, strategy_of
from launch.consistency.given import Given, Problem, given

__all__ = ["Given", "Problem", "check", "given", "strategy_of"]
