"""The same spec gives the same training under every strategy, and in every way it can be started."""

import json
import re
from pathlib import Path

import pytest

from launch.machine.workers import free_port
from tests.conftest import Finished, Workspace, accelerate_launch, command, kill_when, losses, muster, read_rows

SAMPLES = ("-s", "training.eval_samples=2", "-s", "training.eval_max_new_tokens=8")
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2")
# Under these the first of the model's two blocks is computed again in the backward pass, and the second one is not.
CHECKPOINTED = ("zero2", "zero3", "fsdp2")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def single(base_workspace: Workspace) -> Path:
    """The reference: one process that accumulates, started by `muster run`. 22 steps."""
    spec = base_workspace.spec("parity")
    run = base_workspace.root / "single"
    done = muster("run", spec, "--run-dir", run, "-s", "cluster.strategy=single", *SAMPLES)
    assert done.code == 0, done.err
    return run


def relative_difference(run: Path, reference: Path) -> float:
    found, expected = losses(run), losses(reference)
    assert len(found) == len(expected) >= 20
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def two_ranks(strategy: str, workspace: Workspace) -> Path:
    """The run of two CPU ranks under a strategy, made by the first test that asks for it."""
    run = workspace.root / strategy
    if not (run / "adapter").exists():
        options = ["-s", f"cluster.strategy={strategy}", "-s", "cluster.devices_per_node=2"]
        options += SAMPLES if strategy in ("zero3", "fsdp2") else ()
        options += ("-s", "training.gradient_checkpointing=1") if strategy in CHECKPOINTED else ()
        done = muster("run", workspace.spec("parity"), "--run-dir", run, *options)
        assert done.code == 0, done.err
    return run


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_give_the_losses_of_one(strategy: str, single: Path, base_workspace: Workspace) -> None:
    """Engine, world size, precision and batch are asserted by the worker itself (engine.verify), and here as well."""
    run = two_ranks(strategy, base_workspace)
    observed = next(row for row in read_rows(run / "events.jsonl") if row["event"] == "verified")
    assert (observed["engine"], observed["world_size"], observed["device"], observed["precision"]) == (
        strategy,
        2,
        "cpu",
        "fp32",
    )
    assert observed["global_batch_size"] == 4
    assert observed["checkpointed_layers"] == (strategy in CHECKPOINTED)
    assert relative_difference(run, single) < TOLERANCE
    ledger, reference = read_rows(run / "samples.jsonl"), read_rows(single / "samples.jsonl")
    assert [(row["step"], sorted(row["ids"])) for row in ledger] == [
        (row["step"], sorted(row["ids"])) for row in reference
    ]
    if strategy in ("zero3", "fsdp2"):  # engines that gather the base for each token of an answer
        answers, expected = read_rows(run / "answers.jsonl"), read_rows(single / "answers.jsonl")
        assert [(row["step"], row["id"], row["answer"]) for row in answers] == [
            (row["step"], row["id"], row["answer"]) for row in expected
        ]
        assert len(answers) == 2 * 3  # before training and after each of two epochs


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
def test_packed_rows_give_their_losses_by_documents_under_every_engine(
    strategy: str, base_workspace: Workspace
) -> None:
    """The model is told that there is no mask, through the engine's own wrappers, and norms are one operation; against
    one process under SDPA, with transformers' norms."""
    spec, packed = base_workspace.spec("documents"), ("-s", "data.packing=true", "-s", "training.epochs=4")
    reference, run = (base_workspace.root / name for name in ("masked", f"documents-{strategy}"))
    ways = {
        reference: ("single", "model.attention=sdpa", "model.norms=plain", "cluster.devices_per_node=1"),
        run: (strategy, "model.attention=varlen", "model.norms=fused", "cluster.devices_per_node=2"),
    }
    for where, (engine, *others) in ways.items():
        if not (where / "adapter").exists():
            options = [part for value in (f"cluster.strategy={engine}", *others) for part in ("-s", value)]
            done = muster("run", spec, "--run-dir", where, *packed, *options)
            assert done.code == 0, done.err
    observed = next(row for row in read_rows(run / "events.jsonl") if row["event"] == "verified")
    assert (observed["engine"], observed["attention"], observed["norms"]) == (strategy, "varlen", "fused")
    found, expected = losses(run), losses(reference)
    assert len(found) == len(expected) > 4
    assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("packing", ["true", "false"])
