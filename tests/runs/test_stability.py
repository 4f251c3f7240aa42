"""The stability guard in real runs: what is injected, what it decides, and what stays as it was."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.conftest import Finished, Workspace, muster, read_rows, write_rows
from tests.faults import before_steps

SINGLE = {"strategy": "single"}
TWO_RANKS = {"strategy": "ddp", "devices_per_node": 2, "device": "cpu"}
# In the backward pass of one rank: its loss is sound, its gradients are not.
NAN_GRADIENT = """\
if (step, rank) == (%d, %d):
    module = [m for m in trainer.peft_model.modules() if hasattr(m, "lora_B")][3]
    def poison(module, inputs, output):
        handle.remove()
        output.register_hook(lambda gradient: gradient * float("nan"))
    handle = module.register_forward_hook(poison)
"""


def trained(workspace: Workspace, name: str, fault: str = "pass", **sections: dict[str, Any]) -> tuple[Path, Finished]:
    merged: dict[str, dict[str, Any]] = {"cluster": SINGLE, "training": {"epochs": 1.0, "save_steps": 4}, **sections}
    run = workspace.root / name
    variables = before_steps(workspace.root / f"{name}-fault", fault)
    return run, muster("run", workspace.spec(name, **merged), "--run-dir", run, **variables)


def events(run: Path, name: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(run / "events.jsonl") if row["event"] == name]


def ledger(run: Path) -> list[dict[str, Any]]:
    return read_rows(run / "samples.jsonl")


def logged(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_rows(run / "metrics.jsonl") if "loss" in row]


ENGINES = [
    ("single", 1, 0),
    ("ddp", 2, 1),
    ("fsdp2", 2, 1),
    ("zero1", 2, 1),
    ("zero2", 2, 1),
    ("zero3", 2, 1),
]


@pytest.mark.parametrize(("strategy", "devices", "rank"), ENGINES)
def test_a_gradient_of_one_rank_that_is_not_a_number_costs_one_step(
    workspace: Workspace, strategy: str, devices: int, rank: int
) -> None:
    cluster = {"strategy": strategy, "devices_per_node": devices, "device": "cpu"}
    run, done = trained(workspace, strategy, NAN_GRADIENT % (6, rank), cluster=cluster)
    assert done.code == 0, done.err
    (skipped,) = events(run, "skipped")
    assert (skipped["step"], skipped["reason"]) == (6, "its gradients are not finite")
    assert skipped["grad_norm"] is None
    rows = ledger(run)
    assert [row["step"] for row in rows] == list(range(1, 12))
    assert [row["step"] for row in rows if not row["ids"]] == [6]
    assert sorted(rows[5]["left_out"]) == sorted(skipped["ids"])
    assert len(skipped["ids"]) == 4
    assert [row["skipped_steps"] for row in logged(run)] == [0] * 5 + [1] * 6
    assert [row["learning_rate"] for row in logged(run)] == [0.0] + [5e-3] * 10
    assert all(
        bool(tensor.isfinite().all()) for tensor in load_file(run / "adapter/adapter_model.safetensors").values()
    )
    assert not events(run, "rolled_back")


# Only this rank sees it: the ranks have added up their gradients already.
NAN_AFTERWARDS = """\
if (step, rank) == (6, 1) and not hasattr(trainer, "clipped"):
    inner = trainer.clipped = trainer._clip_grad_norm
    def clip(model):
        trainer._clip_grad_norm = inner
        weight = [p for p in trainer.peft_model.parameters() if p.requires_grad][3]
        weight.grad[0, 0] = float("nan")
        return inner(model)
    trainer._clip_grad_norm = clip
"""


def test_what_one_rank_alone_has_seen_all_ranks_skip(workspace: Workspace) -> None:
    run, done = trained(workspace, "alone", NAN_AFTERWARDS, cluster=TWO_RANKS)
    assert done.code == 0, done.err
    assert [row["step"] for row in events(run, "skipped")] == [6]
    assert len(ledger(run)) == 11


# An adapter that is broken from step 7 on, by nothing that its losses told before.
BROKEN = """\
if step == 7 and not hasattr(trainer, "broken"):
    import torch
    trainer.broken = True
    with torch.no_grad():
        for name, parameter in trainer.peft_model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(float("nan"))
