"""Whether a step may change the adapter, and what follows when it may not."""
