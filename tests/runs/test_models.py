"""The ways to hold the base and to adapt it, under the strategies that divide something, as real runs on CPU.

The losses of two ranks are compared with those of one process, whose engine has nothing to divide.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Workspace, losses, make_base, muster, read_rows
from tests.training.original.checkpoint import random_tensors, write_checkpoint

STEPS = {"training": {"max_steps": 4, "epochs": None, "save_steps": 2}}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def wide(base_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A base whose every width is a multiple of 64, as bitsandbytes' CPU kernels need and all real models have."""
    root = tmp_path_factory.mktemp("wide")
    make_base(root / "base", intermediate_size=128)
    for name in ("train.jsonl", "eval.jsonl"):
        (root / name).symlink_to(base_workspace.root / name)
    return Workspace(root)


def trained(workspace: Workspace, strategy: str, sections: dict[str, dict[str, Any]], name: str) -> Path:
    """The run directory of a few steps; the same one for the same name."""
    run = workspace.root / f"{name}-{strategy}"
    if not run.exists():
        cluster = {"strategy": strategy, "devices_per_node": 1 if strategy == "single" else 2, "device": "cpu"}
        merged = {**STEPS, **sections, "cluster": cluster}
        merged["training"] = {**STEPS["training"], **sections.get("training", {})}
        done = muster("run", workspace.spec(f"{name}-{strategy}", **merged), "--run-dir", run)
        assert done.code == 0, done.err
    observed = next(row for row in read_rows(run / "events.jsonl") if row["event"] == "verified")
    assert (observed["engine"], observed["world_size"]) == (strategy, 1 if strategy == "single" else 2)
    return run


def assert_same_training(run: Path, reference: Path) -> None:
    """Losses of the steps, and the evaluations before and after."""
    found, expected = ([*losses(path), *evaluations(path)] for path in (run, reference))
    assert len(found) == len(expected) == 6
    assert found == pytest.approx(expected, rel=TOLERANCE)


def evaluations(run: Path) -> list[float]:
    return [row["eval_loss"] for row in read_rows(run / "metrics.jsonl") if "eval_loss" in row]


# nf4 under the other strategies is among the adapters' options below.
QUANTISED = [
    ("nf4", "ddp"), ("nf4", "zero2"),
    ("int8", "ddp"), ("int8", "zero2"), ("int8", "zero3"), ("int8", "zero2_offload"),
]  # fmt: skip


@pytest.mark.parametrize(("quantization", "strategy"), QUANTISED)
def test_a_quantised_base_trains_as_on_one_device(wide: Workspace, quantization: str, strategy: str) -> None:
    sections = {"model": {"quantization": quantization}}
    reference = trained(wide, "single", sections, quantization)
    assert evaluations(reference)[-1] < evaluations(reference)[0]
    assert_same_training(trained(wide, strategy, sections, quantization), reference)


# Options that do not meet one another, in as few runs as hold them all.
ADAPTERS: dict[str, dict[str, dict[str, Any]]] = {
    "whole": {
        "lora": {"use_dora": True, "loraplus_lr_ratio": 4.0, "modules_to_save": ["embed_tokens", "lm_head"]},
    },
    "principal": {
        "lora": {"init_lora_weights": "pissa", "use_rslora": True, "layers_to_transform": [1], "bias": "all"},
        "training": {"extra": {"neftune_noise_alpha": 5.0}},
    },
    "packed": {
        "model": {"quantization": "nf4"},
        "lora": {"init_lora_weights": "loftq", "target_modules": r".*(q|v|up)_proj", "modules_to_save": ["lm_head"]},
    },
}  # fmt: skip
ALLOWED = [
    ("whole", "zero2"), ("whole", "zero3"), ("whole", "fsdp2"),
    ("principal", "zero2"), ("principal", "fsdp2"),
    ("packed", "zero2_offload"), ("packed", "zero3"), ("packed", "fsdp2"),
]  # fmt: skip


@pytest.mark.parametrize(("adapter", "strategy"), ALLOWED)
def test_an_adapter_with_options_trains_as_on_one_device(wide: Workspace, adapter: str, strategy: str) -> None:
    if adapter == "principal":  # noise is drawn for each rank, so that two ranks are compared with two
        reference = trained(wide, "ddp", ADAPTERS[adapter], adapter)
    else:
        reference = trained(wide, "single", ADAPTERS[adapter], adapter)
    run = trained(wide, strategy, ADAPTERS[adapter], adapter)
    assert_same_training(run, reference)
    saved = json.loads((run / "adapter/adapter_config.json").read_text())
    assert saved["use_dora"] == (adapter == "whole")


@pytest.mark.parametrize(("adapter", "strategy"), [("whole", "fsdp2"), ("principal", "zero2"), ("packed", "zero3")])
def test_a_run_with_options_goes_on_as_if_it_had_not_stopped(wide: Workspace, adapter: str, strategy: str) -> None:
    """Stopped after two of four steps, by taking away what came later."""
    import shutil

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


@pytest.mark.parametrize("kind", ["qwen3", "llama", "mistral"])
def test_each_architecture_learns(workspace: Workspace, kind: str) -> None:
    make_base(workspace.root / kind, kind)
    run = trained(workspace, "single", {"model": {"variant": str(workspace.root / kind)}}, kind)
    assert evaluations(run)[-1] < evaluations(run)[0]


def test_an_original_checkpoint_is_trained_from_where_it_is(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported at its first use, without a word of its code; the second run finds it."""
    monkeypatch.setenv("HF_HOME", str(workspace.root / "hf"))
    source = write_checkpoint(
        workspace.root / "Qwen-7B-Chat", random_tensors(), seq_length=512, max_position_embeddings=512
    )
    sections = {"model": {"variant": str(source)}, "training": {"micro_batch_size": 1}}
    first = trained(workspace, "single", sections, "first")
    (imported,) = (path for path in (workspace.root / "hf/muster").iterdir() if path.is_dir())
    assert evaluations(first)[-1] < evaluations(first)[0]
    again = trained(workspace, "single", {**sections, "model": {"variant": str(imported)}}, "imported")
    assert losses(again) == losses(first)