"""
DROPOUT = {"lora": {"dropout": 0.1}, "data": {"eval": None}}


def weights(run: Path) -> dict[str, Any]:
    return load_file(run / "adapter/adapter_model.safetensors")


def assert_equal_weights(run: Path, other: Path) -> None:
    mine, theirs = weights(run), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(bool((mine[name] == theirs[name]).all()) for name in mine)


@pytest.mark.parametrize(("save_steps", "to_step", "checkpoint"), [(4, 4, "step-000004"), (50, 0, "the start")])
def test_going_back_is_as_if_the_batches_had_never_been(
    workspace: Workspace, save_steps: int, to_step: int, checkpoint: str
) -> None:
    recipe = {"epochs": 2.0, "save_steps": save_steps}
    run, done = trained(workspace, "back", BROKEN, cluster=TWO_RANKS, training=recipe, **DROPOUT)
    assert done.code == 0, done.err
    assert [row["step"] for row in events(run, "skipped")] == [7, 8, 9]
    told = done.err.count("step 1/22: loss")
    assert told == 1 or (told == 2 and not to_step), "nothing that was kept is told again"
    (back,) = events(run, "rolled_back")
    assert (back["step"], back["to_step"], back["checkpoint"]) == (9, to_step, checkpoint)
    assert [row["step"] for row in back["left_out"]] == [7, 8, 9]
    rows = ledger(run)
    assert [row["step"] for row in rows] == list(range(1, 23))
    assert [row["step"] for row in rows if not row["ids"]] == [7, 8, 9]
    assert [row["ids"] for row in back["left_out"]] == [row["left_out"] for row in rows[6:9]]
    assert logged(run)[-1]["skipped_steps"] == 3
    saved = [row["step"] for row in events(run, "saved")]
    assert saved == ([4, 10, 12, 16, 20, 22] if save_steps == 4 else [22]), "once each: nothing amid trouble"

    # The same, told beforehand what to leave out.
    known = "from training.guard.lessons import Lessons\ntrainer.gate.lessons = Lessons(left_out=[7, 8, 9])"
    told, done = trained(workspace, "told", known, cluster=TWO_RANKS, training=recipe, **DROPOUT)
    assert done.code == 0, done.err
    assert not events(told, "skipped")
    assert [row["ids"] for row in ledger(told)] == [row["ids"] for row in rows]
    assert_equal_weights(run, told)


def test_a_poisoned_row_is_skipped_wherever_it_comes_and_named(workspace: Workspace) -> None:
    """A row of noise, three times as long as the others, among rows that the model has learnt."""
    (workspace.root / "train.jsonl").unlink()
    write_rows(workspace.root / "train.jsonl", 40, "train")
    noise = "".join(chr(33 + (number * number * 7919) % 89) for number in range(90))
    row = {"id": "poison", "question": "Which?", "documents": [{"id": "d0", "text": "token"}], "answer": noise}
    with open(workspace.root / "train.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    whole = {"lora": {"modules_to_save": ["embed_tokens", "lm_head"], "dropout": 0.0}, "data": {"eval": None}}
    recipe = {"epochs": 12.0, "save_steps": 20, "learning_rate": 1e-2, "warmup_ratio": 0.0}
    run, done = trained(workspace, "poison", training=recipe, **whole)
    assert done.code == 0, done.err
    skipped = events(run, "skipped")
    assert all("poison" in row["ids"] for row in skipped)
    assert len(skipped) >= 5
    assert all(row["loss"] > row["threshold"] for row in skipped)
    assert not events(run, "rolled_back")
    assert logged(run)[-1]["loss"] < 1.5
    assert logged(run)[-1]["skipped_steps"] == len(skipped)
    suspects = [row["message"] for row in events(run, "warning") if row["kind"] == "row_suspect"]
    assert [message.split(" with ")[1] for message in suspects] == ["poison in its batch"]
    assert done.err.count("step 1/") == 1


def test_a_learning_rate_a_thousand_times_too_high_is_lowered_and_then_named(workspace: Workspace) -> None:
    recipe = {"epochs": 3.0, "save_steps": 4, "learning_rate": 5.0, "warmup_ratio": 0.0}
    whole = {"lora": {"modules_to_save": ["embed_tokens", "lm_head"], "dropout": 0.0}, "data": {"eval": None}}
    run, done = trained(workspace, "steep", training=recipe, **whole)
    assert done.code == 7
    assert re.search(
        r"error: rank 0: step \d+ cannot be trained on after going back without the batches before it and lowering the"
        r" learning rate 3 times: its loss of [\d.]+ is above [\d.]+, the limit after the steps before it\..*lower"
        r" training.learning_rate \(5\), in a run of another name",
        done.err,
    )
    first, *later = events(run, "rolled_back")
    assert (first["to_step"], first["checkpoint"]) == (0, "the start")
    assert [row["step"] for row in first["left_out"]] == [2, 3, 4]
    assert [row["left_out"] for row in later] == [[]] * 3, "the rate is to blame, and the batches are trained on again"
    lowered = events(run, "learning_rate_lowered")
    assert [row["learning_rate"] for row in lowered] == [2.5, 1.25, 0.625]
    outcome = json.loads((run / "attempts/001/outcome.json").read_text())
    assert (outcome["class"], outcome["exit_code"]) == ("numerical", 7)


def test_a_lower_learning_rate_mends_what_a_rollback_does_not(workspace: Workspace) -> None:
    """Steep enough to break the run, and not when it is lowered."""
    recipe = {"epochs": 4.0, "save_steps": 4, "learning_rate": 0.4, "warmup_ratio": 0.0}
    whole = {"lora": {"modules_to_save": ["embed_tokens", "lm_head"], "dropout": 0.0}, "data": {"eval": None}}
    run, done = trained(workspace, "mended", training=recipe, stability={"learning_rate_factor": 0.1}, **whole)
    assert done.code == 0, done.err
    (lowered,) = events(run, "learning_rate_lowered")
    rows = logged(run)
    after = [row["learning_rate"] for row in rows if row["step"] > lowered["step"]]
    assert after[0] == pytest.approx(0.04 / 11)
    assert after[10:] == [pytest.approx(0.04)] * (len(after) - 10)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [row["step"] for row in ledger(run)] == list(range(1, 45))


def test_without_actions_the_first_unsound_step_ends_the_run(workspace: Workspace) -> None:
    run, done = trained(workspace, "strict", NAN_GRADIENT % (6, 0), stability={"actions": []})
    assert done.code == 7
    assert "step 6 cannot be trained on: its gradients are not finite" in done.err
    assert json.loads((run / "checkpoints/step-000004/progress.json").read_text())["step"] == 4
    assert [row["ids"] for row in ledger(run)][5:] == [[]]


def test_what_was_learnt_outlives_a_kill(workspace: Workspace, undisturbed: Path) -> None:
    """The process is killed after it went back: the next one leaves the same batches out, and ends with the same
    adapter."""
    fault = BROKEN.replace("if step == 7 and not", "if step == 7 and attempt == 1 and not")
    killed = fault + "if (step, attempt) == (14, 1):\n    os.kill(os.getpid(), 9)\n"
    run, done = trained(workspace, "killed", killed, training={"epochs": 2.0, "save_steps": 4}, **DROPOUT)
    assert done.code == 0, done.err
    assert len(list((run / "attempts").iterdir())) == 2
    assert [row["step"] for row in ledger(run) if not row["ids"]] == [7, 8, 9]
    assert json.loads((run / "stability.json").read_text())["left_out"] == [7, 8, 9]
    assert_equal_weights(run, undisturbed)


@pytest.fixture
def undisturbed(workspace: Workspace) -> Path:
    """One that goes back as well, and is not killed."""
    run, done = trained(workspace, "undisturbed", BROKEN, training={"epochs": 2.0, "save_steps": 4}, **DROPOUT)
    assert done.code == 0, done.err
    return run


def test_drifts_of_a_real_run_are_warnings_with_advice(workspace: Workspace) -> None:
    """Rank 1's forward passes are slow, and the learning rate is so small that nothing is learnt."""
    slow = "if rank == 1 and not hasattr(trainer, 'slowed'):\n    import time\n    trainer.slowed = True\n"
    slow += "    trainer.peft_model.register_forward_pre_hook(lambda *_: time.sleep(0.25))"
    recipe = {"epochs": 7.0, "save_steps": 100, "learning_rate": 1e-9, "log_steps": 20}
    run, done = trained(workspace, "drift", slow, training=recipe, cluster=TWO_RANKS, data={"eval": None})
    assert done.code == 0, done.err
    warnings = {row["kind"]: row for row in events(run, "warning")}
    assert warnings.keys() == {"loss_flat", "rank_last"}
    assert warnings["rank_last"]["message"].startswith("rank 1 is always last: it reads its data and makes its forward")
    assert warnings["loss_flat"]["advice"].startswith("is training.learning_rate too small")
    assert not events(run, "skipped")
