"""The harness of benchmarks/throughput.py: the same job on each side, and what is counted of it."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from benchmarks.jobs import TRAINED, WARM_UP, Clock, Job, Measured, Row, between, rows
from benchmarks.peers.side import Watch, labels, same_rows
from benchmarks.random_model import random_base
from benchmarks.throughput import ON_CPU, ON_GPU, PEERS, _options, compared, planned, written
from launch.variants import VARIANTS
from tests.conftest import ROOT, environment

SHORT = Job("small", False, "none", "mixture", max_length=256, accumulation=2, steps=2)


def test_the_jobs_are_those_of_the_real_shapes() -> None:
    assert {job.model for job in ON_GPU.values()} == {"qwen2.5-7b", "qwen2.5-14b"}
    assert {(job.quantization, job.lengths) for job in ON_GPU.values()} == {
        (held, lengths) for held in ("none", "nf4") for lengths in ("fixed", "mixture")
    }
    assert all(job.max_length == 4096 and job.rank == 16 for job in ON_GPU.values())
    assert ON_GPU["7b-fixed"].architecture == VARIANTS["qwen2.5-7b"].architecture
    assert {job.lengths for job in ON_CPU.values()} == {"fixed", "mixture", "rag"}


def test_the_same_rows_each_time_and_enough_of_them() -> None:
    made, again = rows(SHORT), rows(SHORT)
    assert all((one.ids == other.ids).all() for one, other in zip(made, again, strict=True))
    assert sum(len(row.ids) for row in made) >= SHORT.accumulation * (SHORT.steps + WARM_UP) * SHORT.max_length
    assert all(0 < row.trained_from < len(row.ids) <= SHORT.max_length for row in made)
    assert all(0 < share <= 1 for share in TRAINED.values())
    assert {len(row.ids) for row in rows(replace(SHORT, lengths="fixed"))} == {256}


def test_rows_become_muster_s_sequences(tmp_path: Path) -> None:
    made = rows(SHORT)
    sequences = written(tmp_path / "rows", made, SHORT.max_length)
    assert sequences.statistics.tokens == sum(len(row.ids) for row in made)
    first = sequences[0]
    whole = made[int(sequences.names(0)[0].split("-")[1])]
    assert (first["input_ids"][: len(whole.ids)] == whole.ids).all()
    assert (first["labels"][whole.trained_from : len(whole.ids)] == whole.ids[whole.trained_from :]).all()


def test_settings_reach_the_spec_that_is_trained() -> None:
    plan = planned(replace(SHORT, settings={"training.loss": "plain", "model.attention": "eager"}))
    assert (plan.loss, plan.attention, plan.optimizer) == ("plain", "eager", "adamw_torch_fused")


def test_steps_are_timed_after_the_warm_up() -> None:
    assert between([1.0, 3.0, 4.0, 6.0]) == [1.0, 2.0]
    clock = Clock(gpu=False)
    clock.tick()
    clock.tick()
    assert clock.wall[0] < clock.wall[1]
    found = Measured([1.0, 4.0, 2.0], [10, 10, 10], 0, 1.0, [1.0, 1.0, 1.0])
    assert found.tokens_per_second == 5
    assert found.tokens_per_cpu_second == 10


def test_muster_s_side_counts_what_it_trained_on(tmp_path: Path) -> None:
    job, file = tmp_path / "job.json", SHORT
    job.write_text(json.dumps(asdict(file)))
    done = subprocess.run(
        [sys.executable, "benchmarks/throughput.py", "--one", job], cwd=ROOT, env=environment(), capture_output=True,
        text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = Measured(**json.loads(done.stdout.splitlines()[-1]))
    assert len(found.step_seconds) == len(found.step_tokens) == len(found.cpu_seconds) == SHORT.steps
    assert all(0.9 * 512 < tokens <= 512 for tokens in found.step_tokens)
    assert found.computed_tokens == SHORT.steps * 512
    assert found.first_loss == pytest.approx(8.72, abs=0.05)  # the logarithm of 6,144: nothing is known yet


def _packed(made: list[Row], key: str) -> dict[str, list[int]]:
    """A sequence as a peer holds it, LLaMA-Factory's with padding."""
    lengths = [len(row.ids) for row in made]
    found = {
        "input_ids": [int(token) for row in made for token in row.ids],
        "labels": [label for row in made for label in labels(row)],
    }
    if key == "seq_lengths":
        return found | {key: lengths}
    mask = [number for number, length in enumerate(lengths, 1) for _ in range(length)]
    return {"input_ids": [*found["input_ids"], 0], "labels": [*found["labels"], -100], key: [*mask, 0]}


