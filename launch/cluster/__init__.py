"""Slurm as muster uses it: its own commands, what they answer, and the jobs of runs.

commands.py starts them, with deadlines; answers.py reads what they print (pure); controller.py asks for a whole
partition at once; gpus.py and shares.py decide what a node offers a run (pure); job.py is a run's job.json.
"""
