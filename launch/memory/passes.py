"""The modules of a model with an adapter in the order in which a forward and a backward pass reach them.

As DeepSpeed's hooks find it in transformers' Qwen2, Qwen3 and Llama with PEFT's layers, where a module that holds no
weights is one as well. Recorded from real passes in the tests.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from launch.memory.block import behind, first
from launch.memory.gathering import Limits, Trace, Visit, Window, window
from launch.memory.setting import Adapter, Setting
from launch.model.architecture import ATTENTION, LINEARS, Architecture
from launch.spec import Precision, Quantization

# PeftModel, LoraModel, the model with its head, and the one inside it.
OUTER = 4
NOTHING = Window(0, 0, 0)


def gathered(architecture: Architecture, setting: Setting) -> Window:
    """What ZeRO-3 holds of gathered weights on one rank. One rank alone has them all."""
    if setting.window is not None:
        return setting.window
    if setting.world_size == 1 and setting.strategy == "zero3":
        return NOTHING
    adapter = setting.adapter
    same = setting.precision, setting.quantization, setting.gradient_checkpointing
    return _gathered(architecture, *same, adapter.rank, adapter.targets, adapter.first_block)


@lru_cache(maxsize=512)
def _gathered(
    architecture: Architecture, precision: Precision, quantization: Quantization, checkpointing: bool,
    rank: int, targets: frozenset[str], first_block: int,
) -> Window:  # fmt: skip
    """The same for every micro-batch, length and number of ranks."""
    setting = Setting(
        strategy="zero3", world_size=2, micro_batch_size=1, max_length=1, gradient_checkpointing=checkpointing,
        precision=precision, gpu=True, quantization=quantization,
        adapter=Adapter(rank=rank, targets=targets, first_block=first_block),
    )  # fmt: skip
    return most_gathered(architecture, setting, limits(architecture))


def most_gathered(architecture: Architecture, setting: Setting, most: Limits) -> Window:
    """Of all blocks, by a few of them and the small weights of the others, which stay gathered."""
    blocks = enough(architecture, most)
    passes = trace(architecture, setting, blocks)
    small = [weight for weight, elements in enumerate(passes.elements) if elements <= most.persistent]
    beyond = (architecture.layers - blocks) / blocks
    elements, size = (int(beyond * sum(held[weight] for weight in small)) for held in (passes.elements, passes.sizes))
    found = window(passes, most)
    return Window(found.elements + elements, found.allocated + size, found.reserved + size)


def limits(architecture: Architecture) -> Limits:
    """As render/configs.py writes them."""
    hidden = architecture.hidden_size
    return Limits(prefetch=int(0.9 * hidden**2), persistent=10 * hidden)


def trace(architecture: Architecture, setting: Setting, blocks: int) -> Trace:
    """Of a model of so many blocks."""
    begin = min(setting.adapter.first_block, blocks - 1)
    return _Model(architecture, replace(setting, adapter=replace(setting.adapter, first_block=begin)), blocks).trace


def enough(architecture: Architecture, most: Limits) -> int:
    """Blocks that make a difference, for they are all alike: those that are gathered ahead or kept, and a few more."""
    block = architecture.linear_parameters // architecture.layers
    return min(architecture.layers, 4 + -(-max(most.live, most.reuse) // block))


@dataclass(frozen=True)
class _Leaf:
    module: int
    weights: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Linear:
    """A linear layer, with the modules of its adapter where it has one."""

    base: _Leaf
    outer: _Leaf | None = None
    adapter: tuple[_Leaf, ...] = ()
    """Dropout, A and B."""


@dataclass(frozen=True)
class _Block:
    outer: _Leaf
    first_norm: _Leaf
    attention: _Leaf
    linears: dict[str, _Linear]
    head_norms: dict[str, _Leaf]
    second_norm: _Leaf
    mlp: _Leaf
    activation: _Leaf


class _Model:
    def __init__(self, architecture: Architecture, setting: Setting, blocks: int) -> None:
        self.architecture, self.setting, self.trace = architecture, setting, Trace()
        outer = [self._leaf() for _ in range(OUTER)]
        size = architecture.vocab_size * architecture.hidden_size
        embeddings, rotary = self._leaf(size), self._leaf()
        made = [self._block(number) for number in range(blocks)]
        norm = self._leaf(architecture.hidden_size)
        head = _Leaf(self.trace.module(), embeddings.weights) if architecture.tied_embeddings else self._leaf(size)
        for module in outer:
            self._visit(module, True)
        for module in (embeddings, rotary):
            self._both(module, True)
        for block in made:
            self._forward(block)
        self._both(norm, True)
        self._visit(outer[-1], False)
        self._both(head, True)
        for module in reversed(outer[:-1]):
            self._visit(module, False)
        for module in outer[:-1]:
            self._visit(module, True, forward=False)
        self._both(head, False)
        self._visit(outer[-1], True, forward=False)
        self._both(norm, False)
        self._backward(made)

    def _leaf(self, *elements: int, trained: bool = False) -> _Leaf:
        weights = (self.trace.weight(size, size * self.setting.element, trained) for size in elements)
        return _Leaf(self.trace.module(), tuple(weights))

    def _block(self, number: int) -> _Block:
        hidden, adapter = self.architecture.hidden_size, self.setting.adapter
        outer, first_norm, attention = self._leaf(), self._leaf(hidden), self._leaf()
        adapted = adapter.targets if adapter.first_block <= number else frozenset()
        linears = {name: self._linear(name, name in adapted) for name in ATTENTION}
        norms = ("q_proj", "k_proj") if self.architecture.qk_norm else ()
        head_norms = {name: self._leaf(self.architecture.head_dim) for name in norms}
        second_norm, mlp = self._leaf(hidden), self._leaf()
        linears |= {name: self._linear(name, name in adapted) for name in LINEARS if name not in ATTENTION}
        return _Block(outer, first_norm, attention, linears, head_norms, second_norm, mlp, self._leaf())

    def _linear(self, name: str, adapted: bool) -> _Linear:
        inputs, outputs = self.architecture.linears[name]
        elements = inputs * outputs
        size = elements * self.setting.base_element
        if self.setting.quantization == "nf4":  # held as elements of the run's type
            elements = int(size / self.setting.element)
        weights = [self.trace.weight(elements, size)]
        if self.architecture.biased(name):
            weights.append(self.trace.weight(outputs, outputs * self.setting.element))
        base, rank = _Leaf(self.trace.module(), tuple(weights)), self.setting.adapter.rank
        if not adapted:
            return _Linear(base)
        first, second = self._leaf(rank * inputs, trained=True), self._leaf(rank * outputs, trained=True)
        # PEFT asks for A's type before A is called, by which DeepSpeed takes it for one of the layer's own as well.
        return _Linear(base, _Leaf(self.trace.module(), first.weights), (self._leaf(), first, second))

    def _visit(self, leaf: _Leaf, begins: bool, forward: bool = True, recomputed: bool = False) -> None:
        self.trace.visits.append(Visit(leaf.module, leaf.weights, begins, forward, recomputed))

    def _both(self, leaf: _Leaf, forward: bool, recomputed: bool = False) -> None:
        self._visit(leaf, True, forward, recomputed)
        self._visit(leaf, False, forward, recomputed)

    def _forward(self, block: _Block, recomputed: bool = False) -> None:
        """When a block is computed again it is left as soon as the last tensor is there that backward needs."""
        if not recomputed:
            self._visit(block.outer, True)
        self._both(block.first_norm, True, recomputed)
        self._visit(block.attention, True, recomputed=recomputed)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self._linear_forward(block.linears[name], recomputed)
            if name in block.head_norms:
                self._both(block.head_norms[name], True, recomputed)
        self._visit(block.attention, False, recomputed=recomputed)
        self._both(block.second_norm, True, recomputed)
        self._visit(block.mlp, True, recomputed=recomputed)
        self._linear_forward(block.linears["gate_proj"], recomputed)
        self._both(block.activation, True, recomputed)
        self._linear_forward(block.linears["up_proj"], recomputed)
        self._linear_forward(block.linears["down_proj"], recomputed, left=recomputed)
        if not recomputed:
            self._visit(block.mlp, False)
            self._visit(block.outer, False)

    def _linear_forward(self, linear: _Linear, recomputed: bool, left: bool = False) -> None:
        if linear.outer:
            self._visit(linear.outer, True, recomputed=recomputed)
        self._both(linear.base, True, recomputed)
        for leaf in linear.adapter[:-1]:
            self._both(leaf, True, recomputed)
        for leaf in linear.adapter[-1:]:
            self._visit(leaf, True, recomputed=recomputed)
            if not left:
                self._visit(leaf, False, recomputed=recomputed)
        if linear.outer and not left:
            self._visit(linear.outer, False, recomputed=recomputed)

    def _backward(self, blocks: list[_Block]) -> None:
        begin = self.setting.adapter.first_block
        kept = begin + self.setting.checkpointed(len(blocks))
        for number, block in reversed(list(enumerate(blocks))):
            if number >= begin:
                self._block_backward(block, whole=number > begin, again=number < kept)

    def _block_backward(self, block: _Block, whole: bool, again: bool) -> None:
        """`whole`: whether gradients reach what comes before the block. `again`: whether it is computed again."""
        self._visit(block.outer, True, forward=False)
        self._visit(block.mlp, True, forward=False)
        way = behind(self.setting.adapter.targets) if whole else first(self.setting)
        recomputed = block if again else None
        for name in ("down_proj", "up_proj", "gate_proj"):
            if name in way.carrying:
                self._linear_backward(block.linears[name], name in way.reached, recomputed)
                recomputed = None
            if name == "up_proj" and "down_proj" in way.reached:
                self._both(block.activation, False)
        if "down_proj" in way.reached:
            self._visit(block.mlp, False, forward=False)
        if "gate_proj" in way.reached:
            self._both(block.second_norm, False)
        if "o_proj" in way.carrying:
            self._visit(block.attention, True, forward=False)
        for name in ("o_proj", "v_proj", "k_proj", "q_proj"):
            if name not in way.carrying:
                continue
            if name in block.head_norms:
                self._both(block.head_norms[name], False)
            self._linear_backward(block.linears[name], name in way.reached)
        if whole:
            self._both(block.first_norm, False)
            self._visit(block.outer, False, forward=False)

    def _linear_backward(self, linear: _Linear, reached: bool = True, again: _Block | None = None) -> None:
        """`reached`: whether its input has a gradient. `again`: the block to be computed again as it begins."""
        if linear.outer:
            self._visit(linear.outer, True, forward=False)
        backwards = [*reversed(linear.adapter), linear.base]
        for leaf in backwards if reached else backwards[:2]:
            self._visit(leaf, True, forward=False)
            if again:
                self._forward(again, recomputed=True)
                again = None
            if reached or leaf is backwards[0]:
                self._visit(leaf, False, forward=False)
        if linear.outer and reached:
            self._visit(linear.outer, False, forward=False)
