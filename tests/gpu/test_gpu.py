"""What only a CUDA device can show: precision, paged states, NVML, determinism, and the engines on NCCL.

python -m pytest tests/gpu
"""

import json
from pathlib import Path

import pytest
import torch

from launch.plan.kernels import FLASH_PACKAGES
from launch.preflight.installed_torch import there
from launch.spec import FlashAttention
from tests.conftest import Workspace, command, kill_when, losses, muster, read_rows
from tests.runs.test_resume import adapter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
GPUS = torch.cuda.device_count()
CAPABILITY = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)
HAS_BF16 = CAPABILITY >= (8, 0)
RECIPE = {"optimizer": None, "save_steps": 4}  # None leaves the recipe's paged AdamW in place


def train(workspace: Workspace, name: str, *options: str, **sections: dict[str, object]) -> Path:
    run = workspace.root / f"run-{name}"
    done = muster("run", workspace.spec(name, **sections), "--run-dir", run, *options)
    assert done.code == 0, done.err
    return run


def verified(run: Path) -> dict[str, object]:
    return next(row for row in read_rows(run / "events.jsonl") if row["event"] == "verified")


def relative_difference(run: Path, reference: Path) -> float:
    pairs = list(zip(losses(run), losses(reference), strict=True))
    assert len(pairs) >= 20
    return max(abs(found - expected) / abs(expected) for found, expected in pairs)


def test_the_recipe_on_a_gpu(workspace: Workspace) -> None:
    run = train(workspace, "recipe", "-s", "cluster.devices_per_node=1", training=RECIPE)
    found = verified(run)
    assert (found["device"], found["engine"], found["optimizer"]) == ("gpu", "single", "paged_adamw_32bit")
    assert found["precision"] == ("bf16" if HAS_BF16 else "fp16")
    steps = [row for row in read_rows(run / "metrics.jsonl") if "loss" in row]
    assert all(row["gpu_memory_peak_bytes"] > 0 for row in steps)
    sample = read_rows(run / "resources.jsonl")[0]
    assert sample["gpu"] == 0
    assert sample["memory_used_bytes"] > 0
    evaluations = [row["eval_loss"] for row in read_rows(run / "metrics.jsonl") if "eval_loss" in row]
    assert evaluations[-1] < evaluations[0]


