"""What decides the memory of one rank."""

from dataclasses import dataclass
from typing import Literal

from launch.memory.gathering import Window
from launch.model.adapter import adapted, bias_elements
from launch.model.architecture import Architecture
from launch.spec import SHARDS_BASE, SUMS_FP32, LoraSpec, Optimizer, Precision, Quantization, Strategy

# Tokens whose logits are there at once where the loss is computed in chunks.
LOSS_CHUNK = 512

ELEMENT: dict[Precision, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
# Bytes of a packed weight, without its scales.
PACKED: dict[Quantization, float] = {"nf4": 0.5, "int8": 1.0}


@dataclass(frozen=True)
class Adapter:
    """What is trained. Sizes count elements."""

    rank: int = 0
    dropout: float = 0
    targets: frozenset[str] = frozenset()
    """The kinds of linear layers that are adapted, such as q_proj."""
    pairs: int = 0
    magnitudes: int = 0
    """DoRA's."""
    whole: int = 0
    """Copies of embeddings and output head that are trained."""
    adapted: frozenset[int] = frozenset()
    """Numbers of the adapted blocks; where a pattern adapts other layers in each, all count as if they had all of
    `targets`."""
    biases: frozenset[str] = frozenset()
    """The kinds of linear layers whose biases are trained, in all blocks (lora.bias: all)."""
    bias_elements: int = 0
    """Of the base's own biases that are trained, in their own type."""
    first_block: int = 0
    """The first one that gradients flow through."""
    cast_inputs: bool = False
    """Whether what goes into an adapter is cast to its type wherever PEFT would, though autocast casts it back."""
    embeddings: bool = False
    """Whether gradients flow into the embeddings, too."""

    @property
    def blocks(self) -> int:
        """How many are adapted."""
        return len(self.adapted)


def adapter_of(architecture: Architecture, lora: LoraSpec) -> Adapter:
    sizes = adapted(architecture, lora)
    saved, blocks = set(lora.modules_to_save), {int(name.split(".")[2]) for name in sizes}
    embeddings = "embed_tokens" in saved
    biased = frozenset(name for name in architecture.linears if architecture.biased(name))
    biases = biased if lora.bias == "all" else frozenset()
    return Adapter(
        rank=lora.rank, dropout=lora.dropout, targets=frozenset(name.rpartition(".")[2] for name in sizes),
        pairs=lora.rank * sum(inputs + outputs for inputs, outputs in sizes.values()),
        magnitudes=sum(outputs for _, outputs in sizes.values()) if lora.use_dora else 0,
        whole=architecture.vocab_size * architecture.hidden_size * len(saved),
        adapted=frozenset(blocks), biases=biases, bias_elements=bias_elements(architecture, lora),
        cast_inputs=lora.cast_inputs, embeddings=embeddings,
        first_block=0 if embeddings or biases else min(blocks, default=architecture.layers),
    )  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One way to run. Lengths in tokens."""

    strategy: Strategy
    world_size: int
    micro_batch_size: int
    max_length: int
    gradient_checkpointing: bool
    """Whether any block's activations are computed again in the backward pass, instead of kept."""
    precision: Precision
    gpu: bool
    devices_per_node: int = 1
    accumulates: bool = False
    """Whether a step has more than one micro-batch."""
    adapter: Adapter = Adapter()
    checkpointed_layers: int | None = None
    """Of how many blocks, if any: the first so many that gradients flow through. None for all of these."""
    quantization: Quantization = "none"
    double_quantization: bool = True
    upcast_unquantized: bool = False
    attention: Literal["eager", "sdpa", "varlen"] = "sdpa"
    masked: bool = True
    """Whether attention gets a mask: packed rows, and rows of several lengths in one batch."""
    fused_loss: bool = False
    """Whether output head and loss are one kernel that never holds all logits, as Liger's is."""
    chunked_loss: bool = False
    """Whether they are computed in chunks of LOSS_CHUNK tokens, as training/model/loss.py does."""
    fused_lora: bool = False
    """Whether an adapted layer is one operation, as in training/model/fused.py."""
    fused_norms: bool = False
    """Whether an RMS norm is one operation, as in training/model/norms.py."""
    optimizer: Optimizer = "paged_adamw_32bit"
    adapter_precision: Precision | None = None
    """Of the adapter's weights; None where PEFT (fp32, from 0.8 on) or DeepSpeed (the run's) choose it."""
    logits_precision: Precision | None = "fp32"
    """What the loss is computed in: transformers casts (from 4.45 on); None where they stay as the model made them."""
    bucket_elements: int | None = None
    """DeepSpeed's reduce_bucket_size; None for the one that muster renders."""
    bucket_views: bool = True
    """Whether DDP's gradients are views of its buckets."""
    fp32_sums: bool = True
    """Whether DeepSpeed adds gradients up in fp32 where muster's files say so (spec.SUMS_FP32)."""
    answer_tokens: int | None = None
    """Of the longest question with its answer, where a run answers some at each evaluation; else None."""
    window: Window | None = None
    """What ZeRO-3 gathers; None for what it gathers of muster's model, by the limits that muster renders."""
    update_copies: int = 1
    """Temporaries of a moment's size in torch's AdamW on a GPU (foreach): 1, in torch 2.0 it was 2."""

    def checkpointed(self, layers: int) -> int:
        """How many of a model's `layers` blocks are computed again. Those without gradients never need to be."""
        most = layers - self.adapter.first_block
        if not self.gradient_checkpointing:
            return 0
        return most if self.checkpointed_layers is None else min(self.checkpointed_layers, most)

    @property
    def tokens(self) -> int:
        """Of a micro-batch whose sequences are all as long as they may be."""
        return self.micro_batch_size * self.max_length

    @property
    def answered_at_once(self) -> int:
        """Questions of a batch: one each where ranks gather weights for every token together."""
        return 1 if self.strategy in SHARDS_BASE and self.world_size > 1 else self.micro_batch_size

    @property
    def element(self) -> int:
        """Bytes of a base weight that is not quantised, and of an activation."""
        return ELEMENT[self.precision]

    @property
    def base_element(self) -> float:
        """Bytes of a frozen linear weight as it is held, packed or not, without scales."""
        return PACKED.get(self.quantization, self.element)

    @property
    def hidden_element(self) -> int:
        """Bytes of what goes from layer to layer: behind norms and embeddings in fp32 a packed layer makes fp32 of what
        it computed in less (Linear4bit.forward in bitsandbytes)."""
        return ELEMENT["fp32"] if self.upcast_unquantized and self.quantization != "none" else self.element

    @property
    def zero(self) -> bool:
        """Whether DeepSpeed runs it."""
        return self.strategy.startswith("zero")

    @property
    def sums_fp32(self) -> bool:
        """Whether gradients are sent and added up in fp32 while the model computes in less."""
        return self.fp32_sums and self.strategy in SUMS_FP32 and self.precision != "fp32"

    @property
    def adapter_type(self) -> Precision:
        """Of an adapter's weight as the model computes with it.

        DeepSpeed casts it to the engine's type and keeps its own fp32 copy; PEFT else holds it in fp32.
        """
        return self.precision if self.zero else self.adapter_precision or "fp32"

    @property
    def adapter_element(self) -> int:
        """Bytes of such a weight."""
        return ELEMENT[self.adapter_type]

    @property
    def casts(self) -> bool:
        """Whether the adapter is held in another type than the base: autocast casts its weights, and PEFT's results."""
        return self.adapter_element != self.element

    @property
    def casts_inputs(self) -> bool:
        """Whether each adapted layer makes a copy of what goes into its adapter (training/model/casting.py)."""
        if self.fused_lora:
            return False
        packed = self.gpu and self.quantization != "none"  # under autocast PEFT's own of these cast none (lora/bnb.py)
        left = packed or not (self.adapter.cast_inputs or self.adapter.dropout)
        uncast = left and self.element < self.adapter_element and not self.adapter.magnitudes
        return self.casts and not uncast
