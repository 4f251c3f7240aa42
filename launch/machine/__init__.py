"""This machine, or a named one: its GPUs, cores and memory, and the workers on it."""
