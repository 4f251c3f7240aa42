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
from benchmarks.levers import Side
from benchmarks.memory_gpu import TINY_CASES, measured
from benchmarks.peers.side import Watch, attention, labels, same_rows
from benchmarks.profile_step import STEPS, family, profiled, shares
from benchmarks.random_model import random_base
from benchmarks.roofline import MATRICES, MEMORY, Count, counted
from benchmarks.throughput import ON_CPU, ON_GPU, PEERS, _options, compared, planned, written
from launch.machine.hardware import CATALOGUE
from launch.model.variants import VARIANTS
from launch.plan.throughput import flops_per_token
from tests.conftest import ROOT, environment
from tests.launch.conftest import plan_of, spec_of
from training.model.attention import register

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


def test_on_a_gpu_a_peer_may_compute_again_what_its_blocks_do_not_keep() -> None:
    for peer in PEERS.values():
        more = {"recomputed", "selective"} if peer.name == "TRL" else {"recomputed"}  # TRL's keeps attention's output
        assert set(peer.usual(gpu=True)) - set(peer.usual(gpu=False)) == more


def test_a_packed_base_says_so_as_transformers_own_loading_does() -> None:
    """TRL takes its way of QLoRA by this, and PEFT its layers."""
    base = random_base(SHORT.architecture, "nf4", torch.device("cpu"), torch.float32)
    assert base.is_loaded_in_4bit
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert type(adapted.get_base_model().model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    assert not hasattr(random_base(SHORT.architecture, "none", torch.device("cpu"), torch.float32), "is_loaded_in_4bit")


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--jobs=7b-fixed,small-mixture", "--jobs: 'small-mixture' is not known; known are 7b-fixed, 7b-mixture,"),
        ("--trl-ways=packed,fast", "--trl-ways: 'fast' is not known; known are packed, padded, single, recomputed"),
    ],
)
def test_what_is_not_known_is_told_before_anything_is_measured(
    argument: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["throughput", argument])
    with pytest.raises(SystemExit):
        _options()
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("installed", "major", "chosen"),
    [({2, 3}, 9, "fa3"), ({2, 3}, 8, "fa2"), ({2}, 9, "fa2"), ({3}, 8, "sdpa"), (set(), 9, "sdpa")],
)
def test_a_peer_has_the_newest_attention_that_is_installed(
    installed: set[int], major: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: 2 in installed)
    monkeypatch.setattr("transformers.utils.is_flash_attn_3_available", lambda: 3 in installed)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (major, 0))
    assert attention(replace(SHORT, gpu=True), ("fa3", "fa2")) == chosen
    assert attention(SHORT, ("fa3", "fa2")) == "sdpa"


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::...)", "attention"),
        ("cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<...>>>", "attention"),
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_cublas", "matrix products"),
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>(...)", "unpacking of weights"),
        ("void at::native::multi_tensor_apply_kernel<..., FusedAdamMathFunctor<...>>", "optimizer"),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, float, float, float, ...>", "loss"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<...>>>", "reductions"),
        ("void at::native::elementwise_kernel<..., direct_copy_kernel_cuda(...)>", "copies and casts"),
        ("Memcpy HtoD (Pinned -> Device)", "copies and casts"),
        ("void at::native::vectorized_elementwise_kernel<4, silu_kernel(at::TensorIteratorBase&)...>", "elementwise"),
        ("triton_poi_fused_mul_silu_0", "elementwise"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(...)", "communication"),
        ("aten::addmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("something_else", "other"),
    ],
)  # fmt: skip
def test_a_kernel_s_family(kernel: str, expected: str) -> None:
    assert family(kernel).startswith(expected)


def test_shares_of_a_profile_are_of_its_kernels_and_busy_is_of_the_clock() -> None:
    found = shares([("aten::mm", 3e5), ("aten::mul", 1e5), ("aten::mm", 1e5)], 1.0)
    assert found["busy"] == 0.5
    assert found["families"] == {"matrix products": 0.8, "elementwise": 0.2}
    assert list(found["kernels"]) == ["aten::mm", "aten::mul"]


