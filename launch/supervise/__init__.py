"""Keeps a run going: one attempt after another, until it is done or nothing can be mended."""
