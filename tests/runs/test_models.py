"""The ways to hold the base, under the strategies that divide something, as real runs on CPU.

The losses of two ranks are compared with those of one process, whose engine has nothing to divide.
"""

import json

import pytest

from tests.conftest import Workspace, make_base, muster, read_rows
from tests.runs.short_runs import assert_same_training, evaluations, trained
from tests.training.original.checkpoint import random_tensors, write_checkpoint

# nf4 under zero3 and fsdp2 is among the adapters' options; benchmarks/cells.py runs all cells.
QUANTISED = [
    ("nf4", "ddp"), ("int8", "zero3"),
]  # fmt: skip
# An answer at each evaluation.
SAMPLES = {"eval_samples": 1, "eval_max_new_tokens": 4}


@pytest.mark.parametrize(("quantization", "strategy"), QUANTISED)
def test_a_quantised_base_trains_as_on_one_device(wide: Workspace, quantization: str, strategy: str) -> None:
    sections = {"model": {"quantization": quantization}}
    reference = trained(wide, "single", sections, quantization)
    assert evaluations(reference)[-1] < evaluations(reference)[0]
    assert_same_training(trained(wide, strategy, sections, quantization), reference)


def test_an_nf4_base_is_evaluated_as_it_was_trained(wide: Workspace) -> None:
    run = trained(wide, "single", {"model": {"quantization": "nf4"}}, "nf4")  # the reference above
    done = muster("evaluate", run / "checkpoints/step-000002", "--limit", 0, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["quantization"], found["step"]) == ("nf4", 2)
    assert found["base"]["loss"] == pytest.approx(evaluations(run)[0], rel=1e-5)
    assert found["adapter"]["loss"] < found["base"]["loss"]
    assert found["questions"] == 0


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "llama"])
def test_each_architecture_learns(workspace: Workspace, kind: str) -> None:
    make_base(workspace.root / kind, kind)
    sections = {"model": {"variant": str(workspace.root / kind)}, "training": SAMPLES}
    run = trained(workspace, "single", sections, kind)
    assert evaluations(run)[-1] < evaluations(run)[0]
    assert [(row["step"], row["tokens"] <= 4) for row in read_rows(run / "answers.jsonl")] == [(0, True), (4, True)]


def test_an_original_checkpoint_is_trained_from_where_it_is(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported at its first use, without a word of its code, into the cache."""
    monkeypatch.setenv("HF_HOME", str(workspace.root / "hf"))
    source = write_checkpoint(
        workspace.root / "Qwen-7B-Chat", random_tensors(), seq_length=512, max_position_embeddings=512
    )
    sections = {"model": {"variant": str(source)}, "training": {"micro_batch_size": 1, **SAMPLES}}
    first = trained(workspace, "single", sections, "first")
    (imported,) = (path for path in (workspace.root / "hf/muster").iterdir() if path.is_dir())
    assert evaluations(first)[-1] < evaluations(first)[0]
    assert len(read_rows(first / "answers.jsonl")) == 2
    assert (imported / "manifest.json").is_file()