def test_a_loss_in_chunks_and_attention_by_documents_change_nothing(packing: str, base_workspace: Workspace) -> None:
    """Against the plain loss and SDPA's mask, as a GPU has them, within 1e-5: sums in another order."""
    found: dict[str, Path] = {}
    for loss, attention in (("chunked", "varlen"), ("plain", "sdpa")):
        run = found[loss] = base_workspace.root / f"{loss}-{packing}"
        options = ["-s", f"training.loss={loss}", "-s", f"model.attention={attention}", "-s", f"data.packing={packing}"]
        done = muster("run", base_workspace.spec("levers"), "--run-dir", run, "-s", "training.epochs=4", *options)
        assert done.code == 0, done.err
        observed = next(row for row in read_rows(run / "events.jsonl") if row["event"] == "verified")
        assert (observed["loss"], observed["attention"]) == (loss, attention)
    ours, plain = losses(found["chunked"]), losses(found["plain"])
    assert len(ours) == len(plain) > 4
    assert ours == pytest.approx(plain, rel=1e-5)
    evaluations = [
        [row["eval_loss"] for row in read_rows(run / "metrics.jsonl") if "eval_loss" in row] for run in found.values()
    ]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-5)


def test_a_checkpoint_of_shards_is_exported_by_one_process_without_a_gpu(base_workspace: Workspace) -> None:
    """Zero3's; fsdp2's has the same files."""
    run = two_ranks("zero3", base_workspace)
    checkpoints = sorted((run / "checkpoints").iterdir())
    done = muster("export", checkpoints[0], "--merged", "--out", base_workspace.root / "merged")
    assert done.code == 0, done.err
    assert re.search(r"logits: \d\.\de-\d\d of their standard deviation from base and adapter", done.err)
    assert (base_workspace.root / "merged/model.safetensors").is_file()


def test_plain_python_gives_the_losses_of_muster_run(single: Path, base_workspace: Workspace) -> None:
    run = base_workspace.root / "plain"
    done = command("-m", "training", base_workspace.spec("parity"), "--run-dir", run)
    assert done.code == 0, done.err
    assert losses(run) == losses(single)
    assert (run / "adapter/adapter_model.safetensors").read_bytes() == (
        single / "adapter/adapter_model.safetensors"
    ).read_bytes()


def test_accelerate_launch_gives_the_losses_of_muster_run(single: Path, base_workspace: Workspace) -> None:
    by_hand, by_muster = base_workspace.root / "by-hand", two_ranks("ddp", base_workspace)
    done = accelerate_launch("ddp", 2, base_workspace.spec("parity"), "--run-dir", by_hand)
    assert done.code == 0, done.err
    assert relative_difference(by_hand, single) < TOLERANCE
    assert losses(by_hand) == losses(by_muster)


def test_accelerate_launch_with_one_process_and_a_shipped_zero_file(single: Path, base_workspace: Workspace) -> None:
    run = base_workspace.root / "zero3-alone"
    done = accelerate_launch("zero3", 1, base_workspace.spec("parity"), "--run-dir", run)
    assert done.code == 0, done.err
    assert json.loads((run / "plan.json").read_text())["strategy"] == "zero3"
    assert relative_difference(run, single) < TOLERANCE


def test_a_rendered_file_trains_without_muster_run(single: Path, base_workspace: Workspace) -> None:
    """`muster run` is killed as soon as it has rendered; accelerate launch then trains from the run directory alone."""
    spec, run = base_workspace.spec("parity"), base_workspace.root / "rendered"
    options = ("-s", "cluster.strategy=ddp", "-s", "cluster.devices_per_node=2")
    kill_when(["-m", "launch", "run", spec, "--run-dir", run, *options], lambda: (run / "attempts/001").exists())
    launcher = ("-m", "accelerate.commands.accelerate_cli", "launch", "--main_process_port", 0)
    done = command(*launcher, "--config_file", run / "rendered/accelerate.yaml", "-m", "training", run)
    assert done.code == 0, done.err
    assert relative_difference(run, single) < TOLERANCE


