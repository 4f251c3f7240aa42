"""Which modules an adapter changes, against peft itself."""

from typing import Any

import pytest

from launch.model.adapter import adapted, adapter_parameters, conflicts, other_kind
from launch.model.architecture import from_config
from launch.spec import LoraSpec
from tests.launch.conftest import TINY_CONFIG

ARCHITECTURE = from_config({**TINY_CONFIG, "num_hidden_layers": 3}, "config.json")
ALLOWED = (
    "allowed: all-linear, a regular expression, or a list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj,"
    " down_proj"
)


def by_peft(lora: LoraSpec) -> tuple[set[str], int]:
    """The modules that peft adapts, and what it trains."""
    import torch
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer
    from transformers import AutoConfig, AutoModelForCausalLM

    from training.model.loading import lora_config

    config = AutoConfig.for_model(**{**TINY_CONFIG, "num_hidden_layers": 3, "tie_word_embeddings": False})
    with torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(config), lora_config(lora))
    names = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {name.removeprefix("base_model.model.") for name in names}, trained


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": ["q_proj", "mlp.up_proj"]},
        {"target_modules": ["layers.1.self_attn.v_proj"]},
        {"target_modules": r".*layers\.[02]\.mlp\.(up|down)_proj"},
        {"layers_to_transform": [0, 2]},
        {"target_modules": ["o_proj"], "layers_to_transform": [1]},
        {"use_dora": True, "target_modules": ["k_proj"]},
        {"use_rslora": True, "modules_to_save": ["embed_tokens", "lm_head"]},
        {"bias": "all", "target_modules": ["q_proj", "up_proj"]},
        {"bias": "lora_only", "target_modules": ["q_proj", "up_proj"]},
    ],
    ids=str,
)
def test_the_modules_and_parameters_are_peft_s(options: dict[str, Any]) -> None:
    lora = LoraSpec(rank=4, **options)
    assert conflicts(ARCHITECTURE, lora) == []
    assert (set(adapted(ARCHITECTURE, lora)), adapter_parameters(ARCHITECTURE, lora)) == by_peft(lora)


@pytest.mark.parametrize(("start", "refused"), [("pissa", True), ("loftq", True), ("default", False)])
def test_more_pairs_than_a_module_has(start: Any, refused: bool) -> None:
    """k_proj has 32 outputs."""
    lora = LoraSpec(rank=33, init_lora_weights=start)
    message = f"lora.rank 33: {start} finds at most 32 pairs in the narrowest module; lower it, or use"
    expected = [(("lora", "rank"), f"{message} init_lora_weights: default")] if refused else []
    assert conflicts(ARCHITECTURE, lora) == expected
    assert conflicts(ARCHITECTURE, LoraSpec(rank=32, init_lora_weights=start)) == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, []),
        ({"bias": "all"}, ["lora.bias: the adapter has 'all', the spec says 'none'"]),
        ({"modules_to_save": ["lm_head"]}, ["lora.modules_to_save: the adapter has ['lm_head'], the spec says []"]),
        ({"rank_pattern": {"q_proj": 4}}, ["rank_pattern is set, which a spec cannot say"]),
        ({"r": 4}, ["lora.rank: the adapter has 4, the spec says 8"]),
    ],
)
def test_what_another_adapter_must_have_in_common(config: dict[str, Any], expected: list[str]) -> None:
    assert other_kind({"r": 8, "lora_alpha": 32, **config}, LoraSpec()) == expected


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga"])
def test_an_adapter_of_a_changed_base_is_for_no_other(start: str) -> None:
    (told,) = other_kind({"r": 8, "lora_alpha": 32, "init_lora_weights": start}, LoraSpec())
    assert told.startswith(f"it is for a base that its init_lora_weights {start!r} has changed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_modules": ["q_proj", "lm_head"]},
            f"target_modules: lm_head: not a linear layer of this model; {ALLOWED}",
        ),
        ({"target_modules": []}, f"target_modules: empty: not a linear layer of this model; {ALLOWED}"),
        (
            {"target_modules": "q_prj"},
            "target_modules: 'q_prj' matches no linear layer; a whole name is model.layers.0.self_attn.q_proj; "
            + ALLOWED,
        ),
        (
            {"target_modules": ".*(v_proj|lm_head)"},
            "target_modules: '.*(v_proj|lm_head)' matches lm_head too, which is no linear layer of a block;"
            " a whole name is model.layers.0.self_attn.q_proj; " + ALLOWED,
        ),
        (
            {"target_modules": ".*self_attn.*"},
            "target_modules: '.*self_attn.*' matches model.layers.0.self_attn too, which is no linear layer of a block;"
            " a whole name is model.layers.0.self_attn.q_proj; " + ALLOWED,
        ),
        (
            {"target_modules": "(q_proj"},
            "target_modules: '(q_proj' is no regular expression: missing ), unterminated subpattern at position 0; "
            + ALLOWED,
        ),
        ({"layers_to_transform": [1, 3]}, "layers_to_transform: 3; allowed: 0 to 2"),
        ({"layers_to_transform": []}, "layers_to_transform: empty; allowed: 0 to 2"),
    ],
)
def test_what_the_model_does_not_have(options: dict[str, Any], message: str) -> None:
    assert [told for _, told in conflicts(ARCHITECTURE, LoraSpec(**options))] == [f"lora.{message}"]


def test_a_tied_head_is_not_trained_alone() -> None:
    tied = ARCHITECTURE.model_copy(update={"tied_embeddings": True})
    assert conflicts(tied, LoraSpec(modules_to_save=["lm_head"])) == [
        (
            ("lora", "modules_to_save"),
            "lora.modules_to_save: this model's output head is its embedding; training one would part them; remove it",
        )
    ]
