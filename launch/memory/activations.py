"""What one forward pass keeps for its backward pass.

Derived from the code of transformers' Qwen2, Qwen3 and Llama and of PEFT's LoRA layers, and held against
torch.autograd.graph.saved_tensors_hooks in the tests.

h hidden, q and kv the widths of queries and of keys, i the MLP's, e bytes of an element, s tokens of a sequence.
"""

from dataclasses import dataclass

from launch.architecture import ATTENTION, Architecture
from launch.memory.setting import Setting

FP32 = 4
# A mask of dropout: torch's CUDA kernel keeps a byte an element, its CPU one the type of what it drops.
CUDA_MASK = 1


@dataclass(frozen=True)
class Layer:
    """Bytes per token that one block keeps."""

    norms: int
    attention: int
    mlp: int
    adapters: int

    @property
    def total(self) -> int:
        return self.norms + self.attention + self.mlp + self.adapters


def layer(architecture: Architecture, setting: Setting) -> Layer:
    """One block whose linear layers are adapted as the spec says, behind another that is."""
    return Layer(
        norms=_norms(architecture), attention=_attention(architecture, setting),
        mlp=3 * architecture.intermediate_size * setting.element,  # gate, up, and what the gate lets through
        adapters=_adapters(architecture, setting),
    )  # fmt: skip


def _norms(architecture: Architecture) -> int:
    """Two RMS norms: the input in fp32 and one reciprocal each, 2 (4h + 4); Qwen3 also norms each head of q and k."""
    width = 2 * (architecture.hidden_size + 1)
    if architecture.qk_norm:
        width += (architecture.heads + architecture.kv_heads) * (architecture.head_dim + 1)
    return FP32 * width


def _attention(architecture: Architecture, setting: Setting) -> int:
    """q, k, v and, of SDPA, the output (e q each, k and v e kv) and a logarithm a head in fp32 (FlashAttention-2, arXiv
    2307.08691). With a mask transformers repeats keys and values for every head, and the mask is kept as a bias, e s.
    Eager attention keeps the probabilities in fp32 and again in e for each head, (4 + e) s heads; in fp32 once.
    """
    e, q = setting.element, architecture.heads * architecture.head_dim
    kv = architecture.kv_heads * architecture.head_dim
    if setting.attention == "eager":
        probabilities = (FP32 + (e if e != FP32 else 0)) * architecture.heads * setting.max_length
        return e * 3 * q + probabilities
    per_head = FP32 * architecture.heads
    if setting.attention == "sdpa" and setting.masked:
        return e * (4 * q + setting.max_length) + per_head
    return e * (2 * q + 2 * kv) + per_head


def _adapters(architecture: Architecture, setting: Setting) -> int:
    """Of each adapted linear the input that reaches A, and what A makes of it (e r).

    Adapters in fp32 on a base in bf16 cast their input, so that each keeps a copy of its own. Else q, k and v share
    one, as do gate and up, and that of o is kept by the attention. With dropout each has its own, and a mask.
    """
    adapter, e = setting.adapter, setting.element
    names, inputs = adapter.targets, {name: architecture.linears[name][0] for name in adapter.targets}
    kept = e * adapter.rank * len(names)
    if setting.casts or adapter.dropout:
        kept += sum(e * width for width in inputs.values())
        if adapter.dropout:
            kept += sum(_mask(setting) * width for width in inputs.values())
        return kept
    shared = {"attention": ATTENTION[:3], "mlp": ("gate_proj", "up_proj")}
    kept += sum(e * architecture.hidden_size for group in shared.values() if names & set(group))
    if "o_proj" in names and setting.attention == "eager":
        kept += e * inputs["o_proj"]
    return kept + (e * inputs["down_proj"] if "down_proj" in names else 0)


def _mask(setting: Setting) -> int:
    return CUDA_MASK if setting.gpu else setting.adapter_element


def saved(architecture: Architecture, setting: Setting) -> int:
    """Bytes of a micro-batch that the blocks and the last norm keep; what the loss keeps is counted with the loss.

    Blocks before the first adapted one keep nothing, and that one nothing of its own input: no gradient goes there.
    With checkpointing each block keeps its input alone, and `recomputed` comes back while one is computed again.
    """
    norm = FP32 * (architecture.hidden_size + 1)
    if setting.gradient_checkpointing:
        return setting.tokens * (architecture.layers * architecture.hidden_size * setting.element + norm)
    blocks = architecture.layers - setting.adapter.first_block
    kept = blocks * layer(architecture, setting).total + norm
    if not setting.adapter.embeddings:
        kept -= norm
        if setting.adapter.dropout:
            kept -= _mask(setting) * architecture.hidden_size * len(setting.adapter.targets & set(ATTENTION[:3]))
    return setting.tokens * kept


def recomputed(architecture: Architecture, setting: Setting) -> int:
    """Bytes of one block's activations while it is computed again."""
    return setting.tokens * layer(architecture, setting).total if setting.gradient_checkpointing else 0


def cast_weights(setting: Setting) -> int:
    """Autocast's copies of the adapters in the base's type, kept for a whole forward and backward pass."""
    return setting.element * setting.adapter.pairs if setting.casts else 0


def passing(architecture: Architecture, setting: Setting, backward: bool) -> int:
    """Bytes of a micro-batch that live for an instant inside a block, beyond what is kept.

    Found by counting the live tensors of small models: forward a norm's fp32 copies or, under autocast, the adapters'
    fp32 inputs; backward the gradients of the MLP (2 e i; 3 e (i + h) under autocast while a block is computed again)
    or of a norm (20 h).
    """
    h, i, e = architecture.hidden_size, architecture.intermediate_size, setting.element
    if not backward:
        return setting.tokens * (10 * h + 6 * i if setting.casts else 12 * h)
    if setting.gradient_checkpointing and setting.casts:
        return setting.tokens * 3 * e * (i + h)
    if setting.gradient_checkpointing:
        return setting.tokens * 2 * e * i
    return setting.tokens * max(2 * e * i, 20 * h)