def test_two_launchers_make_one_world(single: Path, base_workspace: Workspace) -> None:
    """The multi-node files, as typed on two nodes: here two launchers on one machine, one process each."""
    from concurrent.futures import ThreadPoolExecutor

    spec, run, port = base_workspace.spec("parity"), base_workspace.root / "nodes", free_port()

    def node(rank: int) -> Finished:
        config = "accelerate_configs/zero3_multi_node.yaml"
        launcher = ("-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", config)
        place = ("--machine_rank", rank, "--main_process_ip", "127.0.0.1", "--main_process_port", port)
        return command(*launcher, *place, "--num_processes", 2, "-m", "training", spec, "--run-dir", run)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(node, (0, 1))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["topology"]["nodes"], plan["world_size"]) == (2, 2)
    assert relative_difference(run, single) < TOLERANCE


def test_gradients_beside_the_buckets_and_batches_that_are_not_pinned_give_the_very_losses(
    base_workspace: Workspace,
) -> None:
    run = base_workspace.root / "copied"
    options = ["-s", "cluster.strategy=ddp", "-s", "cluster.devices_per_node=2"]
    options += ["-s", "training.gradient_as_bucket_view=false", "-s", "training.extra={dataloader_pin_memory: false}"]
    done = muster("run", base_workspace.spec("parity"), "--run-dir", run, *options)
    assert done.code == 0, done.err
    plain = two_ranks("ddp", base_workspace)
    assert losses(run) == losses(plain)
    for each, gradients in ((run, "beside the buckets"), (plain, "in the buckets")):
        observed = next(row for row in read_rows(each / "events.jsonl") if row["event"] == "verified")
        assert observed["gradients"] == gradients


@pytest.mark.parametrize(
    ("strategy", "lever"),
    [("single", "training.optimizer=adamw_torch_fused"), ("ddp", "training.extra={ddp_static_graph: true}")],
)
def test_a_fused_optimizer_and_a_static_graph_give_the_losses_of_the_plain_path(
    strategy: str, lever: str, single: Path, base_workspace: Workspace
) -> None:
    """Against one process with torch's AdamW, one operation after the other: sums in another order at most."""
    run = base_workspace.root / f"lever-{strategy}"
    options = ["-s", f"cluster.strategy={strategy}", "-s", lever]
    options += ["-s", f"cluster.devices_per_node={2 if strategy == 'ddp' else 1}"]
    done = muster("run", base_workspace.spec("parity"), "--run-dir", run, *options)
    assert done.code == 0, done.err
    assert json.loads((single / "plan.json").read_text())["optimizer"] == "adamw_torch"
    assert relative_difference(run, single) < (TOLERANCE if strategy == "ddp" else 1e-6)


def test_packing_checkpointing_and_the_recipe_s_optimizer_give_the_same_losses_too(base_workspace: Workspace) -> None:
    changes = {
        "optimizer": None,
        "gradient_checkpointing": True,
        "micro_batch_size": 1,
        "global_batch_size": 2,
        "epochs": 4.0,
    }
    spec = base_workspace.spec("packed", data={"packing": True}, training=changes)
    alone, together = base_workspace.root / "packed-single", base_workspace.root / "packed-ddp"
    for run, processes, blocks in ((alone, 1, "true"), (together, 2, "1")):
        options = ["-s", f"cluster.devices_per_node={processes}", "-s", f"training.gradient_checkpointing={blocks}"]
        done = muster("run", spec, "--run-dir", run, *options)
        assert done.code == 0, done.err
    plans = [json.loads((run / "plan.json").read_text()) for run in (alone, together)]
    assert [(plan["strategy"], plan["checkpointed_layers"]) for plan in plans] == [("single", 2), ("ddp", 1)]
    assert relative_difference(together, alone) < TOLERANCE
    epochs = [
        sorted(name for row in read_rows(together / "samples.jsonl") if row["epoch"] == n for name in row["ids"])
        for n in range(4)
    ]
    assert epochs == [sorted(f"train-{number}" for number in range(42))] * 4
