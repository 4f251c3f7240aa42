"""What one forward pass keeps for its backward pass: the sum over the blocks, and the checkpoints of those that are
computed again. Pure; held against torch.autograd.graph.saved_tensors_hooks in the tests.
"""

from launch.memory.block import behind, first, layer, norm
from launch.memory.setting import Setting
from launch.model.architecture import Architecture


def saved(architecture: Architecture, setting: Setting) -> int:
    """Bytes of a micro-batch that the blocks and the last norm keep; what the loss keeps is counted with the loss.

    Of the blocks that gradients flow through the first so many keep a checkpoint each, their input, and the others what
    their backward pass needs; `recomputed` comes back while one of the first is computed again.
    """
    last = setting.tokens * norm(setting, architecture.hidden_size, setting.hidden_element)
    return last + checkpoints(architecture, setting) + sum(uncheckpointed(architecture, setting))


def checkpoints(architecture: Architecture, setting: Setting) -> int:
    """Bytes of the inputs of blocks that are computed again, e h each, and of the mask that all of them are given."""
    number = setting.checkpointed(architecture.layers)
    return number * checkpoint(architecture, setting) + (held_mask(setting) if number else 0)


def held_mask(setting: Setting) -> int:
    """A byte for each pair of tokens; eager attention's is of the scores' type, and always there."""
    byte = {"eager": setting.element, "sdpa": int(setting.masked), "varlen": 0}[setting.attention]
    return setting.tokens * setting.max_length * byte


def checkpoint(architecture: Architecture, setting: Setting) -> int:
    return setting.tokens * architecture.hidden_size * setting.hidden_element


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
    """Bytes of the largest block's activations while it is computed again."""
    adapter, numbers = setting.adapter, checkpointed_blocks(architecture, setting)
    kinds = {adapter.targets if number in adapter.adapted else frozenset[str]() for number in numbers}
    return max((layer(architecture, setting, behind(kind)).of(setting.tokens) for kind in kinds), default=0)


def checkpointed_blocks(architecture: Architecture, setting: Setting) -> range:
    """Numbers of the blocks that are computed again."""
    begin = setting.adapter.first_block
    return range(begin, begin + setting.checkpointed(architecture.layers))


def cast_weights(architecture: Architecture, setting: Setting) -> int:
    """Autocast's copies of the adapters in the base's type, kept for a whole forward and backward pass, and of an
    output head that is held in fp32."""
    pairs = setting.adapter.pairs if setting.adapter_element > setting.element else 0
    if setting.fused_lora:  # they are cast again in the backward pass
        pairs = 0
    copied = setting.hidden_element != setting.element
    return setting.element * (pairs + architecture.vocab_size * architecture.hidden_size * copied)
