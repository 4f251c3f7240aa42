"""The loss in chunks against the plain one: losses and gradients within 1e-6 in fp32, and what it holds at its peak."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from launch.errors import PlanMismatch
from launch.memory.forecast import forecast
from launch.memory.setting import LOSS_CHUNK
from launch.spec import LoraSpec
from tests.training.model.live_memory import Live, computing_in
from tests.training.model.test_memory import architecture_of, built, setting
from training.data.sequences.labels import IGNORED
from training.model.loss import ChunkedLoss, chunk_loss, is_chunked, positions_of
from training.model.soundness import evaluating

# Of a loss, and of gradients against their norm: sums in another order, fp32; bf16 rounds each product to 8 bits.
TOLERANCE = {"fp32": 1e-6, "bf16": 2e-2}


def batch(vocabulary: int = 200, rows: int = 2, length: int = 700) -> dict[str, torch.Tensor]:
    """More labels than one chunk, ignored places among them."""
    torch.manual_seed(3)
    ids = torch.randint(0, vocabulary, (rows, length))
    labels = torch.where(torch.rand(rows, length) < 0.2, IGNORED, ids)
    return {"input_ids": ids, "labels": labels}


def losses(precision: str, zero: bool, chunked: bool, rows: dict[str, torch.Tensor], **more: Any) -> tuple[Any, Any]:
    """The loss of one model, and its adapter's gradients as one vector."""
    torch.manual_seed(1)
    model = built("qwen2", precision, LoraSpec(dropout=0.0), "sdpa", zero, max_position_embeddings=1024)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    if chunked:
        chunk_loss(model.get_base_model())
    with computing_in(precision, not zero and precision == "bf16"):
        loss = model(**rows, **more).loss
    loss.backward()
    gradients = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(gradients)


@pytest.mark.parametrize(("precision", "zero"), [("fp32", False), ("bf16", False), ("bf16", True)])
@pytest.mark.parametrize("counted", [False, True])
def test_losses_and_gradients_are_those_of_the_plain_loss(precision: str, zero: bool, counted: bool) -> None:
    rows = batch()
    more: dict[str, Any] = {"num_items_in_batch": torch.tensor(1234)} if counted else {}
    plain, gradients = losses(precision, zero, False, rows, **more)
    chunked, ours = losses(precision, zero, True, rows, label_positions=positions_of(rows["labels"]), **more)
    assert (rows["labels"] != IGNORED).sum() > 2 * LOSS_CHUNK
    assert float(chunked) == pytest.approx(float(plain), rel=TOLERANCE[precision])
    assert float((ours - gradients).norm() / gradients.norm()) < 3 * TOLERANCE[precision]


def test_positions_are_counted_where_the_collator_did_not() -> None:
    rows = batch()
    given = losses("fp32", False, True, rows, label_positions=positions_of(rows["labels"]))
    counted = losses("fp32", False, True, rows)
    assert torch.equal(given[0], counted[0])
    assert torch.equal(given[1], counted[1])


def test_a_position_predicts_the_next_token_of_its_own_row() -> None:
    labels = torch.tensor([[5, 6, IGNORED, 8], [1, IGNORED, IGNORED, 4]])
    assert positions_of(labels).tolist() == [0, 2, 6]


def test_a_batch_without_labels_costs_nothing_and_gives_gradients_of_zero() -> None:
    """A rank whose share of a short last batch is empty takes part all the same."""
    rows = batch(length=8)
    rows["labels"] = torch.full_like(rows["labels"], IGNORED)
    loss, gradients = losses("fp32", False, True, rows, num_items_in_batch=torch.tensor(7))
    assert float(loss) == 0.0
    assert not gradients.any()
    assert len(gradients)


def test_an_evaluation_is_the_plain_one_and_keeps_no_gradient() -> None:
    model = built("qwen2", "fp32", LoraSpec(), "sdpa", zero=False, max_position_embeddings=1024)
    rows = batch()
    with evaluating(model):
        plain = model(**rows).loss
        chunk_loss(model.get_base_model())
        chunked = model(**rows).loss
    assert float(chunked) == pytest.approx(float(plain), rel=1e-6)
    assert not chunked.requires_grad


