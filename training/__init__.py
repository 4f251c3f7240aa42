"""What runs inside each worker. Importing this package imports nothing else; its modules import torch."""

import os

# torch's threads on a CPU meet after each part of a computation, and by default the first ones spin for milliseconds:
# on cores that others use as well they hold up the very thread that they wait for, and a run becomes 10 times slower
# (benchmarks/contention.py). 1,000 spins are what libgomp itself takes where threads are more than cores (libgomp
# manual, GOMP_SPINCOUNT); on a machine of one's own they cost nothing. It is read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
