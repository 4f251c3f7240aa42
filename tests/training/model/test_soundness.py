"""What a model has to be before it is trained, on real small models that were broken on purpose."""

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from launch.errors import NumericalError, UsageError, WorkerError
from tests.conftest import Workspace
from tests.training.model.test_initial import disturb, plan_for
from training.model.loading import load
from training.model.soundness import check_model, check_tokens


@pytest.fixture
def tokenizer(workspace: Workspace) -> Any:
    return AutoTokenizer.from_pretrained(workspace.root / "base")


@pytest.fixture
def model(workspace: Workspace) -> Any:
    return load(plan_for(workspace))


def check(model: Any, unchanged: bool = True) -> None:
    check_model(model, model, torch.device("cpu"), torch.float32, unchanged)


def test_a_sound_model(model: Any) -> None:
    state = torch.get_rng_state()
    check(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)  # or dropout would depend on it
    disturb(model)
    check(model, unchanged=False)


def test_attention_that_looks_ahead(model: Any) -> None:
    """The mask is what transformers computes it from; a patch that forgets it changes nothing else."""
    for layer in model.base_model.model.model.layers:
        layer.self_attn.is_causal = False
    model.base_model.model.model.config._attn_implementation = "sdpa"
    with pytest.raises(UsageError, match="the loaded model is not causal: a later token changes earlier logits"):
        check(model)


def test_weights_that_are_not_finite(model: Any) -> None:
    with torch.no_grad():
        model.base_model.model.model.norm.weight[3] = torch.inf
    with pytest.raises(NumericalError, match="logits that are not finite: download its files again"):
        check(model)


def test_weights_that_say_nothing(model: Any) -> None:
    with torch.no_grad():
        for layer in (*model.base_model.model.model.layers,):
            for parameter in layer.parameters():
                parameter.zero_()
        model.base_model.model.model.embed_tokens.weight.fill_(0.5)
    with pytest.raises(NumericalError, match="the same logits for other tokens"):
        check(model)


def test_a_fresh_adapter_that_changes_the_model(model: Any) -> None:
    disturb(model)
    with pytest.raises(WorkerError, match="the fresh adapter changes the model before it has learnt anything"):
        check(model)


def test_more_tokens_than_the_model_knows(tokenizer: Any) -> None:
    tokenizer.add_tokens([f"<extra-{number}>" for number in range(40)])
    with pytest.raises(UsageError, match=r"the tokenizer has 465 tokens, the model's vocabulary 425: they"):
        check_tokens(425, tokenizer)


def test_padding_that_ends_a_turn(tokenizer: Any) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(UsageError, match=r"pads with its end token '<\|im_end\|>': set another pad_token"):
        check_tokens(425, tokenizer)
