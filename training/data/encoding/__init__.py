"""Samples -> tokens: tokenizer and chat template, what is trained on, and what is cut where a row is too long."""
