"""One worker.

python -m training SPEC                                                          one GPU, or the CPU
accelerate launch --config_file accelerate_configs/ddp.yaml -m training SPEC     all GPUs
python -m training RUN_DIRECTORY                                                 what `muster run` has prepared
"""

from training.worker import main

if __name__ == "__main__":
    main()
