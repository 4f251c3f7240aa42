"""What a loaded model has to be before a step is made: causal, finite, as large as its tokenizer, changed by nobody.

A patched attention, a wrong mask or a broken download trains without an error, and to nothing (Qwen#933).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from launch.errors import NumericalError, UsageError, WorkerError

LENGTH, CHANGED = 24, 6  # tokens of a probe, and how many of its last ones are exchanged
# Root mean square over the logits' standard deviation. The same kernel on the same shapes gives the same sums: what
# differs by more than rounding was computed from something else.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# LLM.int8() takes columns with an outlier out of the product for all tokens: a later token moves what is rounded.
INT8_TOLERANCE = 0.1


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout and gradients; afterwards in the mode that it was in before."""
    before = model.training
    model.eval()
    for module in model.modules():
        # On CPU bitsandbytes repacks NF4 weights for inference at the first forward pass of a layer in evaluation,
        # for good: training would then fail. The layer itself does the same in both modes.
        if type(module).__name__ == "Linear4bit":
            module.training = True
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(before)


def check_model(model: Any, adapter: Any, device: torch.device, precision: torch.dtype, unchanged: bool) -> None:
    """Every rank calls this, as sharded engines require. `model` is the engine's, `adapter` the PeftModel inside it,
    `precision` what it computes in.

    `unchanged` says that the adapter has learnt nothing yet, so that the model has to be its base. Raises UsageError
    for a model that cannot be trained, NumericalError for broken weights, WorkerError for an adapter that is wrong.
    """
    known = adapter.config.vocab_size
    first = torch.arange(LENGTH, device=device)[None] * 7919 % known  # a prime: tokens from all over the vocabulary
    other = first.clone()
    other[:, -CHANGED:] = (other[:, -CHANGED:] + 1) % known
    with evaluating(model):
        logits, exchanged = _logits(model, first), _logits(model, other)
        with adapter.disable_adapter():
            base = _logits(model, first) if unchanged else logits
    if not torch.isfinite(torch.stack((logits, exchanged))).all():
        raise NumericalError("the loaded model gives logits that are not finite: download its files again")
    close = float(_tolerance(adapter, precision) * logits.std())
    if distance(logits[:, :-CHANGED], exchanged[:, :-CHANGED]) > close:
        raise UsageError(
            "the loaded model is not causal: a later token changes earlier logits, so that it would learn by looking"
            " ahead; use an unpatched model and transformers"
        )
    if not distance(logits[:, -1], exchanged[:, -1]) > close:
        raise NumericalError("the loaded model gives the same logits for other tokens: download its files again")
    if distance(logits, base) > close:
        raise WorkerError("the fresh adapter changes the model before it has learnt anything")


def check_tokens(vocabulary: int, tokenizer: Any) -> None:
    """Raises UsageError for a tokenizer that is not this model's, or pads with what ends a turn."""
    if len(tokenizer) > vocabulary:
        raise UsageError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model's vocabulary {vocabulary:,}: they do not belong"
            " together; take both from one repository"
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UsageError(
            f"the tokenizer pads with its end token {tokenizer.eos_token!r}: set another pad_token in its"
            " tokenizer_config.json"
        )


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids).logits
    return logits.float()


def _tolerance(model: Any, precision: torch.dtype) -> float:
    if any(type(module).__name__ == "Linear8bitLt" for module in model.modules()):
        return INT8_TOLERANCE
    return TOLERANCE[precision]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square of the difference."""
    return float((one - other).pow(2).mean().sqrt())
