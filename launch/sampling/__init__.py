"""A node's GPUs and host while a run trains: one light process per node, `python -m launch.sampling`.

It imports neither torch nor pydantic, so that it starts in a tenth of a second and stays under 50 MB.
"""
