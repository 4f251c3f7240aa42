"""What a config.json says about a model."""

import math

import pytest

from launch.errors import UsageError
from launch.model.adapter import adapter_parameters
from launch.model.architecture import Architecture, from_config
from launch.model.variants import VARIANTS
from launch.spec import LoraSpec
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
    assert VARIANTS[variant].architecture.parameters == parameters


def test_each_variant_is_a_known_size_and_its_hub_id_names_it() -> None:
    for name, variant in VARIANTS.items():
        assert variant.architecture.parameters in RELEASED.values()
        assert variant.hub.lower() == f"qwen/{name}"


def test_the_originals_are_variants_with_the_lengths_that_they_were_trained_on() -> None:
    lengths = {name: v.architecture.max_positions for name, v in VARIANTS.items() if v.original}
    assert lengths == {"qwen-7b": 8192, "qwen-7b-chat": 8192, "qwen-14b": 2048, "qwen-14b-chat": 2048}


def test_lora_parameters_of_the_recipe() -> None:
    # Qwen2.5-14B: 48 layers x rank 8 x (2 x 10240 + 2 x 6144 + 3 x 18944).
    assert adapter_parameters(VARIANTS["qwen2.5-14b"].architecture, LoraSpec()) == 48 * 8 * 89_600 == 34_406_400


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


def real_tensors(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what transformers saves of its own model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    tied = getattr(model, "all_tied_weights_keys", {})
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


ARCHITECTURES: dict[str, dict[str, object]] = {
    "qwen2": {},
    "tied": {"tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "qwen3 with biases": {"model_type": "qwen3", "head_dim": 16, "attention_bias": True},
    "llama": {"model_type": "llama"},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral"},
}


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_the_counts_are_those_of_the_real_model(changes: dict[str, object]) -> None:
    config = {**TINY_CONFIG, **changes}
    architecture = from_config(config, "config.json")
    assert real_parameters(config) == (architecture.parameters, adapter_parameters(architecture, LoraSpec(rank=4)))
    assert real_tensors(config) == architecture.tensors
    assert sum(math.prod(shape) for shape in architecture.tensors.values()) == architecture.parameters


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


def test_another_architecture_is_refused() -> None:
    assert refused(model_type="gemma") == (
        "base/config.json: model_type 'gemma' is not supported; allowed: qwen, qwen2, qwen3, llama, mistral"
    )
    assert refused(model_type=None).startswith("base/config.json: model_type 'missing' is not supported")


def test_weights_that_are_quantised_already_are_refused() -> None:
    assert refused(quantization_config={"quant_method": "gptq", "bits": 4}) == (
        "base/config.json: these weights are quantised already (gptq); muster quantises while it loads: use the"
        " unquantised model with model.quantization: nf4 or int8"
    )


def test_a_quantization_config_that_is_no_mapping_is_refused_as_well() -> None:
    assert "quantised already (gptq); muster" in refused(quantization_config="gptq")


def test_a_config_without_a_needed_key() -> None:
    assert refused(vocab_size=None) == "base/config.json: key 'vocab_size' is missing or not a number"


def test_heads_that_cannot_share_keys_and_values_are_refused() -> None:
    assert refused(num_key_value_heads=3).startswith(
        "base/config.json: num_key_value_heads 3 does not divide num_attention_heads 4"
    )


@pytest.mark.parametrize(
    ("key", "scaling", "positions"),
    [
        ("rope_scaling", {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        ("rope_parameters", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ("rope_parameters", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 512),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e6}, 1280),
        ("rope_scaling", {"type": "dynamic", "factor": 2}, 1024),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1e6}, 512),
        # Llama 3's max_position_embeddings are those after scaling.
        ("rope_parameters", {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}, 512),
        ("rope_scaling", {"type": "yarn", "factor": None}, 512),
        ("rope_scaling", {"type": "yarn", "factor": math.inf}, 512),  # JSON as Python reads it knows Infinity and NaN
        ("rope_scaling", {"type": "yarn", "factor": math.nan}, 512),
        ("rope_scaling", None, 512),
    ],
    ids=str,
)
def test_positions_that_are_scaled(key: str, scaling: object, positions: int) -> None:
    assert from_config({**TINY_CONFIG, key: scaling}, "config.json").max_positions == positions


def test_a_config_with_text_for_a_number() -> None:
    assert refused(vocab_size="many") == "base/config.json: key 'vocab_size' is missing or not a number"


def test_a_config_without_heads() -> None:
    refused(num_attention_heads=0)


def test_a_config_with_more_blocks_than_memory_could_list() -> None:
    assert refused(num_hidden_layers=10**9) == (
        "base/config.json: num_hidden_layers 1000000000 is no model's; allowed: up to 1000"
    )


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
def test_what_a_config_leaves_out_is_as_transformers_has_it(kind: str) -> None:
    from transformers import AutoConfig

    given = {"hidden_size": 1024, "num_attention_heads": 32, "num_hidden_layers": 2, "intermediate_size": 512}
    real = AutoConfig.for_model(kind, **given, vocab_size=100)
    found = from_config({"model_type": kind, "vocab_size": 100, **given}, "config.json")
    assert found.kv_heads == real.num_key_value_heads
    assert found.max_positions == real.max_position_embeddings
    if kind == "qwen3":
        assert found.head_dim == real.head_dim == 128
