"""transformers' loop, and what happens in it: resume, rollback, metrics, the largest batch first."""