@pytest.mark.parametrize("key", ["seq_lengths", "attention_mask"])
def test_a_peer_may_train_the_job_s_rows_in_any_order_and_nothing_else(key: str) -> None:
    first, second, *others = rows(SHORT)
    held = [_packed([second, first], key), *({"input_ids": row.ids.tolist(), "labels": labels(row)} for row in others)]
    same_rows(SHORT, held)
    with pytest.raises(AssertionError, match="1 are missing or changed; 0 are not the job's"):
        same_rows(SHORT, held[:-1])
    held[0]["labels"][len(second.ids) - 1] = -100
    with pytest.raises(AssertionError, match="1 are missing or changed; 1 are not the job's"):
        same_rows(SHORT, held)


class Loader:
    def __init__(self, job: Job) -> None:
        self.dataset = [{"input_ids": row.ids.tolist(), "labels": labels(row)} for row in rows(job)]


def test_what_a_peer_trained_is_counted_at_the_model_step_by_step() -> None:
    watch, base = Watch(SHORT), random_base(SHORT.architecture, "none", torch.device("cpu"), torch.float32)
    model = get_peft_model(base, LoraConfig(r=SHORT.rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    watch.on_train_begin(model=model, train_dataloader=Loader(SHORT))
    ids = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 0]])
    for batches in ([ids], [ids], [ids, ids], [ids[:1]]):  # an epoch ends with a shorter step
        for batch in batches:
            model(input_ids=batch)
        watch.on_step_end()
    watch.on_log(logs={"loss": "8.7"})
    found = watch.measured()
    assert (found.step_tokens, found.computed_tokens, found.first_loss) == ([10, 2], 20, 8.7)
    assert len(found.step_seconds) == len(found.cpu_seconds) == 2
    assert found.versions["torch"] == torch.__version__


def test_a_peer_that_adapts_something_else_is_refused() -> None:
    base = random_base(SHORT.architecture, "none", torch.device("cpu"), torch.float32)
    model = get_peft_model(base, LoraConfig(r=SHORT.rank, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(AssertionError, match="32768 parameters are trained, LoRA of all linear layers has 360448"):
        Watch(SHORT).on_train_begin(model=model, train_dataloader=Loader(SHORT))


def test_the_fastest_way_of_each_peer_counts_and_one_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of a peer's environment a program that tells a speed by the settings it is given."""
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "settings = json.load(open(sys.argv[2]))['settings']\n"
        "if settings.get('per_device_train_batch_size') == 4: sys.exit('no room for four')\n"
        "seconds = 1 if 'gradient_accumulation_steps' in settings else 2\n"
        "print(json.dumps({'step_seconds': [seconds] * 2, 'step_tokens': [100] * 2, 'peak_bytes': 1, 'first_loss': 1,\n"
        "    'cpu_seconds': [seconds] * 2, 'computed_tokens': 200}))\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "argv", ["throughput", "--trl", str(python), "--llamafactory", str(python), "--repeats=1"])
    found = compared(SHORT, _options())
    assert {name for name in found if name.startswith("TRL")} == {"TRL packed", "TRL single"}
    assert found["failed"] == {f"{peer.name} padded": "no room for four" for peer in PEERS.values()}
    for peer in PEERS.values():
        assert found["ratio"][peer.name]["to"] == f"{peer.name} single"
        assert found[f"{peer.name} packed"]["tokens_per_second"] == 50
        ours = found["muster"]["tokens_per_second"]
        assert found["ratio"][peer.name]["median"] == pytest.approx(ours / 100, abs=0.001)
