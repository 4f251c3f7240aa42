"""python -m tests.slurm --nodes 3 --shell    a Slurm to try things on, from the clone, as root"""

import argparse
import os
import shlex
import signal
import subprocess
import sys

from tests.slurm.cluster import Cluster, missing


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.slurm", description="Starts a Slurm to try things on.")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--gpus-per-node", type=int, default=0)
    parser.add_argument("--cpus", type=int, default=2, help="of each node, as Slurm counts them")
    parser.add_argument("--shell", action="store_true", help="a shell whose exit ends the cluster; else Ctrl-C ends it")
    chosen = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell starts what it puts into the background with SIGINT ignored, and Python leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Cluster(chosen.nodes, gpus_per_node=chosen.gpus_per_node, cpus=chosen.cpus) as cluster:
        print(f"export SLURM_CONF={cluster.directory}/slurm.conf", flush=True)
        for name in ["login", *cluster.names]:
            print(f"# a shell on {name}: {shlex.join(cluster.argv_on(name, ['bash']))}", flush=True)
        if chosen.shell:
            subprocess.run([os.environ.get("SHELL", "bash")], env=cluster.environment(), check=False)
            return
        try:
            signal.pause()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
