"""Plans to check, as values."""

from pathlib import Path

from launch.plan import Plan
from launch.preflight import Context
from launch.rundir import RunDir
from tests.launch.conftest import CPU, plan_of, spec_of

SMALL = {"max_length": 512}
ON_CPU = plan_of(CPU, 1, spec_of("qwen2.5-7b-instruct", data=SMALL, training={"micro_batch_size": 1}))
ON_GPUS = plan_of("2xA100-80GB", 1, spec_of("qwen2.5-7b-instruct", data=SMALL))


def context(plan: Plan, root: Path = Path("/tmp/demo")) -> Context:
    return Context(plan=plan, run=RunDir(root))


def of_model(variant: str | Path) -> Context:
    spec = ON_CPU.spec.model_copy(update={"model": ON_CPU.spec.model.model_copy(update={"variant": str(variant)})})
    return context(ON_CPU.model_copy(update={"spec": spec}))
