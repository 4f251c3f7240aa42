"""Slurm as muster uses it: its own commands, what they answer, and the jobs of runs.

commands.py starts them, with deadlines; answers.py reads what they print (pure); controller.py asks for a whole
partition at once, queue.py for one job; gpus.py and shares.py decide what a node offers a run (pure); storage.py tells
whether other nodes see a folder; job.py is a run's job.json. allocation.py is the job around this process, container.py
what its steps run in.
"""
