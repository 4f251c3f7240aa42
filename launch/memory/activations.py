"""What one forward pass keeps for its backward pass.

Derived from the code of transformers' Qwen2, Qwen3 and Llama and of PEFT's LoRA layers, and held against
torch.autograd.graph.saved_tensors_hooks in the tests.

h hidden, q and kv the widths of queries and of keys, i the MLP's, e bytes of an element, s tokens of a sequence.
"""

from dataclasses import dataclass

from launch.architecture import ATTENTION, LINEARS, Architecture
from launch.memory.setting import Setting

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
        norms=_norms(architecture, block), attention=_attention(architecture, setting, block),
        mlp=_mlp(architecture, setting, block), adapters=_adapters(architecture, setting, block),
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


def _norms(architecture: Architecture, block: Block) -> int:
    """Two RMS norms: the input in fp32 and one reciprocal each, 2 (4h + 4); Qwen3 also norms each head of q and k."""
    width = (architecture.hidden_size + 1) * len(block.reached & {"q_proj", "gate_proj"})
    if architecture.qk_norm:
        heads = {"q_proj": architecture.heads, "k_proj": architecture.kv_heads}
        width += sum(heads[name] for name in block.carrying & heads.keys()) * (architecture.head_dim + 1)
    return FP32 * width


def _attention(architecture: Architecture, setting: Setting, block: Block) -> int:
    """q, k, v and, of SDPA, the output (e q each, k and v e kv) and a logarithm a head in fp32 (FlashAttention-2, arXiv
    2307.08691). With a mask transformers repeats keys and values for every head, unless there is but one, which torch
    expands without a copy, and the mask is kept as a bias, e s. By documents on a CPU each one's output is kept beside
    the tensor that they are laid into (training/attention.py).
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


def _mlp(architecture: Architecture, setting: Setting, block: Block) -> int:
    """e i each: gate and, by which its gradient is multiplied, up; what the gate lets through for that of up."""
    kept = 2 * ("gate_proj" in block.carrying) + ("up_proj" in block.carrying)
    return kept * architecture.intermediate_size * setting.element


def _adapters(architecture: Architecture, setting: Setting, block: Block) -> int:
    """Of each adapted linear the input that reaches A, and what A makes of it (e r), e of the coarser of both types.

    Where the input is cast each keeps a copy of its own. Else q, k and v share one, as do gate and up, and that of o is
    kept by the attention. With dropout each has its own, and a mask.
    DoRA scales both what the base makes and what B does, and the gradient of the scale takes both, 2 e out
    (DoraLinearLayer.forward in peft/tuners/lora/dora.py).
    """
    names, e = block.targets, min(setting.element, setting.adapter_element)
    inputs = {name: architecture.linears[name][0] for name in names}
    kept = e * setting.adapter.rank * len(names)
    if setting.adapter.magnitudes:
        kept += 2 * e * sum(architecture.linears[name][1] for name in names)
    if setting.casts_inputs or setting.adapter.dropout:
        kept += sum(e * width for width in inputs.values())
        if setting.adapter.dropout:
            kept += sum(_mask(setting) * inputs[name] for name in names & block.reached)
        return kept
    kept += sum(e * architecture.hidden_size for group in (QKV, GATED) if names & set(group))
    if "o_proj" in names and (setting.attention == "eager" or "o_proj" not in block.reached):
        kept += e * inputs["o_proj"]
    return kept + (e * inputs["down_proj"] if "down_proj" in names else 0)


def _weights(architecture: Architecture, setting: Setting, block: Block) -> int:
    """DoRA's: of each adapted linear three vectors of the outputs, the norm of the weight, its scale and that less 1.

    With dropout peft computes the base's output a second time, of the dropped input, and the gradient of that input
    takes the weight, in out: a copy of it where autocast or dequantisation makes one.
    """
    if not setting.adapter.magnitudes:
        return 0
    sizes = {name: architecture.linears[name] for name in block.targets}
    kept = 3 * setting.adapter_element * sum(outputs for _, outputs in sizes.values())
    if setting.adapter.dropout and _copies(setting):
        kept += setting.element * sum(sizes[name][0] * sizes[name][1] for name in block.targets & block.reached)
    return kept


def _copies(setting: Setting) -> bool:
    """Whether DoRA makes a copy of a base weight to compute with it."""
    return setting.casts or setting.quantization != "none"


def _mask(setting: Setting) -> int:
    return CUDA_MASK if setting.gpu else setting.adapter_element


def saved(architecture: Architecture, setting: Setting) -> int:
    """Bytes of a micro-batch that the blocks and the last norm keep; what the loss keeps is counted with the loss.

    Of the blocks that gradients flow through the first so many keep a checkpoint each, their input, and the others what
    their backward pass needs; `recomputed` comes back while one of the first is computed again.
    """
    norm = setting.tokens * FP32 * (architecture.hidden_size + 1)
    return norm + checkpoints(architecture, setting) + sum(uncheckpointed(architecture, setting))


def checkpoints(architecture: Architecture, setting: Setting) -> int:
    """Bytes of the inputs of blocks that are computed again, e h each, and of the mask that all of them are given."""
    number = setting.checkpointed(architecture.layers)
    return number * checkpoint(architecture, setting) + (held_mask(setting) if number else 0)


def held_mask(setting: Setting) -> int:
    """A byte for each pair of tokens; eager attention's is of the scores' type, and always there."""
    byte = {"eager": setting.element, "sdpa": int(setting.masked), "varlen": 0}[setting.attention]
    return setting.tokens * setting.max_length * byte


def checkpoint(architecture: Architecture, setting: Setting) -> int:
    return setting.tokens * architecture.hidden_size * setting.element


def uncheckpointed(architecture: Architecture, setting: Setting) -> list[int]:
    """Bytes of a micro-batch that each block keeps which is not computed again, the last one's at the end.

    Blocks before the first trained one keep nothing: no gradient goes there. Those behind it that are not adapted
    keep all but what adapters do: gradients pass through them.
    """
    adapter, begin = setting.adapter, setting.adapter.first_block
    numbers = range(begin + setting.checkpointed(architecture.layers), architecture.layers)
    adapted = {number: number in adapter.adapted for number in numbers}
    sizes = {
        whether: layer(architecture, setting, behind(adapter.targets if whether else frozenset())).of(setting.tokens)
        for whether in set(adapted.values())
    }
    kept = [sizes[whether] for whether in adapted.values()]
    if begin in adapted and adapter.adapted and not adapter.embeddings:
        kept[0] = layer(architecture, setting, first(setting)).of(setting.tokens)
    return kept


def recomputed(architecture: Architecture, setting: Setting) -> int:
    """Bytes of one block's activations while it is computed again."""
    if not setting.gradient_checkpointing:
        return 0
    return layer(architecture, setting, behind(setting.adapter.targets)).of(setting.tokens)


