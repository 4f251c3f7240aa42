"""FLOPs of LoRA training, for model FLOPs utilisation (MFU)."""

from launch.architecture import Architecture


def flops_per_token(architecture: Architecture, adapter_parameters: int, length: float) -> float:
    """FLOPs that one trained token needs, in sequences of `length` tokens; recomputation is not counted.

    The frozen linears run forward and pass gradients through, 2 + 2 FLOPs a weight, as does the output head; causal
    attention costs 6 x length x query width a layer (half the square, forward and twice backward); the adapter 6 a
    parameter, for its own gradient as well. Compare 6N for full training (Kaplan et al. 2020, section 2.1).
    """
    attention = 6 * length * architecture.heads * architecture.head_dim * architecture.layers
    head = 4 * architecture.vocab_size * architecture.hidden_size
    return 4 * architecture.linear_parameters + head + attention + 6 * adapter_parameters
