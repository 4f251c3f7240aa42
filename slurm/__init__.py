"""Shipped scripts for sbatch, found with importlib.resources. Written by python -m launch.render."""
