"""What a config.json says about a model."""

import pytest

from launch.architecture import ORIGINAL_LAYOUT, VARIANTS, Architecture, from_config
from launch.errors import UsageError
from tests.launch.conftest import TINY_CONFIG

# Parameters as the hub's safetensors metadata count them.
RELEASED = {
    "qwen-7b": 7_721_324_544,
    "qwen-14b": 14_167_290_880,
    "qwen1.5-7b": 7_721_324_544,
    "qwen1.5-14b": 14_167_290_880,
    "qwen2-7b": 7_615_616_512,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
}


@pytest.mark.parametrize(("variant", "parameters"), RELEASED.items())
def test_parameters_of_the_released_models(variant: str, parameters: int) -> None:
    assert VARIANTS[variant][1].parameters == parameters


def test_each_variant_is_a_known_size_and_its_hub_id_names_it() -> None:
    for name, (hub_id, architecture) in VARIANTS.items():
        assert architecture.parameters in RELEASED.values()
        assert hub_id.lower() == f"qwen/{name}"


def test_the_original_layouts_are_variants() -> None:
    assert set(VARIANTS) >= ORIGINAL_LAYOUT == {"qwen-7b", "qwen-7b-chat", "qwen-14b", "qwen-14b-chat"}


def test_lora_parameters_of_the_recipe() -> None:
    # Qwen2.5-14B: 48 layers x rank 8 x (2 x 10240 + 2 x 6144 + 3 x 18944).
    assert VARIANTS["qwen2.5-14b"][1].lora_parameters(8, "all-linear") == 48 * 8 * 89_600 == 34_406_400


def test_lora_parameters_of_two_targets() -> None:
    architecture = VARIANTS["qwen2.5-14b"][1]
    assert architecture.lora_parameters(8, ["q_proj", "v_proj"]) == 48 * 8 * (10_240 + 6_144)
    assert architecture.lora_parameters(16, "all-linear") == 2 * architecture.lora_parameters(8, "all-linear")


def real_parameters(config: dict[str, object]) -> tuple[int, int]:
    """Parameters, and those of a rank-4 adapter on all linear layers, of transformers' and peft's own model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    return parameters, sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    "changes",
    [{}, {"model_type": "qwen3", "head_dim": 32}, {"tie_word_embeddings": True}],
    ids=["qwen2", "qwen3", "tied"],
)
def test_the_counts_are_those_of_the_real_model(changes: dict[str, object]) -> None:
    config = {**TINY_CONFIG, **changes}
    architecture = from_config(config, "config.json")
    assert real_parameters(config) == (architecture.parameters, architecture.lora_parameters(4, "all-linear"))


def test_a_config_is_read() -> None:
    assert from_config(TINY_CONFIG, "config.json") == Architecture(
        model_type="qwen2",
        hidden_size=64,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=16,
        intermediate_size=96,
        vocab_size=320,
        max_positions=512,
    )


def test_a_config_without_key_value_heads_has_as_many_as_heads() -> None:
    config = {key: value for key, value in TINY_CONFIG.items() if key != "num_key_value_heads"}
    assert from_config(config, "config.json").kv_heads == 4


def refused(**changes: object) -> str:
    config = {key: value for key, value in {**TINY_CONFIG, **changes}.items() if value is not None}
    with pytest.raises(UsageError) as caught:
        from_config(config, "base/config.json")
    return str(caught.value)


def test_the_original_layout_is_refused() -> None:
    assert refused(model_type="qwen") == (
        "base/config.json: model_type 'qwen' is the original checkpoint layout, whose code comes with the weights;"
        " muster never runs such code. Use a successor of the same size: qwen1.5-7b-chat, qwen2.5-7b-instruct,"
        " qwen1.5-14b-chat, qwen2.5-14b-instruct"
    )


def test_another_architecture_is_refused() -> None:
    assert refused(model_type="llama") == (
        "base/config.json: model_type 'llama' is not supported; allowed: qwen2, qwen3"
    )
    assert refused(model_type=None) == (
        "base/config.json: model_type 'missing' is not supported; allowed: qwen2, qwen3"
    )


def test_a_config_without_a_needed_key() -> None:
    assert refused(vocab_size=None) == "base/config.json: key 'vocab_size' is missing or not a number"


def test_a_config_with_text_for_a_number() -> None:
    assert refused(vocab_size="many") == "base/config.json: key 'vocab_size' is missing or not a number"


def test_a_config_without_heads() -> None:
    refused(num_attention_heads=0)
