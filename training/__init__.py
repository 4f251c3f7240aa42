"""What runs inside each worker. Importing this package imports nothing else; its modules import torch."""

import os

# torch's threads on a CPU meet after each part of a computation, and by default the first ones spin for milliseconds:
# on cores that others use as well they hold up the very thread that they wait for. Beside one busy process a run makes
# 1.4 times as many steps with 1,000 spins, and on a machine of one's own 3 % fewer (benchmarks/contention.py). libgomp
# itself spins no longer than that where threads are more than cores (libgomp manual, GOMP_SPINCOUNT). It reads this
# when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
