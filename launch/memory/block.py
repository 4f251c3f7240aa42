"""What one block keeps of a forward pass for its backward pass. Pure.

Derived from the code of transformers' Qwen2, Qwen3 and Llama and of PEFT's LoRA layers, and held against
torch.autograd.graph.saved_tensors_hooks in the tests.

h hidden, q and kv the widths of queries and of keys, i the MLP's, e bytes of an element, s tokens of a sequence.
"""

from dataclasses import dataclass

from launch.memory.setting import Setting
from launch.model.architecture import ATTENTION, LINEARS, Architecture

FP32 = 4
# A mask of dropout: torch's CUDA kernel keeps a byte an element, its CPU one the type of what it drops.
CUDA_MASK = 1
# The linear layers that share an input.
QKV = ATTENTION[:3]
GATED = ("gate_proj", "up_proj")


@dataclass(frozen=True)
class Block:
    """Where a block stands on the way of the gradients."""

    targets: frozenset[str]
    """The linear layers that are adapted."""
    reached: frozenset[str]
    """Those whose input has a gradient."""
    carrying: frozenset[str]
    """Those whose output has one."""


@dataclass(frozen=True)
class Layer:
    """Bytes that one block keeps: per token, and of weights whatever the tokens."""

    norms: int
    attention: int
    mlp: int
    adapters: int
    weights: int

    def of(self, tokens: int) -> int:
        return tokens * (self.norms + self.attention + self.mlp + self.adapters) + self.weights


def layer(architecture: Architecture, setting: Setting, block: Block) -> Layer:
    """Autograd keeps what a gradient is computed from, so nothing of what comes before the first that is trained."""
    return Layer(
        norms=_norms(architecture, setting, block), attention=_attention(architecture, setting, block),
        mlp=mlp(architecture, setting, block), adapters=adapters(architecture, setting, block),
        weights=_weights(architecture, setting, block),
    )  # fmt: skip


def behind(targets: frozenset[str]) -> Block:
    """One behind another that is trained: gradients pass through all of it."""
    return Block(targets, frozenset(LINEARS), frozenset(LINEARS))


def first(setting: Setting) -> Block:
    """The first that is trained: gradients begin at the first of its layers that is."""
    targets = setting.adapter.targets if setting.adapter.first_block in setting.adapter.adapted else frozenset()
    trained = targets | setting.adapter.biases
    before = {"o_proj": QKV, **dict.fromkeys(GATED, ATTENTION), "down_proj": (*ATTENTION, *GATED)}
    reached = frozenset(name for name, layers in before.items() if trained & set(layers))
    return Block(targets, reached, trained | reached)


def _norms(architecture: Architecture, setting: Setting, block: Block) -> int:
    """Two RMS norms; Qwen3 also norms each head of q and k."""
    number = len(block.reached & {"q_proj", "gate_proj"})
    kept = number * norm(setting, architecture.hidden_size, setting.hidden_element)
    if architecture.qk_norm:
        heads = {"q_proj": architecture.heads, "k_proj": architecture.kv_heads}
        each = norm(setting, architecture.head_dim, setting.element)
        kept += each * sum(heads[name] for name in block.carrying & heads.keys())
    return kept


def norm(setting: Setting, width: int, element: int) -> int:
    """Its input, in fp32 unless it is one operation, then in its own type, of so many bytes an element; and one
    reciprocal in fp32."""
    return (element if setting.fused_norms else FP32) * width + FP32


def _attention(architecture: Architecture, setting: Setting, block: Block) -> int:
    """q, k, v and, of SDPA, the output (e q each, k and v e kv) and a logarithm a head in fp32 (FlashAttention-2, arXiv
    2307.08691). With a mask transformers repeats keys and values for every head, unless there is but one, which torch
    expands without a copy, and the mask is kept as a bias, e s. By documents on a CPU each one's output is kept beside
    the tensor that they are laid into (training/model/attention.py).
    """
    if not block.carrying & set(QKV):
        return 0
    e, q = setting.element, architecture.heads * architecture.head_dim
    kv = architecture.kv_heads * architecture.head_dim
    if setting.attention == "eager":
        return _eager(architecture, setting, block)
    per_head = FP32 * architecture.heads
    if setting.attention == "sdpa" and setting.masked:
        repeated = kv if architecture.kv_heads == 1 else q
        return e * (2 * q + 2 * repeated + setting.max_length) + per_head
    laid = q if setting.attention == "varlen" and not setting.gpu else 0
    return e * (2 * q + 2 * kv + laid) + per_head


