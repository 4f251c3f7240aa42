"""A spec, a model and a machine become a plan: what will run, why, and what it will cost."""

from launch.plan.plan import Plan, as_launched, conflicts, differences, resolve

__all__ = ["Plan", "as_launched", "conflicts", "differences", "resolve"]
