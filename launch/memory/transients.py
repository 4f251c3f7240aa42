"""What lives for an instant inside a block, beyond what is kept. Pure; found by counting the live tensors of small
models, and held against them in the tests. Letters as in block.py.
"""

from collections.abc import Sequence

from launch.memory.activations import checkpointed_blocks
from launch.memory.block import FP32, QKV, adapters, behind, copies_weights, mask, mlp
from launch.memory.setting import Setting
from launch.model.architecture import Architecture


def passing(architecture: Architecture, setting: Setting, backward: bool, again: bool = False) -> int:
    """Bytes of a micro-batch that live for an instant inside a block, beyond what is kept. `again`: of a block that is
    computed a second time.

    Found by counting the live tensors of small models: forward a norm's fp32 copies or what goes into an adapter beside
    its copies; backward the gradients of the MLP or of a norm (20 h). DoRA's are more; backward they count where a
    block is computed again and, under autocast, as three gradients in fp32 of its widest output.
    """
    scored = _scoring(architecture, setting, backward) if setting.attention == "eager" else 0
    return max(scored, _unscored_passing(architecture, setting, backward, again))


def evaluating(architecture: Architecture, setting: Setting) -> int:
    """The same of a batch that is evaluated, of which nothing is kept and nothing dropped: gate, up, what the
    activation makes of the gate, and their product, beside four hidden states, as where all layers are adapted; or
    eager attention's scores, in e and, for the softmax, twice in fp32."""
    scores = 2 * FP32 + (setting.element if setting.element != FP32 else 0)
    held = setting.tokens * scores * _scores(architecture, setting) if setting.attention == "eager" else 0
    dora = _dora_passing(architecture, setting) if setting.adapter.magnitudes else 0
    width = architecture.intermediate_size + architecture.hidden_size
    return max(held, setting.tokens * 4 * setting.hidden_element * width + dora)


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
    later = FP32 * (h + 1) + mlp(architecture, setting, follows) + adapters(architecture, setting, follows)
    more = 3 * FP32 - kept if backward else FP32
    return setting.tokens * max(0, more * _scores(architecture, setting) + e * setting.max_length - later)


def _unscored_passing(architecture: Architecture, setting: Setting, backward: bool, again: bool = False) -> int:
    """`passing` with attention that holds no scores."""
    h, i = architecture.hidden_size, architecture.intermediate_size
    dora = _dora_passing(architecture, setting) if setting.adapter.magnitudes else 0
    if not backward:
        return max(setting.tokens * max(12 * h, _entering(architecture, setting, again)), dora)
    gradients = _mlp_gradients(architecture, setting, again)
    if again:
        return max(setting.tokens * max(gradients * i, _entering(architecture, setting, again)), dora)
    widest = max(architecture.linears[name][1] for name in setting.adapter.targets) if dora and setting.casts else 0
    return setting.tokens * max(gradients * i, 20 * h, 3 * FP32 * widest)


def _entering(architecture: Architecture, setting: Setting, again: bool) -> int:
    """Bytes of a token where the widest input enters an adapter, down's or else one of width h: beside it lie its copy
    in the adapter's type and what dropout leaves of that, unless this is of the type that is computed in, and so kept.
    What the rest of the block holds of width h is less where it is computed `again`."""
    h, e, found = architecture.hidden_size, setting.element, setting.hidden_element
    width = architecture.intermediate_size if _reaches_down(architecture, setting, again) else h
    dropped = bool(setting.adapter.dropout) and not setting.fused_lora
    if not setting.casts_inputs:
        left = found if found != e else 0
        return (found + left) * width + ((1 if again else 3) * e + 4) * h if dropped else 0
    a = setting.adapter_element
    copy, left = a if found != a else 0, a if dropped else 0
    return (found + copy + left) * width + (6 if again or dropped else 10) * h


def _reaches_down(architecture: Architecture, setting: Setting, again: bool) -> bool:
    """Whether one of these blocks adapts its down projection."""
    adapter = setting.adapter
    return "down_proj" in adapter.targets and not adapter.adapted.isdisjoint(_passed(architecture, setting, again))


def _passed(architecture: Architecture, setting: Setting, again: bool) -> Sequence[int]:
    """The blocks that hold the most: those that are computed again, or the last, beside what all others keep."""
    return checkpointed_blocks(architecture, setting) if again else [architecture.layers - 1]


def _mlp_gradients(architecture: Architecture, setting: Setting, again: bool) -> int:
    """Bytes of them for each of the MLP's width: of gate and up, and of down's input where down has kept nothing that
    goes for it, or where what dropout left of it lies there; beside a hidden state in fp32 one as it was computed. The
    backward pass begins with the last block. What dropout left, and its mask, are gone by then; where it is cast, its
    gradient beside that of what was dropped is more."""
    adapter, e, hidden = setting.adapter, setting.element, setting.hidden_element
    kept = _reaches_down(architecture, setting, again)
    all_adapted = adapter.adapted.issuperset(_passed(architecture, setting, again))
    beside = setting.fused_lora and (adapter.dropout or not all_adapted)
    gradients = (2 if kept and not beside else 3) * hidden + (e if hidden != e else 0)
    if not adapter.dropout or setting.fused_lora or not kept:
        return gradients
    cast = 2 * setting.adapter_element - e if setting.casts_inputs else 0
    return max(cast, gradients - mask(setting))


def _dora_passing(architecture: Architecture, setting: Setting) -> int:
    """The most that one adapted linear makes in passing, a being the bytes of the adapter's elements.

    B A is computed from an identity matrix, in in, which autocast copies: (a + e) in in, and e in out that come of it.
    Its graph then holds one, e in in, while the weight's norm is taken: of B A, of that scaled, of their sum and of a
    copy of the base weight where there is one, a in out each; and while the output is scaled: B A and that copy, and
    three tensors of the output, a out for each token; where nothing is cast two of them are no larger than what the MLP
    keeps next, which is counted. The input as autocast and dropout found it is there all the time, a in for each
    (get_lora_weight, get_weight_norm and forward in peft/tuners/lora/dora.py).
    """
    a, e, copies = setting.adapter_element, setting.element, int(copies_weights(setting))
    found = setting.tokens * a * (int(setting.casts) + int(setting.adapter.dropout > 0))
    most, scaling = 0, 3 if setting.casts else 1
    for inputs, outputs in (architecture.linears[name] for name in setting.adapter.targets):
        identity, weight = inputs * inputs, inputs * outputs
        multiplied = (a + e) * identity + e * weight if setting.casts else 0
        normed = e * identity + (3 + copies) * a * weight
        scaled = e * identity + (1 + copies) * a * weight + scaling * a * outputs * setting.tokens
        most = max(most, max(multiplied, normed, scaled) + found * inputs)
    return most
