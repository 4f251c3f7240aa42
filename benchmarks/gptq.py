"""GPU memory of Q-LoRA as QwenLM ran it: what PyTorch's allocator holds after some steps, allocation by allocation.

Their base is packed by GPTQ, in fp16 under DeepSpeed's ZeRO-2, which is not how muster trains: bitsandbytes keeps no
unpacked weight for the backward pass, and its NF4 has other constants. The sizes and the order of what is allocated are
those of the sources: AutoGPTQ's qlinear_cuda_old.py, DeepSpeed's stage_1_and_2.py, PEFT's LoRA layers and their own
modeling_qwen.py. published_memory.py compares the outcome with what they published.
"""

from collections.abc import Iterator

from launch.memory.allocator import Block, Pool
from launch.model.architecture import Architecture

# Weights of one scale and zero point in their checkpoints (quantize_config.json).
GROUP = 128
FP16, FP32, INT32 = 2, 4, 4
# ds_config_zero2.json: reduce_bucket_size, two with overlap_comm.
BUCKET, BUCKETS = 200_000_000, 2
ACCUMULATION = 8
STEPS = 10  # micro-batches, of which the eighth updates: nothing new is taken from the driver afterwards


def qlora_bytes(architecture: Architecture, rank: int, tokens: int) -> int:
    """Bytes that PyTorch reserves, of one GPU with one sequence in a micro-batch."""
    linears = _fused(architecture)
    trained = architecture.layers * rank * sum(inputs + outputs for inputs, outputs in linears)
    pool = Pool()
    for size in _base(architecture, linears):
        pool.take(size)
    _optimizer(pool, trained)
    for step in range(1, STEPS + 1):
        _micro_batch(pool, architecture, linears, tokens)
        if step % ACCUMULATION == 0:  # step: the gradients as one tensor, then in fp32
            pool.give(pool.take(FP16 * trained), pool.take(FP32 * trained))
    # grads_in_partition: what was accumulated and what a micro-batch adds, on the stream of the reduction, whose blocks
    # no other stream can use.
    return pool.reserved + 2 * FP16 * trained


def _fused(architecture: Architecture) -> list[tuple[int, int]]:
    """(inputs, outputs) of c_attn, c_proj, w1, w2 and the MLP's c_proj."""
    h, i = architecture.hidden_size, architecture.intermediate_size
    return [(h, 3 * h), (h, h), (h, i), (h, i), (i, h)]


def _base(architecture: Architecture, linears: list[tuple[int, int]]) -> Iterator[int]:
    """Embeddings and head in fp16; of each linear qweight, qzeros, scales, g_idx and c_attn's bias."""
    yield from 2 * [FP16 * architecture.vocab_size * architecture.hidden_size]
    for _ in range(architecture.layers):
        for inputs, outputs in linears:
            yield inputs * outputs // 2
            yield inputs // GROUP * outputs // 2
            yield FP16 * (inputs // GROUP) * outputs
            yield INT32 * inputs
        yield FP16 * linears[0][1]


def _optimizer(pool: Pool, trained: int) -> None:
    """ZeRO-2's own: the weights as one tensor, in fp32, and Adam's moments; what it needs once stays as free blocks."""
    pool.take(FP16 * trained)
    copied = pool.take(FP16 * trained)
    pool.take(FP32 * trained)
    pool.give(copied)
    gradient = pool.take(FP32 * trained)  # initialize_optimizer_states
    for _ in range(2):
        pool.take(FP32 * trained)
    pool.give(gradient)


def _micro_batch(pool: Pool, architecture: Architecture, linears: list[tuple[int, int]], tokens: int) -> None:
    hidden, logits = FP16 * tokens * architecture.hidden_size, FP16 * tokens * architecture.vocab_size
    inputs = [pool.take(hidden) for _ in range(architecture.layers)]
    for linear in linears:
        weight = _unpacked(pool, linear)
        pool.give(pool.take(FP16 * tokens * linear[1]), weight)
    last, head = pool.take(hidden), pool.take(logits)
    # In fp16, of all tokens but the last. The logits themselves go before the backward pass begins, and DeepSpeed's
    # buckets come then: where no free block is larger, they are cut from the logits', and the next tensor as large
    # needs a block of its own.
    softmax = pool.take(logits)
    pool.give(head)
    buckets = [pool.take(FP16 * BUCKET) for _ in range(BUCKETS)]
    likelihood, gradient = pool.take(logits), pool.take(logits)
    pool.give(likelihood, softmax)
    padded = pool.take(logits)  # the gradient of leaving out the last token
    pool.give(gradient)
    back = pool.take(hidden)
    pool.give(padded, last)
    for block in reversed(inputs):
        _recomputed(pool, architecture, linears, tokens)
        pool.give(block)
    pool.give(back, *buckets)


def _recomputed(pool: Pool, architecture: Architecture, linears: list[tuple[int, int]], tokens: int) -> None:
    """A block's forward pass once more, and its backward pass: autograd keeps each weight as it was unpacked, and of
    each adapter its dropped input and the mask."""
    kept = []
    for inputs, outputs in linears:
        kept += [pool.take(FP16 * tokens * inputs), pool.take(tokens * inputs)]
        kept += [_unpacked(pool, (inputs, outputs)), pool.take(FP16 * tokens * outputs)]
    kept += [pool.take(FP16 * tokens * architecture.hidden_size) for _ in range(4)]
    kept += [pool.take(FP16 * tokens * architecture.intermediate_size) for _ in range(2)]
    pool.give(*kept)


def _unpacked(pool: Pool, linear: tuple[int, int]) -> Block:
    """Shifted in 32 bits, cut to 8, less the zero points in 8, times the scales in fp16."""
    weights = linear[0] * linear[1]
    shifted, cut = pool.take(INT32 * weights), pool.take(weights)
    pool.give(shifted)
    moved, scaled = pool.take(weights), pool.take(FP16 * weights)
    pool.give(moved, cut)
    return scaled
