"""The original Qwen's config.json, said in Qwen2's words."""

from typing import Any

import pytest

from launch.errors import UsageError
from launch.model.architecture import from_config
from launch.model.original import native_config, native_names
from launch.model.variants import VARIANTS

# As Qwen-7B-Chat and the first Qwen-7B give them.
CONFIG = {
    "model_type": "qwen", "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016,
    "num_hidden_layers": 32, "num_attention_heads": 32, "kv_channels": 128, "max_position_embeddings": 32768,
    "seq_length": 8192, "layer_norm_epsilon": 1e-06, "rotary_emb_base": 10000, "rotary_pct": 1.0, "no_bias": True,
    "use_dynamic_ntk": True, "use_logn_attn": True, "tie_word_embeddings": False, "scale_attn_weights": True,
}  # fmt: skip
OLDER = {
    "model_type": "qwen", "padded_vocab_size": 151936, "vocab_size": 151851, "n_embd": 4096, "ffn_hidden_size": 22016,
    "n_layer": 32, "n_head": 32, "kv_channels": 128, "n_positions": 8192, "seq_length": 2048, "no_bias": True,
}  # fmt: skip


def test_half_of_the_mlp_s_width_and_the_length_that_it_was_trained_on() -> None:
    assert from_config(CONFIG, "config.json") == VARIANTS["qwen-7b"].architecture


def test_the_keys_of_the_first_revisions() -> None:
    expected = VARIANTS["qwen-7b"].architecture.model_copy(update={"max_positions": 2048})
    assert from_config(OLDER, "config.json") == expected


def test_the_rest_is_qwen2_s() -> None:
    native = native_config({**CONFIG, "rotary_emb_base": 1000000}, "config.json")
    assert {key: native[key] for key in ("model_type", "rms_norm_eps", "rope_theta", "tie_word_embeddings")} == {
        "model_type": "qwen2", "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "tie_word_embeddings": False,
    }  # fmt: skip


def test_each_tensor_has_its_place() -> None:
    names = [native for parts in native_names(32).values() for native in parts]
    assert sorted(names) == sorted(VARIANTS["qwen-7b"].architecture.tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_bias": False}, "key 'no_bias' is False; the native Qwen2 architecture can express True alone"),
        ({"rotary_pct": 0.5}, "key 'rotary_pct' is 0.5; the native Qwen2 architecture can express 1.0 alone"),
        ({"intermediate_size": 33}, "key 'intermediate_size' is 33, but it counts two equal halves"),
        ({"hidden_size": None}, "key 'hidden_size' is missing or not a number"),
    ],
)
def test_what_qwen2_cannot_express(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        native_config({**CONFIG, **changes}, "config.json")
    assert str(caught.value) == f"config.json: {message}"