def test_a_step_is_profiled_as_muster_trains_it() -> None:
    """By documents on a CPU, so that attention is SDPA's own kernel; matrices take most of it."""
    register()
    profiles = []
    for _ in range(4):  # operations are timed by the clock, and who is preempted in one of them seems slow at it
        found = profiled(Side(replace(SHORT, accumulation=1, steps=STEPS)), gpu=False)
        assert sum(found["families"].values()) == pytest.approx(1, abs=0.01)
        assert found["families"]["attention"] > 0.005
        profiles.append((next(iter(found["families"])), 0.3 < found["busy"] <= 1.1, found["families"].get("other", 0)))
        first, busy, other = profiles[-1]
        if first == "matrix products" and busy and other < 0.2:
            return
    pytest.fail(str(profiles))


def test_sides_of_a_lever_train_on_one_base_and_begin_alike() -> None:
    register()
    first = Side(replace(SHORT, accumulation=1, steps=1))
    second = Side(replace(SHORT, accumulation=1, steps=1), first)
    assert len(first.weights) > 10
    assert all(second.weights[name].data_ptr() == tensor.data_ptr() for name, tensor in first.weights.items())
    assert first.step(0)[1:] == second.step(0)[1:]


def test_what_the_planner_expects_of_the_targets_on_a_gpu() -> None:
    """MFU of the 7B at 4,096 tokens, with its band, and nf4 beside bf16: as docs/performance.md tells them."""
    rates, shares_of_peak = {}, []
    for held in ("none", "nf4"):
        spec = spec_of(
            "qwen2.5-7b", model={"quantization": held}, lora={"rank": 16, "dropout": 0.0}, data={"max_length": 4096},
            training={"micro_batch_size": 1, "global_batch_size": 2, "optimizer": "adamw_torch_fused"},
        )  # fmt: skip
        plan = plan_of("1xH100-80GB", 1, spec)
        assert plan.throughput is not None
        assert plan.topology.rates is not None
        found, flops = plan.throughput, flops_per_token(plan.architecture, plan.setting.adapter, 4096)
        rates[held] = found.tokens_per_second
        peak = plan.topology.rates.flops / flops / 100
        shares_of_peak.append([round(one / peak) for one in (found.tokens_per_second, found.low, found.high)])
    expected, low, high = shares_of_peak[0]
    told = f"The planner expects {expected} % ({low} to {high}), which is below the target, and nf4 at"
    assert f"{told} {round(100 * rates['nf4'] / rates['none'])} % of bf16" in (ROOT / "docs/performance.md").read_text()


def test_an_operation_on_paper_takes_its_flops_or_its_bytes() -> None:
    rates = CATALOGUE["H100-80GB"].rates
    square = torch.ones(1024, 1024, dtype=torch.bfloat16)
    with Count(rates) as count:
        made = square.mm(square)
        made.add_(square)
        made.t()
        made + torch.ones(1, 1, dtype=torch.bfloat16).expand(1024, 1024)
    assert count.operations == 4  # ones fills, t is a view
    assert count.seconds["mm", "bfloat16 1024x1024"] == pytest.approx(2 * 1024**3 / (MATRICES * rates.flops))
    passes = count.seconds["add_", "bfloat16 1024x1024"], count.seconds["add", "bfloat16 1024x1024"]
    assert passes == pytest.approx(
        (3 * 2 * 1024**2 / (MEMORY * rates.memory), 2 * 2 * 1024**2 / (MEMORY * rates.memory)), rel=1e-3
    )


def test_a_step_on_paper_is_shorter_with_a_lever() -> None:
    whole = {"training.loss": "chunked", "training.gradient_checkpointing": False}
    ways = [{**whole, "lora.implementation": each} for each in ("peft", "fused")]
    plain, fused = (counted("small", 1024, "H100-80GB", settings) for settings in ways)
    assert fused["seconds"] < plain["seconds"]
    assert fused["families"]["elementwise"] < plain["families"]["elementwise"]
    assert sum(fused["families"].values()) == pytest.approx(1, abs=0.01)
    again = counted("small", 1024, "H100-80GB", {**ways[1], "training.gradient_checkpointing": True})
    assert again["seconds"] > fused["seconds"]
    normed = counted("small", 1024, "H100-80GB", {**ways[1], "model.norms": "fused"})
    assert normed["seconds"] < fused["seconds"]
    assert normed["operations"] < fused["operations"]


@pytest.mark.parametrize("name", TINY_CASES)
def test_each_way_to_train_whose_memory_is_compared_trains(name: str) -> None:
    found = measured(TINY_CASES[name], gpu=False)
    assert found["seconds"] > 0
    assert found["forecast"]["peak_bytes"] > 0
    assert set(found["measured"].values()) == {None}  # a CPU has no such memory
