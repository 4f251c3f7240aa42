"""The original Qwen checkpoints (Qwen-7B, Qwen-14B and their chats), said in the words of the native Qwen2.

A layer computes what Qwen2's does: RMS norms, rotary positions in halves, a bias on queries, keys and values alone, a
gated MLP (Qwen Technical Report, section 2.3). Names, a fused projection and how the MLP's width is counted differ.
"""

from collections.abc import Mapping
from typing import Any

from launch.errors import UsageError

TOKENS = "qwen.tiktoken"

# Early revisions (August 2023) called the same things otherwise.
OLDER_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "ffn_hidden_size",
    "max_position_embeddings": "n_positions",
}

# Their tensors and those that they become, joined along the first dimension. The MLP computes w1(x) * silu(w2(x)).
_OUTER = {
    "transformer.wte.weight": ("model.embed_tokens.weight",),
    "transformer.ln_f.weight": ("model.norm.weight",),
    "lm_head.weight": ("lm_head.weight",),
}
_BLOCK = {
    "ln_1.weight": ("input_layernorm.weight",),
    "attn.c_attn.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attn.c_attn.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "attn.c_proj.weight": ("self_attn.o_proj.weight",),
    "ln_2.weight": ("post_attention_layernorm.weight",),
    "mlp.w1.weight": ("mlp.up_proj.weight",),
    "mlp.w2.weight": ("mlp.gate_proj.weight",),
    "mlp.c_proj.weight": ("mlp.down_proj.weight",),
}


def native_names(layers: int) -> dict[str, tuple[str, ...]]:
    """Each tensor of an original checkpoint, and the native ones that it holds, one behind the other."""
    blocks = {
        f"transformer.h.{number}.{name}": tuple(f"model.layers.{number}.{part}" for part in parts)
        for number in range(layers)
        for name, parts in _BLOCK.items()
    }
    return _OUTER | blocks


# What the native architecture has no word for, and the only value that agrees with it.
FIXED = {
    "rotary_pct": 1.0, "no_bias": True, "scale_attn_weights": True, "tie_word_embeddings": False,
    "apply_residual_connection_post_layernorm": False,
}  # fmt: skip


def native_config(config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The config.json of the Qwen2 that an original checkpoint becomes.

    `intermediate_size` counts both halves of the gated MLP there. Positions end at `seq_length`, beyond which the
    original scales them. Raises UsageError for a value that Qwen2 cannot express.
    """
    named = {ours: config[older] for ours, older in OLDER_NAMES.items() if older in config and ours not in config}
    known = {**config, **named}
    if "padded_vocab_size" in known:
        known["vocab_size"] = known["padded_vocab_size"]
    for key, expected in FIXED.items():
        if known.get(key, expected) != expected:
            raise UsageError(
                f"{origin}: key {key!r} is {known[key]!r}; the native Qwen2 architecture can express {expected!r} alone"
            )
    heads, hidden = count(known, "num_attention_heads", origin), count(known, "hidden_size", origin)
    both_halves = count(known, "intermediate_size", origin)
    if both_halves % 2:
        raise UsageError(f"{origin}: key 'intermediate_size' is {both_halves}, but it counts two equal halves")
    base = count(known, "rotary_emb_base", origin, 10000)
    positions = count(known, "max_position_embeddings", origin, 8192)
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": count(known, "vocab_size", origin),
        "hidden_size": hidden,
        "num_hidden_layers": count(known, "num_hidden_layers", origin),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": count(known, "kv_channels", origin, hidden // heads),
        "intermediate_size": both_halves // 2,
        "hidden_act": "silu",
        "rms_norm_eps": fraction(known, "layer_norm_epsilon", origin, 1e-6),
        "rope_theta": float(base),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(base)},
        "max_position_embeddings": min(count(known, "seq_length", origin, positions), positions),
        "initializer_range": fraction(known, "initializer_range", origin, 0.02),
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "bos_token_id": None,
        "use_cache": True,
    }


def fraction(config: Mapping[str, Any], key: str, origin: str, default: float) -> float:
    """A number between 0 and 1 that config.json gives. Raises UsageError for anything else."""
    value = config.get(key, default)
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise UsageError(f"{origin}: key {key!r} is {value!r}; expected a number between 0 and 1")
    return float(value)


def count(config: Mapping[str, Any], key: str, origin: str, default: int | None = None) -> int:
    """A size that config.json gives. Raises UsageError where it is missing or no whole number above 0."""
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{origin}: key {key!r} is missing or not a number")
    return value
