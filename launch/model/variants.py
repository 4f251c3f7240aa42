"""The models that muster knows by name."""

from typing import NamedTuple

from launch.model.architecture import Architecture

APACHE = "Apache-2.0"
# https://github.com/QwenLM/Qwen/blob/main/Tongyi%20Qianwen%20LICENSE%20AGREEMENT
TONGYI = "Tongyi Qianwen"


class Variant(NamedTuple):
    """A released model. `license` is its weights', as its repository on the hub states it."""

    hub: str
    architecture: Architecture
    license: str
    chat: bool
    """Whether it was taught to answer; else it is a base model."""
    original: bool = False
    """Whether its checkpoint is in the layout of the original Qwen, which muster imports."""


def _shapes(
    hidden: int, layers: int, heads: int, kv: int, mlp: int, vocab: int, positions: int = 32768, qwen3: bool = False
) -> Architecture:
    return Architecture(
        model_type="qwen3" if qwen3 else "qwen2", hidden_size=hidden, layers=layers, heads=heads, kv_heads=kv,
        head_dim=128, intermediate_size=mlp, vocab_size=vocab, qkv_bias=not qwen3, qk_norm=qwen3,
        max_positions=positions,
    )  # fmt: skip


# From the config.json of each repository on the hub. The originals are given in the native Qwen2 layout (their own
# config.json counts both halves of the MLP, 22016 and 27392), and with the lengths that they were trained on
# (`seq_length`): 8192 and 2048 tokens. What they do beyond (dynamic NTK, log-n scaling) Qwen2 cannot express.
_QWEN15_7B, _QWEN15_14B = (
    _shapes(4096, 32, 32, 32, 11008, 151936),
    _shapes(5120, 40, 40, 40, 13696, 152064),
)
_QWEN_7B = _QWEN15_7B.model_copy(update={"max_positions": 8192, "scaled_beyond": True})
_QWEN_14B = _QWEN15_14B.model_copy(update={"max_positions": 2048, "scaled_beyond": True})
_QWEN2_7B = _shapes(3584, 28, 28, 4, 18944, 152064)
_QWEN25_14B = _shapes(5120, 48, 40, 8, 13824, 152064)
_QWEN3_8B = _shapes(4096, 36, 32, 8, 12288, 151936, positions=40960, qwen3=True)
_QWEN3_14B = _shapes(5120, 40, 40, 8, 17408, 151936, positions=40960, qwen3=True)

VARIANTS: dict[str, Variant] = {
    "qwen-7b": Variant("Qwen/Qwen-7B", _QWEN_7B, TONGYI, chat=False, original=True),
    "qwen-7b-chat": Variant("Qwen/Qwen-7B-Chat", _QWEN_7B, TONGYI, chat=True, original=True),
    "qwen-14b": Variant("Qwen/Qwen-14B", _QWEN_14B, TONGYI, chat=False, original=True),
    "qwen-14b-chat": Variant("Qwen/Qwen-14B-Chat", _QWEN_14B, TONGYI, chat=True, original=True),
    "qwen1.5-7b": Variant("Qwen/Qwen1.5-7B", _QWEN15_7B, TONGYI, chat=False),
    "qwen1.5-7b-chat": Variant("Qwen/Qwen1.5-7B-Chat", _QWEN15_7B, TONGYI, chat=True),
    "qwen1.5-14b": Variant("Qwen/Qwen1.5-14B", _QWEN15_14B, TONGYI, chat=False),
    "qwen1.5-14b-chat": Variant("Qwen/Qwen1.5-14B-Chat", _QWEN15_14B, TONGYI, chat=True),
    "qwen2-7b": Variant("Qwen/Qwen2-7B", _QWEN2_7B, APACHE, chat=False),
    "qwen2-7b-instruct": Variant("Qwen/Qwen2-7B-Instruct", _QWEN2_7B, APACHE, chat=True),
    "qwen2.5-7b": Variant("Qwen/Qwen2.5-7B", _QWEN2_7B, APACHE, chat=False),
    "qwen2.5-7b-instruct": Variant("Qwen/Qwen2.5-7B-Instruct", _QWEN2_7B, APACHE, chat=True),
    "qwen2.5-14b": Variant("Qwen/Qwen2.5-14B", _QWEN25_14B, APACHE, chat=False),
    "qwen2.5-14b-instruct": Variant("Qwen/Qwen2.5-14B-Instruct", _QWEN25_14B, APACHE, chat=True),
    "qwen3-8b": Variant("Qwen/Qwen3-8B", _QWEN3_8B, APACHE, chat=True),
    "qwen3-8b-base": Variant("Qwen/Qwen3-8B-Base", _QWEN3_8B, APACHE, chat=False),
    "qwen3-14b": Variant("Qwen/Qwen3-14B", _QWEN3_14B, APACHE, chat=True),
    "qwen3-14b-base": Variant("Qwen/Qwen3-14B-Base", _QWEN3_14B, APACHE, chat=False),
}


def by_hub(hub: str) -> str | None:
    """The name of the model with this hub id."""
    return next((name for name, variant in VARIANTS.items() if variant.hub == hub), None)