def test_without_labels_the_model_gives_logits_as_before() -> None:
    model = built("qwen2", "fp32", LoraSpec(), "sdpa", zero=False).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        chunk_loss(model.get_base_model())
        assert torch.equal(model(input_ids=ids).logits, before)
        answer = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert answer.shape == (1, 15)
    assert is_chunked(model)


def test_a_copy_of_the_model_has_its_own_loss() -> None:
    model = built("qwen2", "fp32", LoraSpec(dropout=0.0), "sdpa", zero=False)
    chunk_loss(model.get_base_model())
    copied = copy.deepcopy(model)
    copied.get_base_model().lm_head.weight.data.zero_()
    rows = batch(length=8)
    assert float(copied(**rows).loss) == pytest.approx(math.log(200))
    assert float(model(**rows).loss) != pytest.approx(math.log(200))


def test_a_head_that_is_trained_or_adapted_is_refused() -> None:
    base = built("qwen2", "fp32", LoraSpec(), "sdpa", zero=False).get_base_model()
    saved = get_peft_model(base, LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    with pytest.raises(PlanMismatch, match="plain output head, this one is a ModulesToSaveWrapper"):
        chunk_loss(saved.get_base_model())
    model = built("qwen2", "fp32", LoraSpec(), "sdpa", zero=False)
    chunk_loss(model.get_base_model())
    model.get_base_model().lm_head.weight.requires_grad_()
    with pytest.raises(PlanMismatch, match="this one is trained"):
        model(**batch(length=8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_finite_differences_and_of_cross_entropy(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2 * LOSS_CHUNK + 5, 8, dtype=dtype, requires_grad=True)
    head, labels = torch.randn(50, 8, dtype=dtype), torch.randint(0, 50, (len(hidden),))
    (3 * ChunkedLoss.apply(hidden, head, labels)).backward()  # type: ignore[no-untyped-call]
    ours, hidden.grad = hidden.grad, None
    (3 * torch.nn.functional.cross_entropy((hidden @ head.T).float(), labels, reduction="sum")).backward()
    assert ours is not None
    assert hidden.grad is not None
    assert float((ours - hidden.grad).norm() / hidden.grad.norm()) < (1e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("training", [True, False])
def test_what_it_holds_at_its_peak(precision: str, training: bool) -> None:
    """Within 3 % of the forecast: a chunk's logits, what the softmax makes of them, and the gradient that is left."""
    sizes = {"vocab_size": 5000, "max_position_embeddings": 4096}
    model = built("qwen2", precision, LoraSpec(dropout=0.0), "sdpa", zero=precision == "bf16", **sizes)
    architecture = architecture_of(model)
    here = setting(architecture, precision, LoraSpec(), precision == "bf16", max_length=1024, chunked_loss=True)  # type: ignore[arg-type]
    head = model.get_base_model().lm_head
    chunk_loss(model.get_base_model())
    states = torch.randn(here.tokens, architecture.hidden_size, dtype=head.weight.dtype, requires_grad=training)
    labels = torch.randint(0, 5000, (here.tokens,))
    with Live([states, labels, head.weight]) as live, torch.set_grad_enabled(training):
        loss = head(states.index_select(0, torch.arange(here.tokens)), labels)
        if training:
            loss.backward()
    name = "loss" if training else "evaluation"
    with_it, without = forecast(architecture, here), forecast(architecture, replace(here, chunked_loss=False))
    # What the plain loss makes: three tensors like the logits in fp32; in evaluation the logits, a copy, and one.
    plain = (12 if training else 8 if precision == "fp32" else 10) * here.tokens * 5000
    assert with_it.phases[name] - (without.phases[name] - plain) == pytest.approx(live.peak, rel=0.03)
    assert math.isfinite(float(loss))
