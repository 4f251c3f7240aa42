"""What the checks of GPUs say of one simulated machine.

python -m launch.preflight.selftest.gpus SCENARIO    prints its results, where the simulated driver is found
"""

import json
import sys
from pathlib import Path

from launch.machine.hardware import parse_gpus
from launch.model.variants import VARIANTS
from launch.plan import resolve
from launch.preflight.result import Context
from launch.preflight.runner import run_checks
from launch.preflight.selftest.machines import ASKED, MACHINES
from launch.processes import die_with_parent
from launch.rundir import RunDir
from launch.spec import RunSpec


def context_for(gpus: str) -> Context:
    """A small QLoRA run on all GPUs of such a machine."""
    model, data = {"variant": "qwen2.5-7b-instruct", "quantization": "nf4"}, {"train": "train.jsonl", "max_length": 512}
    training = {"micro_batch_size": 1}
    spec = RunSpec.model_validate({"name": "selftest", "model": model, "data": data, "training": training})
    plan = resolve(spec, VARIANTS["qwen2.5-7b-instruct"].architecture, parse_gpus(gpus))
    return Context(plan=plan, run=RunDir(Path("selftest")))


def main(scenario: str) -> None:
    die_with_parent()
    results = run_checks(context_for(MACHINES[scenario].gpus), ASKED)
    print(json.dumps([result.model_dump() for result in results]))


if __name__ == "__main__":
    main(sys.argv[1])