def test_a_real_driver_is_sampled_for_less_than_a_percent_of_a_core(tmp_path: Path) -> None:
    """Behind the fake driver of the other tests nothing works: what the calls of a real one cost is only here."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from launch.rundir import RunDir\n"
        "from launch.sampling.driver import Driver\n"
        "from launch.sampling.sampler import Sampler\n"
        "began = []\n"
        "def each(rows):\n"
        "    began.append((time.monotonic(), time.process_time()))\n"
        "    if len(began) == 8:\n"
        "        sampler.end()\n"
        f"sampler = Sampler(RunDir(Path({str(tmp_path)!r})), 'n', Driver(None, {GPUS}), 5.0, each)\n"
        "sampler.run()\n"
        # The first sample loads the driver.
        "print((began[-1][1] - began[1][1]) / (began[-1][0] - began[1][0]))\n"
    )
    done = command("-c", code)
    assert done.code == 0, done.err
    assert float(done.out) < 0.01
    rows = [row for row in read_rows(tmp_path / "resources.jsonl") if row["gpu"] == 0]
    always = (
        "utilization", "memory_used_bytes", "memory_total_bytes", "power_watts", "temperature", "sm_clock_mhz",
        "memory_clock_mhz", "throttle_reasons", "pcie_tx_bytes_per_second", "pcie_rx_bytes_per_second",
    )  # fmt: skip
    assert [key for key in always if rows[0][key] is None] == []
    assert rows[0]["memory_used_bytes"] < rows[0]["memory_total_bytes"]
    assert not any("error" in row for row in rows)


def test_a_gpu_gives_the_losses_of_the_cpu(workspace: Workspace) -> None:
    on_gpu = train(workspace, "gpu", "-s", "cluster.devices_per_node=1", training={"precision": "fp32"})
    on_cpu = train(workspace, "cpu", "-s", "cluster.device=cpu")
    assert relative_difference(on_gpu, on_cpu) < 1e-3


# ZeRO on one rank still goes through DeepSpeed's engine; the others need something to share.
@pytest.mark.parametrize("strategy", ["zero2", "zero3", "zero2_offload", "zero3_offload"])
def test_zero_on_one_gpu_gives_the_losses_of_single(strategy: str, workspace: Workspace) -> None:
    one = ("-s", "cluster.devices_per_node=1", "-s", "training.precision=fp32")
    single = train(workspace, "single", *one)
    run = train(workspace, strategy, *one, "-s", f"cluster.strategy={strategy}")
    assert verified(run)["engine"] == strategy
    assert relative_difference(run, single) < 1e-4


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2"])
def test_two_gpus_give_the_losses_of_one(strategy: str, workspace: Workspace) -> None:
    single = train(workspace, "single", "-s", "cluster.devices_per_node=1", "-s", "training.precision=fp32")
    two = ("-s", "cluster.devices_per_node=2", "-s", "training.precision=fp32", "-s", f"cluster.strategy={strategy}")
    run = train(workspace, strategy, *two)
    assert (verified(run)["engine"], verified(run)["world_size"]) == (strategy, 2)
    assert relative_difference(run, single) < 1e-4


@pytest.mark.parametrize("upcast", ["true", "false"])
def test_attention_by_documents_of_a_packed_base(upcast: str, workspace: Workspace) -> None:
    """With norms and embeddings in fp32, from which come queries that FlashAttention does not take, and without."""
    if not HAS_BF16:
        pytest.skip("this GPU has no bf16")
    one = (
        "-s", "cluster.devices_per_node=1", "-s", "data.packing=true", "-s", "model.quantization=nf4",
        "-s", f"model.upcast_unquantized={upcast}", "-s", "training.epochs=8",
    )  # fmt: skip
    masked, ours = (
        train(workspace, name, *one, "-s", f"model.attention={name}", training=RECIPE) for name in ("sdpa", "varlen")
    )
    assert losses(ours) == pytest.approx(losses(masked), rel=1e-2)


@pytest.mark.parametrize("packing", ["true", "false"])
def test_attention_by_documents_and_a_loss_in_chunks_give_the_losses_of_the_plain_path(
    packing: str, workspace: Workspace
) -> None:
    """In bf16, whose products are rounded to 8 bits: within 1e-2."""
    if not HAS_BF16:
        pytest.skip("this GPU has no bf16")
    one = ("-s", "cluster.devices_per_node=1", "-s", f"data.packing={packing}", "-s", "training.epochs=8")
    plain = train(workspace, "plain", *one, "-s", "training.loss=plain", "-s", "model.attention=sdpa")
    ours = train(workspace, "levers", *one, "-s", "training.loss=chunked", "-s", "model.attention=varlen")
    assert (verified(ours)["loss"], verified(ours)["attention"]) == ("chunked", "varlen")
    assert losses(ours) == pytest.approx(losses(plain), rel=1e-2)


def test_liger_s_kernels_give_the_losses_of_the_plain_path(workspace: Workspace) -> None:
    """In bf16, whose products are rounded to 8 bits: within 1e-2."""
    if not HAS_BF16 or not there("liger_kernel"):
        pytest.skip("liger-kernel is not there, or this GPU has no bf16")
    one = ("-s", "cluster.devices_per_node=1", "-s", "data.packing=true", "-s", "training.epochs=8")
    plain = train(workspace, "plain", *one)
    ours = train(workspace, "liger", *one, "-s", "training.extra={use_liger_kernel: true}")
    assert losses(ours) == pytest.approx(losses(plain), rel=1e-2)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize(
    ("key", "plain", "fact"),
    [("lora.implementation", "peft", "lora_implementation"), ("model.norms", "plain", "norms")],
)
def test_layers_as_one_operation_give_the_losses_of_the_libraries(
    key: str, plain: str, fact: str, quantization: str, workspace: Workspace
) -> None:
    """In bf16, whose products are rounded to 8 bits: within 1e-2. With dropout the masks of adapters would differ."""
    if not HAS_BF16:
        pytest.skip("this GPU has no bf16")
    one = (
        "-s", "cluster.devices_per_node=1", "-s", "lora.dropout=0", "-s", f"model.quantization={quantization}",
        "-s", "training.epochs=8",
    )  # fmt: skip
    theirs, ours = (train(workspace, name, *one, "-s", f"{key}={name}", training=RECIPE) for name in (plain, "fused"))
    assert verified(ours)[fact] == "fused"
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-2)


@pytest.mark.parametrize("switch", ["lora.cast_inputs=true", "training.extra.dataloader_pin_memory=false"])
def test_inputs_that_are_cast_and_batches_that_are_not_pinned_give_the_very_losses(
    switch: str, workspace: Workspace
) -> None:
    one = (
        "-s", "cluster.devices_per_node=1", "-s", "lora.dropout=0", "-s", "training.epochs=8",
        "-s", "training.extra.full_determinism=true",
    )  # fmt: skip
    usual, switched = (train(workspace, *given, *one) for given in (("usual",), ("switched", "-s", switch)))
    assert losses(switched) == losses(usual)


@pytest.mark.parametrize("kernels", ["fa3", "fa4"])
@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_another_package_s_flash_attention_gives_the_losses_of_torch_s(
    kernels: FlashAttention, attention: str, workspace: Workspace
) -> None:
    module, _, majors = FLASH_PACKAGES[kernels]
    if not there(module) or CAPABILITY[0] not in majors:
        pytest.skip(f"{module} is not there, or not for this GPU")
    # One row at a time has no padding, and under SDPA no mask, beside which none of these kernels is called.
    one = (
        "-s", "cluster.devices_per_node=1", "-s", "training.epochs=8", "-s", f"model.attention={attention}",
        "-s", "training.micro_batch_size=1",
    )  # fmt: skip
    usual = train(workspace, "usual", *one)
    theirs = train(workspace, kernels, *one, "-s", f"model.flash_attention={kernels}")
    assert verified(theirs)["flash_attention"] == kernels
    assert losses(theirs) == pytest.approx(losses(usual), rel=1e-2)


def test_blocks_that_are_compiled_give_the_same_losses(workspace: Workspace) -> None:
    one = ("-s", "cluster.devices_per_node=1", "-s", "training.precision=fp32", "-s", "data.packing=true")
    plain = train(workspace, "eager", *one)
    assert losses(train(workspace, "compiled", *one, "-s", "training.compile=true")) == pytest.approx(
        losses(plain), rel=1e-4
    )


def test_blocks_that_are_compiled_take_documents_of_any_length(workspace: Workspace) -> None:
    """In bf16, whose products are rounded to 8 bits: within 1e-2."""
    if not HAS_BF16:
        pytest.skip("this GPU has no bf16")
    one = ("-s", "cluster.devices_per_node=1", "-s", "data.packing=true", "-s", "model.attention=varlen")
    plain = train(workspace, "eager", *one)
    compiled = train(workspace, "compiled", *one, "-s", "training.compile=true")
    assert verified(compiled)["attention"] == "varlen"
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-2)


def test_a_save_is_waited_for_less_than_50_ms(workspace: Workspace) -> None:
    """The first one pins its memory."""
    run = train(workspace, "saves", "-s", "cluster.devices_per_node=1", training=RECIPE)
    stalled = [row["stalled_seconds"] for row in read_rows(run / "events.jsonl") if row["event"] == "saved"]
    assert len(stalled) >= 5
    assert max(stalled[1:]) < 0.05


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_killed_run_resumes_bit_for_bit(precision: str, workspace: Workspace) -> None:
    """With dropout, paged states and, in fp16, the loss scale."""
    if precision == "bf16" and not HAS_BF16:
        pytest.skip("this GPU has no bf16")
    sections: dict[str, dict[str, object]] = {
        "lora": {"dropout": 0.1},
        "training": {**RECIPE, "precision": precision, "extra": {"full_determinism": True}},
    }
    one = ("-s", "cluster.devices_per_node=1")
    whole = train(workspace, "whole", *one, **sections)
    run = workspace.root / "run-killed"
    spec = workspace.spec("killed", **sections)
    reached = run / "checkpoints/step-000008"
    kill_when(["-m", "launch", "run", spec, "--run-dir", run, *one], reached.exists)
    done = muster("run", spec, "--run-dir", run, *one)
    assert done.code == 0, done.err
    assert "resumed from step-" in done.err
    found, expected = adapter(run), adapter(whole)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_fp16_where_bf16_exists_is_a_warning(workspace: Workspace) -> None:
    if not HAS_BF16:
        pytest.skip("this GPU has no bf16")
    run = workspace.root / "run-fp16"
    done = muster("run", workspace.spec("fp16"), "--run-dir", run, "-s", "training.precision=fp16", "-s",
                  "cluster.devices_per_node=1")  # fmt: skip
    assert done.code == 0, done.err
    assert "warning: training.precision fp16 on" in done.err


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_base_learns(quantization: str, workspace: Workspace) -> None:
    one = ("-s", "cluster.devices_per_node=1", "-s", f"model.quantization={quantization}")
    run = train(workspace, quantization, *one, training=RECIPE)
    evaluations = [row["eval_loss"] for row in read_rows(run / "metrics.jsonl") if "eval_loss" in row]
    assert evaluations[-1] < evaluations[0]


def test_more_gpus_than_exist_is_3(workspace: Workspace) -> None:
    done = muster("run", workspace.spec("many"), "-s", f"cluster.devices_per_node={GPUS + 1}")
    assert done.code == 3
    assert f"{GPUS + 1}" in done.err


def test_an_evaluation_gives_the_losses_of_training_and_uses_all_gpus(workspace: Workspace) -> None:
    run = train(workspace, "evaluated", "-s", "cluster.devices_per_node=1")
    expected = [row["eval_loss"] for row in read_rows(run / "metrics.jsonl") if "eval_loss" in row]
    reports = []
    for devices in {1, GPUS}:
        done = muster("evaluate", run, "--devices", devices, "--max-new-tokens", 16, "--json")
        assert done.code == 0, done.err
        reports.append(json.loads(done.out))
    for report in reports:
        assert report["device_name"] != "CPU process"
        assert report["questions"] == 9
        found = report["base"]["loss"], report["adapter"]["loss"]
        assert found == pytest.approx((expected[0], expected[-1]), rel=1e-2)  # bf16 sums in another order


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
def test_a_model_laid_over_gpus_answers_as_on_one(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that a single GPU cannot hold."""
    from rich.console import Console

    from launch.evaluation import DECLINES
    from launch.evaluation import request as evaluation_request
    from launch.evaluation.processes import evaluate_job
    from launch.plan.trained import trained

    run = trained(train(workspace, "laid", "-s", "cluster.devices_per_node=1"))
    reports = []
    for processes in (GPUS, 1):
        monkeypatch.setattr(evaluation_request, "processes_for", lambda *given, count=processes: count)
        asked = evaluation_request.Options(None, None, None, 16, 4, None, None, DECLINES)
        with evaluation_request.place_for(run, None) as place:
            job, _ = evaluation_request.job_of(run, asked, place)
            assert job.spread is (processes == 1)
            reports.append(evaluate_job(job, place, Console(stderr=True)))
    assert reports[0]["adapter"]["loss"] == pytest.approx(reports[1]["adapter"]["loss"], rel=1e-2)
