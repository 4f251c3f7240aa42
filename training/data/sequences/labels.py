"""What a label means."""

IGNORED = -100
"""A position that is not trained on: the ignore_index of torch's cross_entropy."""
