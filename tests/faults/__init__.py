"""Faults that are put into workers from outside: `sitecustomize` files that a worker's Python finds on PYTHONPATH.

The code under test has no hook for them. Each file wraps `training.loop.trainer.AdapterTrainer` once it is imported.
"""

from pathlib import Path

from tests.conftest import ROOT

_BEFORE_STEP = """\
import importlib.abc, importlib.machinery, os, pathlib, sys

class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "training.loop.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def execute(module):
            run(module)
            _wrap(module.AdapterTrainer)
        spec.loader.exec_module = execute
        return spec

def _wrap(trainer):
    inner = trainer.training_step
    def training_step(self, model, inputs, num_items_in_batch=None):
        step, rank, attempt = self.state.global_step + 1, self.ranks.rank, self.run_dir.last_attempt()
        fault(self, step, rank, attempt)
        return inner(self, model, inputs, num_items_in_batch)
    trainer.training_step = training_step

sys.meta_path.insert(0, _Finder())

def fault(trainer, step, rank, attempt):
"""


def before_steps(folder: Path, body: str) -> dict[str, str]:
    """The environment of workers that run `body` before each micro-batch; it sees trainer, step (from 1), rank and
    attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    (folder / "sitecustomize.py").write_text(_BEFORE_STEP + lines)
    return {"PYTHONPATH": f"{ROOT}:{folder}"}


def held(folder: Path, step: int) -> dict[str, str]:
    """As `before_steps`: workers wait before this step until somebody asks the run to stop, or kills it."""
    body = f"import time\nwhile step == {step} and not trainer.run_dir.stop.exists():\n    time.sleep(0.02)"
    return before_steps(folder, body)
