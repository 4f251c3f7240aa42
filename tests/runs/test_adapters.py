"""The ways to adapt the base, under the strategies that divide something, as real runs on CPU.

The losses of two ranks are compared with those of one process, whose engine has nothing to divide.
"""

import json
import shutil
from typing import Any

import pytest

from tests.conftest import Workspace, muster, read_rows
from tests.faults import before_steps
from tests.runs.short_runs import STEPS, assert_same_training, trained

# Options that do not meet one another, in as few runs as hold them all.
ADAPTERS: dict[str, dict[str, dict[str, Any]]] = {
    "whole": {
        "lora": {"use_dora": True, "loraplus_lr_ratio": 4.0, "modules_to_save": ["embed_tokens", "lm_head"]},
    },
    "packed": {
        "model": {"quantization": "nf4"},
        "lora": {"init_lora_weights": "loftq", "target_modules": r".*(q|v|up)_proj", "modules_to_save": ["lm_head"]},
    },
    "held": {
        "model": {"quantization": "nf4", "double_quantization": False, "attention": "eager"},
        "lora": {"precision": "bf16"},
        "data": {"packing": True},
    },
}  # fmt: skip
# benchmarks/cells.py runs each option under each strategy.
ALLOWED = [("whole", "zero2"), ("whole", "fsdp2"), ("packed", "zero3"), ("packed", "fsdp2")]


@pytest.mark.parametrize(("adapter", "strategy"), ALLOWED)
def test_an_adapter_with_options_trains_as_on_one_device(wide: Workspace, adapter: str, strategy: str) -> None:
    reference = trained(wide, "single", ADAPTERS[adapter], adapter)
    run = trained(wide, strategy, ADAPTERS[adapter], adapter)
    assert_same_training(run, reference)
    saved = json.loads((run / "adapter/adapter_config.json").read_text())
    assert saved["use_dora"] == (adapter == "whole")


def test_a_worker_has_the_attention_the_constants_and_the_adapter_that_the_spec_asks_for(wide: Workspace) -> None:
    """Packed rows do not see one another under eager attention either: its losses are those of sdpa."""
    asked = ADAPTERS["held"]
    sdpa = {**asked, "model": {**asked["model"], "attention": "auto"}}
    runs = [
        trained(wide, "single", asked, "held"),
        trained(wide, "ddp", asked, "held"),
        trained(wide, "single", sdpa, "held-sdpa"),
    ]
    told = [next(row for row in read_rows(run / "events.jsonl") if row["event"] == "verified") for run in runs]
    assert [row["attention"] for row in told] == ["eager", "eager", "varlen"]
    assert {(row["quantization"], row["adapter_precision"]) for row in told} == {("nf4", "bf16")}
    for run in runs[1:]:
        assert_same_training(run, runs[0], tolerance=2e-3)  # bf16 keeps three digits


OWN_THREAD = """
import threading, torch
if not hasattr(torch.nn.Module, "asked"):
    torch.nn.Module.asked = inner = torch.nn.Module.state_dict
    def state_dict(self, *given, **named):
        assert threading.current_thread() is threading.main_thread(), "asked while the model computes"
        return inner(self, *given, **named)
    torch.nn.Module.state_dict = state_dict
"""


def test_a_save_that_goes_on_beside_the_training_asks_the_model_for_nothing(wide: Workspace) -> None:
    """Under FSDP2 state_dict takes parameters apart that the other thread has just put together: from then on this
    rank exchanges something else than the others, and one of them aborts."""
    sections = {**STEPS, **ADAPTERS["whole"], "cluster": {"strategy": "single", "devices_per_node": 1, "device": "cpu"}}
    watched = before_steps(wide.root / "watched", OWN_THREAD)
    run = wide.root / "beside"
    done = muster("run", wide.spec("beside", **sections), "--run-dir", run, "-s", "recovery.restarts=0", **watched)
    assert done.code == 0, done.err
    assert [row["step"] for row in read_rows(run / "events.jsonl") if row["event"] == "saved"] == [2, 4]


@pytest.mark.parametrize(("adapter", "strategy"), [("held", "single"), ("whole", "fsdp2")])
def test_a_run_with_options_goes_on_as_if_it_had_not_stopped(wide: Workspace, adapter: str, strategy: str) -> None:
    """Stopped after two of four steps, by taking away what came later."""
    whole = trained(wide, strategy, ADAPTERS[adapter], adapter)
    run = wide.root / f"{adapter}-{strategy}-resumed"
    shutil.copytree(whole, run)
    for name in ("adapter", "checkpoints/step-000004"):
        shutil.rmtree(run / name)
    done = muster("run", wide.root / f"{adapter}-{strategy}.yaml", "--run-dir", run)
    assert done.code == 0, done.err
    assert [row["step"] for row in read_rows(run / "events.jsonl") if row["event"] == "resumed"] == [2]
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()
