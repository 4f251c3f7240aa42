"""Held-out loss, and answers to held-out questions and what they are worth."""
