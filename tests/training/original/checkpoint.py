"""A small checkpoint in the original Qwen's layout, and its forward pass by itself.

Written from the Qwen Technical Report (2309.16609, section 2.3): pre-normalised blocks with RMSNorm, rotary positions,
a bias on queries, keys and values alone, SwiGLU with w1(x) * silu(w2(x)), untied embeddings. Shares no code with what
it tests.
"""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

CONFIG: dict[str, Any] = {
    "model_type": "qwen", "architectures": ["QWenLMHeadModel"], "vocab_size": 151936, "hidden_size": 32,
    "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "kv_channels": 8, "seq_length": 64,
    "max_position_embeddings": 256, "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "no_bias": True,
    "use_dynamic_ntk": True, "use_logn_attn": True, "tie_word_embeddings": False,
    "auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"},
}  # fmt: skip


def tiktoken_file() -> Path:
    """The official vocabulary, which the package dashscope ships."""
    found = importlib.util.find_spec("dashscope")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "resources/qwen.tiktoken"


def random_tensors(seed: int = 0) -> Tensors:
    """Weights large enough that each part of a block changes the logits."""
    hidden, half, vocab = CONFIG["hidden_size"], CONFIG["intermediate_size"] // 2, CONFIG["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (vocab, hidden)}
    for number in range(CONFIG["num_hidden_layers"]):
        block = {
            "ln_1.weight": (hidden,), "attn.c_attn.weight": (3 * hidden, hidden), "attn.c_attn.bias": (3 * hidden,),
            "attn.c_proj.weight": (hidden, hidden), "ln_2.weight": (hidden,), "mlp.w1.weight": (half, hidden),
            "mlp.w2.weight": (half, hidden), "mlp.c_proj.weight": (hidden, half),
        }  # fmt: skip
        shapes |= {f"transformer.h.{number}.{name}": shape for name, shape in block.items()}
    shapes |= {"transformer.ln_f.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: tuple[int, ...]) -> torch.Tensor:
        noise = torch.randn(shape, generator=generator)
        return noise / math.sqrt(shape[-1]) if len(shape) > 1 else 1 + noise / 2

    return {name: drawn(shape) for name, shape in shapes.items()}


def write_checkpoint(
    directory: Path, tensors: Tensors, shards: int = 2, pickled: bool = False, chat: bool = True, **changes: Any
) -> Path:
    """The files of a checkpoint, with code that must never run."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    generation = {
        "chat_format": "chatml" if chat else "raw",
        "top_p": 0.8,
        "max_new_tokens": 512,
        "eos_token_id": 151643,
    }
    (directory / "generation_config.json").write_text(json.dumps(generation))
    (directory / "qwen.tiktoken").symlink_to(tiktoken_file())
    (directory / "LICENSE").write_text("Tongyi Qianwen LICENSE AGREEMENT\n")
    for name in ("modeling_qwen.py", "tokenization_qwen.py"):
        (directory / name).write_text("raise SystemExit('code that came with the weights was run')\n")
    ending = "bin" if pickled else "safetensors"
    stem = "pytorch_model" if pickled else "model"
    parts: list[Tensors] = [{} for _ in range(shards)]
    for number, (name, tensor) in enumerate(tensors.items()):
        parts[number * shards // len(tensors)][name] = tensor
    files = (
        [f"{stem}-{number:05}-of-{shards:05}.{ending}" for number in range(1, shards + 1)]
        if shards > 1
        else [f"{stem}.{ending}"]
    )
    for file, part in zip(files, parts, strict=True):
        if pickled:
            torch.save(part, directory / file)
        else:
            save_file(part, directory / file)
    if shards > 1:
        weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (directory / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def logits(tensors: Tensors, ids: torch.Tensor) -> torch.Tensor:
    """[batch, length, vocabulary] of token ids [batch, length]."""
    x = tensors["transformer.wte.weight"][ids]
    for number in range(CONFIG["num_hidden_layers"]):
        block = {name.split(f"h.{number}.")[1]: t for name, t in tensors.items() if f"h.{number}." in name}
        x = x + _attention(_norm(x, block["ln_1.weight"]), block)
        y = _norm(x, block["ln_2.weight"])
        gate = y @ block["mlp.w2.weight"].T
        up = y @ block["mlp.w1.weight"].T
        x = x + (up * gate * torch.sigmoid(gate)) @ block["mlp.c_proj.weight"].T
    return _norm(x, tensors["transformer.ln_f.weight"]) @ tensors["lm_head.weight"].T


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + CONFIG["layer_norm_epsilon"]) * weight


def _attention(x: torch.Tensor, block: Tensors) -> torch.Tensor:
    batch, length, hidden = x.shape
    heads = CONFIG["num_attention_heads"]
    mixed = x @ block["attn.c_attn.weight"].T + block["attn.c_attn.bias"]
    query, key, value = (part.reshape(batch, length, heads, -1).transpose(1, 2) for part in mixed.split(hidden, -1))
    scores = _rotated(query) @ _rotated(key).transpose(-1, -2) / math.sqrt(hidden // heads)
    future = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
    weights = torch.softmax(scores.masked_fill(future, -torch.inf), -1)
    return (weights @ value).transpose(1, 2).reshape(batch, length, hidden) @ block["attn.c_proj.weight"].T


def _rotated(x: torch.Tensor) -> torch.Tensor:
    """Pair i of a head is its elements i and i + half, turned by position / 10000^(2i / size)."""
    length, size = x.shape[-2:]
    half = size // 2
    angles = torch.outer(torch.arange(length), CONFIG["rotary_emb_base"] ** (-torch.arange(half) * 2 / size))
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
        (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), dim=-1
    )
