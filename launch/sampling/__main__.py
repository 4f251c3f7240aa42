"""python -m launch.sampling RUN --gpus N: samples this node until its standard input ends.

Whoever trains starts it, one for each node (training/telemetry/sampling.py). What goes wrong here is a line on
stderr, which is the log of that rank, and never ends the training.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from launch.processes import die_with_parent
from launch.rundir import RunDir
from launch.sampling.driver import Driver
from launch.sampling.sampler import Sampler

# Behind everything that trains.
NICENESS = 10


def main() -> None:
    options = _arguments()
    die_with_parent()
    if options.parent not in (None, os.getppid()):  # it ended before that was asked for
        return
    # They are meant for who trains, who may go on to save; Slurm and a terminal send them to every process of a job.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    run = RunDir(options.run)
    driver = Driver(os.environ.get("CUDA_VISIBLE_DEVICES"), options.gpus)
    sampler = Sampler(run, options.node, driver, options.seconds)
    if options.port is not None:
        from launch.sampling.exporter import Exporter

        sampler.each = Exporter(run, options.name, options.node, options.host, options.port, options.first).sampled
    threading.Thread(target=_end_with_input, args=[sampler], name="end", daemon=True).start()
    sampler.run()


def _end_with_input(sampler: Sampler) -> None:
    sys.stdin.buffer.read()
    sampler.end()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.sampling", description="Sample this node's resources.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="the first N that may be used (default none)")
    parser.add_argument("--seconds", type=float, default=5.0, help="from one sample to the next")
    parser.add_argument("--name", default="", help="the run, as the endpoint calls it")
    parser.add_argument("--node", default=os.uname().nodename, help="this node, as the rows call it")
    parser.add_argument("--port", type=int, help="of the Prometheus endpoint; by default there is none")
    parser.add_argument("--host", default="127.0.0.1", help="the address that it listens on")
    parser.add_argument("--first", action="store_true", help="the endpoint tells of the run's steps as well")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on without samples
        print(f"warning: resources are not sampled any more: {type(error).__name__}: {error}", file=sys.stderr)
        sys.stderr.flush()
    # Not sys.exit: a driver that never answers would hold the interpreter's shutdown.
    sys.stdout.flush()
    os._exit(0)
