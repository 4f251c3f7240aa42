"""What DeepSpeed gathered of Qwen's weights as QwenLM ran LoRA under ZeRO-3 (finetune.py with ds_config_zero3.json).

Not how muster runs: their modeling_qwen.py makes queries, keys and values of one layer; PEFT, below 0.7, kept a layer's
weight and its adapter in one module; torch's reentrant checkpoints compute a block again before they go back through
it; and enable_input_require_grads has DeepSpeed gather the embeddings at the end of each backward pass, where no hook
of DeepSpeed 0.12 releases them again. The coordinator is the forecast's (launch/memory/gathering.py).
"""

from dataclasses import dataclass

from launch.memory.gathering import Trace, Visit, Window, window
from launch.memory.passes import enough, limits
from launch.model.architecture import Architecture

BF16 = 2


def gathered(architecture: Architecture, rank: int, blocks: int | None = None) -> Window:
    """Of one rank. Their limits are muster's: "auto" in their file, and 1e9 for the two that have defaults. `blocks`:
    how many stand for all; None for as many as the forecast takes."""
    most = limits(architecture)
    return window(_Passes(architecture, rank, blocks or enough(architecture, most)).trace, most, owned=False)


@dataclass(frozen=True)
class _Module:
    number: int
    weights: tuple[int, ...]
    inner: tuple["_Module", ...] = ()


class _Passes:
    def __init__(self, architecture: Architecture, rank: int, blocks: int) -> None:
        self.trace, self.rank = Trace(), rank
        h, i, vocabulary = architecture.hidden_size, architecture.intermediate_size, architecture.vocab_size
        outer = [self._module() for _ in range(3)]
        embeddings, dropout, rotary = self._module(vocabulary * h), self._module(), self._module()
        made = [self._block(h, i) for _ in range(blocks)]
        norm, head = self._module(h), self._module(vocabulary * h)
        transformer = self._module()
        for module in (*outer, transformer):
            self._visit(module, begins=True)
        for module in (embeddings, dropout, rotary, *made, norm, head):
            self._through(module)
        for module in outer:
            self._visit(module, begins=True, forward=False)
        self._back(head)
        self._visit(transformer, begins=True, forward=False)
        self._back(norm)
        for block in reversed(made):
            self._through(block)
            self._back(block)
        self._back(dropout)
        self._visit(embeddings, begins=True, forward=False)

    def _module(self, *elements: int, inner: tuple[_Module, ...] = (), also: tuple[int, ...] = ()) -> _Module:
        weights = tuple(self.trace.weight(size, BF16 * size) for size in elements)
        return _Module(self.trace.module(), weights + also, inner)

    def _block(self, h: int, i: int) -> _Module:
        first, attention = self._module(h), (self._linear(h, 3 * h, bias=True), self._linear(h, h))
        second, mlp = self._module(h), (self._linear(h, i), self._linear(h, i), self._linear(i, h))
        inner = (first, self._module(inner=attention), second, self._module(inner=mlp))
        return self._module(inner=inner)

    def _linear(self, inputs: int, outputs: int, bias: bool = False) -> _Module:
        """PEFT asks for A's type before A is called, so that DeepSpeed counts it as the layer's own as well."""
        weights = [inputs * outputs, *([outputs] if bias else [])]
        held = tuple(self.trace.weight(size, BF16 * size) for size in weights)
        dropout, first, second = self._module(), self._module(self.rank * inputs), self._module(self.rank * outputs)
        return self._module(inner=(dropout, first, second), also=(*held, *first.weights))

    def _visit(self, module: _Module, begins: bool, forward: bool = True) -> None:
        self.trace.visits.append(Visit(module.number, module.weights, begins, forward))

    def _through(self, module: _Module) -> None:
        self._visit(module, begins=True)
        for one in module.inner:
            self._through(one)
        self._visit(module, begins=False)

    def _back(self, module: _Module) -> None:
        self._visit(module, begins=True, forward=False)
        for one in reversed(module.inner):
            self._back(one)
        self._visit(module, begins=False, forward=False)
