"""From a file of rows to batches of tokens."""
