"""One worker.

python -m training SPEC                                                          one GPU, or the CPU
accelerate launch --config_file accelerate_configs/ddp.yaml -m training SPEC     all GPUs
python -m training RUN_DIRECTORY                                                 what `muster run` has prepared
"""

import os

from launch.processes import die_with_parent

# Ranks whose launcher is gone would train on, or wait for one another for ever; imports alone take seconds.
if "LOCAL_RANK" in os.environ:
    die_with_parent()

from training.worker import main

if __name__ == "__main__":
    main()
