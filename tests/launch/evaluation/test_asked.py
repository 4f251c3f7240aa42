"""An evaluation as values: what is asked for, and the numbers that come of what was found."""

import math
from typing import Any

import pytest

from launch.errors import NoPlanError
from launch.evaluation import DECLINES, Job, chosen, precision_here, processes_for, report
from launch.evaluation.asked import unused_packages
from launch.machine.hardware import CATALOGUE, GIB, Topology, gpu_topology
from launch.model.architecture import Architecture
from launch.model.variants import VARIANTS
from launch.spec import DataSpec, ModelSpec

CPU = Topology(nodes=1, devices_per_node=2, device="cpu", device_name="CPU process", memory_bytes=8 * GIB, bf16=False)
MODEL = ModelSpec(variant="qwen2.5-14b-instruct")


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "name": "run", "adapter": "runs/run/adapter", "step": None, "model": MODEL,
        "data": DataSpec(train="train.jsonl", eval="held-out.jsonl"), "split": "eval", "tokens": "tokens",
        "max_positions": 32768, "precision": "fp32", "attention": "sdpa",
        "topology": CPU, "processes": 2, "loss_batch_size": 1, "answer_batch_size": 16, "limit": None,
        "max_new_tokens": 256, "declines": DECLINES, "own_tokens": False, "unused": [],
    }  # fmt: skip
    return Job(**{**values, **changes})


def question(name: str, oracles: list[str] | None, unanswerable: bool = False, documents: str = "ab") -> dict[str, Any]:
    return {
        "kind": "question", "id": name, "file": "held-out.jsonl", "line": 1, "question": "Who?",
        "documents": list(documents), "reference": "Root.", "oracles": oracles, "unanswerable": unanswerable,
    }  # fmt: skip


def answer(model: str, name: str, f1: float, cited: str = "", invented: str = "", **more: bool) -> dict[str, Any]:
    return {
        "kind": "answer", "model": model, "id": name, "answer": "Root.", "f1": f1, "rouge_l": f1 / 2,
        "cited": list(cited), "invented": list(invented), "declined": False, "complete": True, "tokens": 3, **more,
    }  # fmt: skip


def found() -> list[dict[str, Any]]:
    """As two processes leave it: the second one knows nothing of the questions."""
    return [
        {"kind": "data", "statistics": {"rows": 4, "samples": 3, "trainable_tokens": 30}, "questions": 3},
        question("1", ["a", "b"]), question("2", ["a"]), question("3", [], unanswerable=True),
        {"kind": "loss", "model": "base", "sum": 40.0, "tokens": 10},
        answer("base", "1", 0.5, "a", "x"), answer("base", "3", 0.0),
        {"kind": "loss", "model": "adapter", "sum": 10.0, "tokens": 10},
        answer("adapter", "1", 1.0, "ab"), answer("adapter", "3", 0.0, declined=True),
        {"kind": "loss", "model": "base", "sum": 80.0, "tokens": 20},
        answer("base", "2", 0.1, "b", declined=True, complete=False),
        {"kind": "loss", "model": "adapter", "sum": 50.0, "tokens": 20},
        answer("adapter", "2", 0.8, "a"),
    ]  # fmt: skip


def test_numbers_of_base_and_adapter() -> None:
    made = report(job(), found(), 1.25)
    assert (made["questions"], made["unanswerable"], made["rows"], made["samples"]) == (3, 1, 4, 3)
    assert made["data"] == "held-out.jsonl"
    assert made["base"] == {
        "loss": 4.0, "perplexity": math.exp(4), "answer_f1": pytest.approx(0.2), "rouge_l": pytest.approx(0.1),
        "citation_precision": pytest.approx(1 / 3),  # a of a, x, b
        "citation_recall": pytest.approx(1 / 3),  # a of a, b, a
        "invented_citations": 1, "unanswerable_declined": 0.0, "answerable_declined": 0.5, "cut_off": 1,
    }  # fmt: skip
    assert made["adapter"] == {
        "loss": 2.0, "perplexity": math.exp(2), "answer_f1": pytest.approx(0.6), "rouge_l": pytest.approx(0.3),
        "citation_precision": 1.0, "citation_recall": 1.0, "invented_citations": 0, "unanswerable_declined": 1.0,
        "answerable_declined": 0.0, "cut_off": 0,
    }  # fmt: skip


