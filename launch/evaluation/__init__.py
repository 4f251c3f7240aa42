"""What an adapter has learnt, beside its base: asked for, run in processes of its own, put together."""

from launch.evaluation.asked import (
    DECLINES,
    MEASURES,
    MODELS,
    Job,
    Model,
    answered,
    chosen,
    decline_pattern,
    precision_here,
    processes_for,
    report,
)

__all__ = [
    "DECLINES",
    "MEASURES",
    "MODELS",
    "Job",
    "Model",
    "answered",
    "chosen",
    "decline_pattern",
    "precision_here",
    "processes_for",
    "report",
]