def cast_weights(setting: Setting) -> int:
    """Autocast's copies of the adapters in the base's type, kept for a whole forward and backward pass."""
    return setting.element * setting.adapter.pairs if setting.adapter_element > setting.element else 0


def passing(architecture: Architecture, setting: Setting, backward: bool, again: bool = False) -> int:
    """Bytes of a micro-batch that live for an instant inside a block, beyond what is kept. `again`: of a block that is
    computed a second time.

    Found by counting the live tensors of small models: forward a norm's fp32 copies or, where they are cast, the
    adapters' fp32 inputs; backward the gradients of the MLP (2 e i; 3 e (i + h) with inputs that are cast while a block
    is computed again) or of a norm (20 h). DoRA's are more; backward they count where a block is computed again and,
    under autocast, as three gradients in fp32 of its widest output.
    """
    scored = _scoring(architecture, setting, backward) if setting.attention == "eager" else 0
    return max(scored, _fused_passing(architecture, setting, backward, again))


def evaluating(architecture: Architecture, setting: Setting) -> int:
    """The same of a batch that is evaluated, of which nothing is kept: eager attention's scores, in e and, for the
    softmax, twice in fp32."""
    scores = 2 * FP32 + (setting.element if setting.element != FP32 else 0)
    held = setting.tokens * scores * _scores(architecture, setting) if setting.attention == "eager" else 0
    return max(held, _fused_passing(architecture, setting, backward=False))


