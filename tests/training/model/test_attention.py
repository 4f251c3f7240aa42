"""Attention by documents: packed rows give each document's own logits and the losses and gradients of SDPA's mask."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from launch.errors import UsageError
from launch.memory import activations
from launch.spec import LoraSpec
from tests.conftest import command
from tests.training.model.live_memory import saved_bytes
from tests.training.model.test_memory import architecture_of, built, setting
from training.model.attention import (
    NAME,
    TAKE_MASKS_BY_NAME,
    documents,
    flash_kernels,
    register,
    use_flash_kernels,
    varlen_forward,
)  # fmt: skip
from training.model.collate import Collator
from training.model.loss import chunk_loss
from training.model.recompute import checkpoint_blocks

register()
TOLERANCE = 1e-5  # of fp32 logits and of gradients against their norm: sums in another order


def rows(*lengths: list[int]) -> list[dict[str, Any]]:
    """One sequence of random documents for each list of lengths."""
    torch.manual_seed(2)
    made = []
    for number, each in enumerate(lengths):
        ids = torch.randint(1, 200, (sum(each),)).numpy()
        made.append({"index": number, "input_ids": ids, "labels": ids, "lengths": each})
    return made


def collated(varlen: bool, *lengths: list[int], **options: Any) -> dict[str, Any]:
    batch = Collator(0, packed=True, varlen=varlen, **options)(rows(*lengths))
    batch.pop("indices")
    return batch


def model(kind: str, attention: str, **more: Any) -> Any:
    torch.manual_seed(1)
    shapes = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 200, "max_position_embeddings": 512,
        "use_cache": False,
    }  # fmt: skip
    config = AutoConfig.for_model(kind, **{**shapes, **more})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def test_where_documents_begin_and_end() -> None:
    """Rows laid end to end, what pads a row a document of its own."""
    batch = collated(True, [3, 4], [5])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 1]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 7, 12, 14]
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["max_length_q"] == 5
    assert documents(torch.arange(9)[None])["cu_seq_lens_q"].tolist() == [0, 9]


def test_rows_that_are_not_packed_need_no_mask_either() -> None:
    batch = Collator(0, packed=False, varlen=True)(rows([4], [2]))
    assert "attention_mask" not in batch
    assert batch["cu_seq_lens_q"].tolist() == [0, 4, 6, 8]


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_and_gradients_are_those_of_a_mask(kind: str, checkpointing: bool) -> None:
    found = []
    for attention in ("sdpa", NAME):
        trained = model(kind, attention).train()
        if checkpointing:
            checkpoint_blocks(trained, 0, 1)
        loss = trained(**collated(attention == NAME, [30, 7, 50], [41, 44])).loss
        loss.backward()
        found.append((loss.detach(), torch.cat([p.grad.flatten() for p in trained.parameters()])))
    (masked, gradients), (ours, by_document) = found
    assert float(ours) == pytest.approx(float(masked), rel=TOLERANCE)
    assert float((by_document - gradients).norm() / gradients.norm()) < TOLERANCE


class Waits(TorchDispatchMode):
    """Counts what the host would wait for on a GPU: numbers and sizes that are read from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "is_all_true", "masked_select")):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", TAKE_MASKS_BY_NAME)
def test_a_micro_batch_waits_for_nothing(kind: str) -> None:
    """Forward, loss in chunks and backward; the same loss as with transformers' own look at the rows."""
    losses, waits = [], []
    for by_name in (False, True):
        trained = model(kind, NAME).train()
        trained.lm_head.requires_grad_(False)
        chunk_loss(trained)
        batch = collated(True, [30, 7, 50], [41, 44], masks_by_name=by_name, chunked_loss=True)
        with Waits() as counted:
            loss = trained(**batch).loss
            loss.backward()
        losses.append(loss.detach())
        waits.append(len(counted.seen))
    assert torch.equal(*losses)
    assert waits == [1, 0]


def package(place: Path, ops: str) -> str:
    """Code of a process with a stand-in for FlashAttention-3's package, which tells whose kernels torch then calls."""
    (place / "flash_attn_interface.py").write_text(f"import torch\n{ops}\n")
    return (
        f"import sys; sys.path.insert(0, {str(place)!r})\n"
        "from training.model.attention import flash_kernels, use_flash_kernels\n"
        "use_flash_kernels('torch'); print(flash_kernels())\n"
        "use_flash_kernels('fa3'); print(flash_kernels())"
    )


def test_another_package_s_kernels_take_the_place_of_torch_s(tmp_path: Path) -> None:
    ops = "for name in ('fwd', 'bwd'): torch.library.define(f'flash_attn_3::{name}', '(Tensor q) -> Tensor')"
    done = command("-c", package(tmp_path, ops))
    assert (done.code, done.out.split()) == (0, ["torch", "fa3"]), done.err


def test_a_package_that_is_missing_or_another_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fa3: its kernels cannot be used: No module named 'flash_attn_interface'"):
        use_flash_kernels("fa3")
    assert flash_kernels() == "torch"
    done = command("-c", package(tmp_path, ""))
    assert "'flash_attn_interface' does not expose FA3 forward kernels; install the package flash_attn_3" in done.err


def test_packed_logits_are_each_document_s_own() -> None:
    trained = model("qwen2", NAME)
    lengths = [12, 30, 1, 20]
    packed = collated(True, lengths)
    labels = packed.pop("labels")
    with torch.no_grad():
        logits = trained(**packed).logits[0]
        for part, alone in zip(logits.split(lengths), labels[0].split(lengths), strict=True):
            torch.testing.assert_close(part, trained(input_ids=alone[None]).logits[0], rtol=0, atol=TOLERANCE)


