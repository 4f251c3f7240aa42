"""Checkpoints of the original Qwen -> directories of the native Qwen2, without running the code that came with them."""
