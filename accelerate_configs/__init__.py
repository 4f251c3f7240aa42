"""Shipped accelerate configs, found with importlib.resources. Written by python -m launch.render."""