def test_where_nobody_knows_the_oracles_citations_are_not_judged() -> None:
    rows = [{**row, "oracles": None} if row["kind"] == "question" and row["id"] == "1" else row for row in found()]
    made = report(job(), rows, 1.0)
    assert (made["adapter"]["citation_precision"], made["adapter"]["citation_recall"]) == (1.0, 1.0)
    assert (made["base"]["citation_precision"], made["base"]["citation_recall"]) == (0.0, 0.0)
    assert made["base"]["invented_citations"] == 1


def test_what_nothing_was_found_for_is_no_number() -> None:
    only_loss = [row for row in found() if row["kind"] in ("data", "loss")]
    made = report(job(), only_loss, 1.0)["adapter"]
    assert {key for key, value in made.items() if value is not None} == {"loss", "perplexity"}


def test_a_loss_beyond_all_bounds() -> None:
    rows = [{**row, "sum": 1e6} if row["kind"] == "loss" else row for row in found()]
    assert report(job(), rows, 1.0)["base"]["perplexity"] is None  # JSON has no infinity


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [(5, None, [0, 1, 2, 3, 4]), (5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 3, 6]), (10, 4, [0, 2, 5, 7]), (5, 0, [])],
)
def test_questions_are_spread_evenly(count: int, limit: int | None, expected: list[int]) -> None:
    assert chosen(count, limit) == expected


@pytest.mark.parametrize(
    ("planned", "gpu", "expected"),
    [
        ("bf16", "A100-80GB", "bf16"), ("bf16", "V100-32GB", "fp16"), (None, "H100-80GB", "bf16"),
        (None, "T4-16GB", "fp16"), ("fp32", "A100-80GB", "fp32"), ("fp16", "A100-80GB", "fp16"),
    ],
)  # fmt: skip
def test_precision_is_the_one_of_training_where_there_is_one(planned: Any, gpu: str, expected: str) -> None:
    assert precision_here(planned, gpu_topology(CATALOGUE[gpu], 1, 1)) == expected
    assert precision_here(planned, CPU) == "fp32"


def fourteen() -> Architecture:
    return VARIANTS["qwen2.5-14b-instruct"].architecture


@pytest.mark.parametrize(
    ("gpu", "count", "quantization", "expected"),
    [
        ("A100-80GB", 8, "none", 8),  # 28 GB on each
        ("RTX4090-24GB", 4, "none", 1),  # laid over all four
        ("RTX4090-24GB", 4, "nf4", 4),
    ],
)
def test_a_model_that_a_gpu_cannot_hold_is_laid_over_all(
    gpu: str, count: int, quantization: Any, expected: int
) -> None:
    model = ModelSpec(variant=MODEL.variant, quantization=quantization)
    here = gpu_topology(CATALOGUE[gpu], 1, count)
    processes = processes_for(fourteen(), model, "bf16", here, 2048)
    assert processes == expected
    assert job(topology=here, processes=processes).spread is (expected == 1)


def test_a_model_that_nothing_here_holds() -> None:
    with pytest.raises(NoPlanError) as told:
        processes_for(fourteen(), MODEL, "bf16", gpu_topology(CATALOGUE["T4-16GB"], 1, 2), 2048)
    assert str(told.value) == (
        "the model needs 32.3 GiB to be evaluated, and 2 x T4-16GB have 14.7 GiB each; --quantization nf4 needs less"
    )
    with pytest.raises(NoPlanError, match=r"2 x CPU process have 8\.0 GiB each$"):
        processes_for(fourteen(), MODEL, "fp32", CPU, 2048)


@pytest.mark.parametrize(
    ("quantization", "start", "unused"),
    [
        ("none", True, ["deepspeed", "bitsandbytes"]), ("none", "pissa", ["deepspeed", "bitsandbytes"]),
        ("none", "loftq", ["deepspeed"]), ("nf4", True, ["deepspeed"]), ("int8", True, ["deepspeed"]),
    ],
)  # fmt: skip
def test_packages_that_an_evaluation_has_no_use_for(quantization: Any, start: Any, unused: list[str]) -> None:
    model = MODEL.model_copy(update={"quantization": quantization})
    assert unused_packages(model, {"peft_type": "LORA", "init_lora_weights": start}) == unused