def _scores(architecture: Architecture, setting: Setting) -> int:
    """Of a token with all others, for each head."""
    return architecture.heads * setting.max_length


def _scoring(architecture: Architecture, setting: Setting, backward: bool) -> int:
    """What eager attention holds while its softmax is computed, beyond what the block keeps in the end.

    Forward the scores, their fp32 copy and the probabilities: 4 bytes a score more than is kept of them. Backward the
    probabilities, their gradient and that of the scores, in fp32: 12, less what was kept. Meanwhile what follows in the
    block is not kept yet, or no more. The mask takes e a pair of tokens (eager_attention_forward in modeling_qwen2.py).
    """
    e, h = setting.element, architecture.hidden_size
    kept = FP32 + (e if e != FP32 else 0)
    follows = behind(setting.adapter.targets - set(QKV))
    later = FP32 * (h + 1) + _mlp(architecture, setting, follows) + _adapters(architecture, setting, follows)
    more = 3 * FP32 - kept if backward else FP32
    return setting.tokens * max(0, more * _scores(architecture, setting) + e * setting.max_length - later)


def _fused_passing(architecture: Architecture, setting: Setting, backward: bool, again: bool = False) -> int:
    """`passing` with attention that holds no scores."""
    h, i, e = architecture.hidden_size, architecture.intermediate_size, setting.element
    dora = _dora_passing(architecture, setting) if setting.adapter.magnitudes else 0
    if not backward:
        return max(setting.tokens * (10 * h + 6 * i if setting.casts_inputs else 12 * h), dora)
    if again and setting.casts_inputs:
        return max(setting.tokens * 3 * e * (i + h), dora)
    if again:
        return max(setting.tokens * 2 * e * i, dora)
    widest = max(architecture.linears[name][1] for name in setting.adapter.targets) if dora and setting.casts else 0
    return setting.tokens * max(2 * e * i, 20 * h, 3 * FP32 * widest)


def _dora_passing(architecture: Architecture, setting: Setting) -> int:
    """The most that one adapted linear makes in passing, a being the bytes of the adapter's elements.

    B A is computed from an identity matrix, in in, which autocast copies: (a + e) in in, and e in out that come of it.
    Its graph then holds one, e in in, while the weight's norm is taken: of B A, of that scaled, of their sum and of a
    copy of the base weight where there is one, a in out each; and while the output is scaled: B A and that copy, and
    three tensors of the output, a out for each token; where nothing is cast two of them are no larger than what the MLP
    keeps next, which is counted. The input as autocast and dropout found it is there all the time, a in for each
    (get_lora_weight, get_weight_norm and forward in peft/tuners/lora/dora.py).
    """
    a, e, copies = setting.adapter_element, setting.element, int(_copies(setting))
    found = setting.tokens * a * (int(setting.casts) + int(setting.adapter.dropout > 0))
    most, scaling = 0, 3 if setting.casts else 1
    for inputs, outputs in (architecture.linears[name] for name in setting.adapter.targets):
        identity, weight = inputs * inputs, inputs * outputs
        multiplied = (a + e) * identity + e * weight if setting.casts else 0
        normed = e * identity + (3 + copies) * a * weight
        scaled = e * identity + (1 + copies) * a * weight + scaling * a * outputs * setting.tokens
        most = max(most, max(multiplied, normed, scaled) + found * inputs)
    return most