def test_a_window_of_attention_is_kept() -> None:
    """Mistral looks back so many tokens; by documents as with a mask."""
    options = {"sliding_window": 8}
    batches = [collated(varlen, [30, 7]) for varlen in (False, True)]
    with torch.no_grad():
        masked, ours = (
            model("mistral", name, **options)(**batch).loss for name, batch in zip(("sdpa", NAME), batches, strict=True)
        )
        wider = model("mistral", NAME, sliding_window=None)(**batches[1]).loss
    assert float(ours) == pytest.approx(float(masked), rel=TOLERANCE)
    assert float(wider) != pytest.approx(float(ours), rel=TOLERANCE)


def test_packed_rows_without_their_boundaries_are_refused() -> None:
    packed = collated(False, [5, 6])
    with pytest.raises(ValueError, match="needs cu_seq_lens_q"):
        model("qwen2", NAME)(**packed)


def test_answers_to_padded_questions_are_those_of_sdpa() -> None:
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    asked = {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "max_new_tokens": 6,
        "do_sample": False,
        "use_cache": True,
    }
    answers = [model("qwen2", name).eval().generate(**asked, pad_token_id=0) for name in ("sdpa", NAME)]
    assert torch.equal(*answers)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_what_it_keeps_for_the_backward_pass(kind: str, precision: str) -> None:
    """Within 3 % of the forecast. On CPU the documents' outputs are kept beside the one that they are laid into."""
    made = built(kind, precision, LoraSpec(dropout=0.0), NAME, zero=precision == "bf16")
    architecture = architecture_of(made)
    here = setting(
        architecture, precision, LoraSpec(dropout=0.0), precision == "bf16", attention=NAME, max_length=64  # type: ignore[arg-type]
    )  # fmt: skip
    batch = collated(True, [40, 24], [64])
    batch.pop("labels")
    kept = saved_bytes(made, lambda: made.get_base_model().model(**batch))
    assert activations.saved(architecture, here) == pytest.approx(kept, rel=0.03)


def torch_2_11(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *,
    return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> None:  # fmt: skip
    """What varlen_attn took when muster's oldest torch was current: grouped keys, without being told."""


@pytest.mark.parametrize("kernel", [varlen.varlen_attn, torch_2_11], ids=["installed", "2.11"])
def test_the_kernel_of_a_gpu_is_asked_for_causal_documents(
    kernel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is passed to torch's kernel, by a stand-in for it that computes the same on a CPU."""
    import training.model.attention as ours

    @wraps(kernel)
    def stand_in(*positional: Any, **named: Any) -> Any:
        given = signature(kernel).bind(*positional, **named).arguments
        q, k, v, bounds = (given[name] for name in ("query", "key", "value", "cu_seq_q"))
        assert given["cu_seq_k"] is bounds
        assert given["max_q"] == given["max_k"] == 9
        assert given["window_size"] == (-1, 0)
        assert given.get("enable_gqa", False) == ("enable_gqa" in signature(kernel).parameters)
        assert (q.shape, k.shape, v.shape) == ((14, 4, 16), (14, 2, 16), (14, 2, 16))
        return ours._one_by_one(q, k, v, bounds, given["scale"], None)

    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    q, k = torch.randn(1, 4, 14, 16), torch.randn(1, 2, 14, 16)
    bounds = torch.tensor([0, 5, 14], dtype=torch.int32)
    expected = varlen_forward(None, q, k, k, None, cu_seq_lens_q=bounds, max_length_q=9, scaling=0.25)[0]
    flat = [states.transpose(1, 2).flatten(0, 1) for states in (q, k, k)]
    found = ours._on_gpu(*flat, bounds, 9, 0.25, None)
    assert torch.equal(found.view_as(expected), expected)


def test_the_installed_kernel_takes_what_it_is_given() -> None:
    """torch's own operation, in shapes and types alone: tensors of a GPU that is not there."""
    import training.model.attention as ours

    with FakeTensorMode():
        made = {"device": "cuda", "dtype": torch.bfloat16}
        q, k = torch.empty(14, 4, 16, **made), torch.empty(14, 2, 16, **made)
        found = ours._on_gpu(q, k, k, torch.empty(3, dtype=torch.int32, device="cuda"), 9, 0.25, window=4)
    assert (found.shape, found.dtype, found.device.type) == ((14, 4, 16), torch.bfloat16, "cuda")


@pytest.mark.parametrize("kind", TAKE_MASKS_BY_NAME)
def test_the_kernel_of_a_gpu_is_given_no_fp32(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes none. Norms and embeddings in fp32 (model.upcast_unquantized) make queries and keys that are."""
    import training.model.attention as ours

    given: list[set[torch.dtype]] = []

    def stand_in(q: Any, k: Any, v: Any, cu_q: Any, *_: Any, scale: float, **__: Any) -> Any:
        given.append({q.dtype, k.dtype, v.dtype})
        return by_document(q, k, v, cu_q, scale, None)

    by_document = ours._one_by_one
    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    monkeypatch.setattr(ours, "_one_by_one", lambda q, k, v, cu, *rest: ours._on_gpu(q, k, v, cu, 9, *rest))
    trained = model(kind, NAME).to(torch.bfloat16).train()
    for name, parameter in trained.named_parameters():
        if "norm" in name or "embed" in name:
            parameter.data = parameter.data.float()
    with torch.autocast("cpu", torch.bfloat16):
        trained(**collated(True, [9, 5])).loss.backward()
    assert given == [{torch.bfloat16}] * 2
