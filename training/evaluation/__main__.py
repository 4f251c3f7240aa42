"""One process of `muster evaluate`: python -m training.evaluation DIRECTORY RANK.

Reads the job from the directory and writes what it finds beside it. Processes have nothing to say to one another.
"""

import logging
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from launch.diagnosis.exceptions import failure
from launch.errors import MusterError
from launch.evaluation import Job
from launch.evaluation.directory import Evaluation
from launch.rundir.journal import append, write_json
from training.imports import importing


def main() -> int:
    place, rank = Evaluation(Path(sys.argv[1])), int(sys.argv[2])
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says that a kernel for inference is not installed
    try:
        job = Job.model_validate_json(place.job.read_text(encoding="utf-8"))
        with importing(job.unused):
            from training.evaluation.both_models import evaluated

        for row in evaluated(job, rank):
            append(place.found(rank), row)
    except BaseException as error:  # noqa: BLE001 - whatever ends a process has to be reported
        if not isinstance(error, MusterError):
            traceback.print_exc()
        told = failure(rank, error)
        with suppress(OSError):  # a full disk: the exit code is all that can be left
            write_json(place.failure(rank), told)
        return int(told["exit_code"])
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
