"""What a config.json says about a model: shapes, parameter counts, LoRA targets. Pure arithmetic, no weights."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from launch.errors import UsageError

SUPPORTED = ("qwen2", "qwen3")


class Architecture(BaseModel):
    """Shapes of a decoder-only transformer with gated MLPs (Qwen2, Qwen3). Sizes count elements."""

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
    qk_norm: bool = False
    max_positions: int = 32768

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
    def linear_parameters(self) -> int:
        """Weights of all blocks' linear layers: what NF4 and int8 quantise."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def parameters(self) -> int:
        """All parameters. Qwen-7B: 7,721,324,544; Qwen-14B: 14,167,290,880."""
        bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.linear_parameters + self.layers * (bias + norms) + embeddings + self.hidden_size

    def lora_parameters(self, rank: int, targets: str | list[str]) -> int:
        """Trainable parameters of a LoRA adapter: rank x (inputs + outputs) for each target of each block."""
        adapted = self.linears if targets == "all-linear" else set(targets) & set(self.linears)
        return self.layers * rank * sum(sum(self.linears[name]) for name in adapted)


def from_config(config: Mapping[str, Any], origin: str) -> Architecture:
    """Reads a Hugging Face config.json's keys. Raises UsageError for an architecture that muster does not train."""
    model_type = str(config.get("model_type", "missing"))
    if model_type == "qwen":
        raise UsageError(
            f"{origin}: model_type 'qwen' is the original checkpoint layout, whose code comes with the weights;"
            " muster never runs such code. Use a successor of the same size:"
            " qwen1.5-7b-chat, qwen2.5-7b-instruct, qwen1.5-14b-chat, qwen2.5-14b-instruct"
        )
    if model_type not in SUPPORTED:
        raise UsageError(f"{origin}: model_type {model_type!r} is not supported; allowed: {', '.join(SUPPORTED)}")

    def count(key: str, default: int | None = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{origin}: key {key!r} is missing or not a number")
        return value

    heads, hidden = count("num_attention_heads"), count("hidden_size")
    return Architecture(
        model_type=model_type,
        hidden_size=hidden,
        layers=count("num_hidden_layers"),
        heads=heads,
        kv_heads=count("num_key_value_heads", heads),
        head_dim=count("head_dim", hidden // heads),
        intermediate_size=count("intermediate_size"),
        vocab_size=count("vocab_size"),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=model_type == "qwen2",
        qk_norm=model_type == "qwen3",
        max_positions=count("max_position_embeddings", 32768),
    )


def _qwen(
    hidden: int, layers: int, heads: int, kv: int, mlp: int, vocab: int, positions: int = 32768, qwen3: bool = False
) -> Architecture:
    return Architecture(
        model_type="qwen3" if qwen3 else "qwen2", hidden_size=hidden, layers=layers, heads=heads, kv_heads=kv,
        head_dim=128, intermediate_size=mlp, vocab_size=vocab, qkv_bias=not qwen3, qk_norm=qwen3,
        max_positions=positions,
    )  # fmt: skip


# Shapes of the released models, from the config.json of each hub repository. The originals (Qwen-7B, Qwen-14B) are
# given in the native Qwen2 layout: their config.json counts both halves of the MLP, 22016 and 27392.
_ORIGINAL_7B = _qwen(4096, 32, 32, 32, 11008, 151936, positions=8192)
_ORIGINAL_14B = _qwen(5120, 40, 40, 40, 13696, 152064, positions=8192)
_QWEN15_7B = _qwen(4096, 32, 32, 32, 11008, 151936)
_QWEN15_14B = _qwen(5120, 40, 40, 40, 13696, 152064)
_QWEN2_7B = _qwen(3584, 28, 28, 4, 18944, 152064)
_QWEN25_14B = _qwen(5120, 48, 40, 8, 13824, 152064)
_QWEN3_8B = _qwen(4096, 36, 32, 8, 12288, 151936, positions=40960, qwen3=True)
_QWEN3_14B = _qwen(5120, 40, 40, 8, 17408, 151936, positions=40960, qwen3=True)

VARIANTS: dict[str, tuple[str, Architecture]] = {
    "qwen-7b": ("Qwen/Qwen-7B", _ORIGINAL_7B),
    "qwen-7b-chat": ("Qwen/Qwen-7B-Chat", _ORIGINAL_7B),
    "qwen-14b": ("Qwen/Qwen-14B", _ORIGINAL_14B),
    "qwen-14b-chat": ("Qwen/Qwen-14B-Chat", _ORIGINAL_14B),
    "qwen1.5-7b": ("Qwen/Qwen1.5-7B", _QWEN15_7B),
    "qwen1.5-7b-chat": ("Qwen/Qwen1.5-7B-Chat", _QWEN15_7B),
    "qwen1.5-14b": ("Qwen/Qwen1.5-14B", _QWEN15_14B),
    "qwen1.5-14b-chat": ("Qwen/Qwen1.5-14B-Chat", _QWEN15_14B),
    "qwen2-7b": ("Qwen/Qwen2-7B", _QWEN2_7B),
    "qwen2-7b-instruct": ("Qwen/Qwen2-7B-Instruct", _QWEN2_7B),
    "qwen2.5-7b": ("Qwen/Qwen2.5-7B", _QWEN2_7B),
    "qwen2.5-7b-instruct": ("Qwen/Qwen2.5-7B-Instruct", _QWEN2_7B),
    "qwen2.5-14b": ("Qwen/Qwen2.5-14B", _QWEN25_14B),
    "qwen2.5-14b-instruct": ("Qwen/Qwen2.5-14B-Instruct", _QWEN25_14B),
    "qwen3-8b": ("Qwen/Qwen3-8B", _QWEN3_8B),
    "qwen3-8b-base": ("Qwen/Qwen3-8B-Base", _QWEN3_8B),
    "qwen3-14b": ("Qwen/Qwen3-14B", _QWEN3_14B),
    "qwen3-14b-base": ("Qwen/Qwen3-14B-Base", _QWEN3_14B),
}
ORIGINAL_LAYOUT = frozenset({"qwen-7b", "qwen-7b-chat", "qwen-14b", "qwen-14b-chat"})