def _eager(architecture: Architecture, setting: Setting, block: Block) -> int:
    """A product keeps each factor for the gradient of the other: k for q, q for k, v for the probabilities (e q each,
    repeated for every head), the probabilities in e for v. Softmax keeps them in fp32: (4 + e) s heads; in fp32 once.
    """
    e, width = setting.element, architecture.heads * architecture.head_dim
    factors, probabilities = len(block.carrying & {"q_proj", "k_proj"}), e if "v_proj" in block.carrying else 0
    if factors:
        factors += 1
        probabilities = FP32 + (probabilities if e != FP32 else 0)
    return e * width * factors + probabilities * architecture.heads * setting.max_length


def mlp(architecture: Architecture, setting: Setting, block: Block) -> int:
    """e i each: gate and, by which its gradient is multiplied, up; what the gate lets through for that of up. An
    adapted layer that is one operation makes that again from gate and up."""
    kept = 2 * ("gate_proj" in block.carrying) + ("up_proj" in block.carrying)
    if setting.fused_lora and "down_proj" in block.targets:
        kept = 2
    return kept * architecture.intermediate_size * setting.hidden_element


def adapters(architecture: Architecture, setting: Setting, block: Block) -> int:
    """Of each adapted linear the input that reaches A, and what A makes of it (e r), e of the coarser of both types.

    Where the input is cast each keeps a copy of its own. Else q, k and v share one, as do gate and up, and that of o is
    kept by the attention. With dropout each has its own, and a mask.
    DoRA scales both what the base makes and what B does, and the gradient of the scale takes both, 2 e out
    (DoraLinearLayer.forward in peft/tuners/lora/dora.py).
    """
    if setting.fused_lora:
        return _operations(architecture, setting, block)
    names, e = block.targets, min(setting.element, setting.adapter_element)
    inputs = {name: architecture.linears[name][0] for name in names}
    kept = e * setting.adapter.rank * len(names)
    if setting.adapter.magnitudes:
        kept += 2 * e * sum(architecture.linears[name][1] for name in names)
    if setting.casts_inputs or setting.adapter.dropout:
        kept += sum(e * width for width in inputs.values())
        if setting.adapter.dropout:
            kept += sum(mask(setting) * inputs[name] for name in names & block.reached)
        return kept
    kept += e * _shared_inputs(architecture, setting, block)
    return kept + (e * inputs["down_proj"] if "down_proj" in names else 0)


def _operations(architecture: Architecture, setting: Setting, block: Block) -> int:
    """The same where an adapted layer is one operation (training/model/fused.py), in the type of the activations:
    down's input is made again from gate and up, and dropout keeps a byte an element, to drop a shared input again."""
    kept = setting.adapter.rank * len(block.targets) + _shared_inputs(architecture, setting, block)
    dropped = sum(architecture.linears[name][0] for name in block.targets) if setting.adapter.dropout else 0
    return setting.element * kept + dropped


def _shared_inputs(architecture: Architecture, setting: Setting, block: Block) -> int:
    """Elements of what goes into q, k and v and into gate and up, and into o where the attention does not keep it. Of a
    hidden state in another type each layer makes a copy of its own."""
    names = block.targets
    taken = [len(names & set(group)) for group in (QKV, GATED)]
    copied = setting.hidden_element != setting.element
    kept = architecture.hidden_size * sum(count if copied else min(count, 1) for count in taken)
    if "o_proj" in names and (setting.attention == "eager" or "o_proj" not in block.reached):
        kept += architecture.linears["o_proj"][0]
    return kept


def _weights(architecture: Architecture, setting: Setting, block: Block) -> int:
    """DoRA's: of each adapted linear three vectors of the outputs, the norm of the weight, its scale and that less 1.

    With dropout peft computes the base's output a second time, of the dropped input, and the gradient of that input
    takes the weight, in out: a copy of it where autocast or dequantisation makes one.
    """
    if not setting.adapter.magnitudes:
        return 0
    sizes = {name: architecture.linears[name] for name in block.targets}
    kept = 3 * setting.adapter_element * sum(outputs for _, outputs in sizes.values())
    if setting.adapter.dropout and copies_weights(setting):
        kept += setting.element * sum(sizes[name][0] * sizes[name][1] for name in block.targets & block.reached)
    return kept


def copies_weights(setting: Setting) -> bool:
    """Whether DoRA makes a copy of a base weight to compute with it."""
    return setting.casts or setting.quantization != "none"


def mask(setting: Setting) -> int:
    """Bytes of dropout's for each element."""
    return CUDA_MASK if setting.gpu else setting.adapter_element
