"""What a config.json says about a model: shapes, parameter counts, LoRA targets. Pure arithmetic, no weights."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from launch.errors import UsageError
from launch.model.original import count, native_config

# Decoder-only transformers with gated MLPs and rotary positions; "qwen" is read as the Qwen2 that it becomes.
SUPPORTED = ("qwen", "qwen2", "qwen3", "llama", "mistral")

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEARS = (*ATTENTION, "gate_proj", "up_proj", "down_proj")

# What transformers takes where a config.json does not say (Qwen3Config, MistralConfig and so on).
HEAD_DIM, KV_HEADS = {"qwen3": 128}, {"mistral": 8}
POSITIONS = {"qwen2": 32768, "qwen3": 32768, "llama": 2048, "mistral": 131072}
# Kinds of rotary positions whose max_position_embeddings may be those before scaling.
SCALED = ("yarn", "linear", "dynamic")


def _place(linear: str) -> str:
    return f"self_attn.{linear}" if linear in ATTENTION else f"mlp.{linear}"


class Architecture(BaseModel):
    """Shapes of a decoder-only transformer with gated MLPs. Sizes count elements."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_type: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool = False
    qkv_bias: bool = True
    output_bias: bool = False
    """Whether the attention's output projection has a bias too."""
    mlp_bias: bool = False
    qk_norm: bool = False
    max_positions: int = 32768
    scaled_beyond: bool = False
    """Whether the original code would scale longer sequences (dynamic NTK, log-n), which Qwen2 cannot express."""

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer of one block, by module name."""
        h, i = self.hidden_size, self.intermediate_size
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h),
            "gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h),
        }  # fmt: skip

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of a native checkpoint, by name."""
        h, vocab = self.hidden_size, (self.vocab_size, self.hidden_size)
        block: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (h,), "post_attention_layernorm.weight": (h,)}
        for name, (inputs, outputs) in self.linears.items():
            part = _place(name)
            block[f"{part}.weight"] = (outputs, inputs)
            if self.biased(name):
                block[f"{part}.bias"] = (outputs,)
        if self.qk_norm:
            block |= {f"self_attn.{name}_norm.weight": (self.head_dim,) for name in ("q", "k")}
        layers = {f"model.layers.{n}.{name}": shape for n in range(self.layers) for name, shape in block.items()}
        head = {} if self.tied_embeddings else {"lm_head.weight": vocab}
        return {"model.embed_tokens.weight": vocab, **layers, "model.norm.weight": (h,), **head}

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer of all blocks, by full module name."""
        return {
            f"model.layers.{number}.{_place(name)}": sizes
            for number in range(self.layers)
            for name, sizes in self.linears.items()
        }

    def biased(self, linear: str) -> bool:
        if linear == "o_proj":
            return self.output_bias
        return self.qkv_bias if linear in ATTENTION else self.mlp_bias

    @property
    def linear_parameters(self) -> int:
        """Weights of all blocks' linear layers: what NF4 and int8 quantise."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def parameters(self) -> int:
        """All parameters. Qwen-7B: 7,721,324,544; Qwen-14B: 14,167,290,880."""
        bias = sum(outputs for name, (_, outputs) in self.linears.items() if self.biased(name))
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.linear_parameters + self.layers * (bias + norms) + embeddings + self.hidden_size


# Every block is listed by name. Llama 3.1 405B has 126 of them.
MOST_LAYERS = 1000


def from_config(config: Mapping[str, Any], origin: str) -> Architecture:
    """Reads a Hugging Face config.json's keys. Raises UsageError for an architecture that muster does not train."""
    model_type = str(config.get("model_type", "missing"))
    if model_type not in SUPPORTED:
        raise UsageError(f"{origin}: model_type {model_type!r} is not supported; allowed: {', '.join(SUPPORTED)}")
    if packed := config.get("quantization_config"):
        method = packed.get("quant_method", "unknown") if isinstance(packed, Mapping) else packed
        raise UsageError(
            f"{origin}: these weights are quantised already ({method}); muster quantises while it loads: use the"
            " unquantised model with model.quantization: nf4 or int8"
        )
    if model_type == "qwen":
        native = native_config(config, origin)
        return from_config(native, origin).model_copy(update={"scaled_beyond": True})
    heads, hidden = count(config, "num_attention_heads", origin), count(config, "hidden_size", origin)
    kv_heads = count(config, "num_key_value_heads", origin, KV_HEADS.get(model_type, heads))
    if heads % kv_heads:
        raise UsageError(
            f"{origin}: num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}: no model computes"
            " attention with these; is this the config.json that came with the weights?"
        )
    layers = count(config, "num_hidden_layers", origin)
    if layers > MOST_LAYERS:
        raise UsageError(f"{origin}: num_hidden_layers {layers} is no model's; allowed: up to {MOST_LAYERS}")
    # Qwen2's biases are part of its code, Mistral has none, the others say so.
    biased = bool(config.get("attention_bias", False)) and model_type in ("qwen3", "llama")
    return Architecture(
        model_type=model_type,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=count(config, "head_dim", origin, HEAD_DIM.get(model_type, hidden // heads)),
        intermediate_size=count(config, "intermediate_size", origin),
        vocab_size=count(config, "vocab_size", origin),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=model_type == "qwen2" or biased,
        output_bias=biased,
        mlp_bias=model_type == "llama" and bool(config.get("mlp_bias", False)),
        qk_norm=model_type == "qwen3",
        max_positions=_positions(config, count(config, "max_position_embeddings", origin, POSITIONS[model_type])),
    )


def _positions(config: Mapping[str, Any], given: int) -> int:
    """With rotary positions that are scaled, as Qwen's model cards have it for long texts (YaRN): `factor` times the
    original ones (rope_parameters, until transformers 5 rope_scaling)."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(scaling, Mapping) or scaling.get("rope_type", scaling.get("type")) not in SCALED:
        return given
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings") or given
    if not isinstance(factor, int | float) or not isinstance(original, int):
        return given
    scaled = factor * original
    return max(given, int(scaled)) if factor >= 1 and math.isfinite(scaled) else given
