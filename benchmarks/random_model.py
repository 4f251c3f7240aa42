"""Models of real shapes with random weights, made on the device that they train on: nothing is downloaded or read."""

from typing import Any

from launch.model.architecture import Architecture


def config_of(architecture: Architecture) -> Any:
    """transformers' configuration of these shapes."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        architecture.model_type, hidden_size=architecture.hidden_size, num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads, num_key_value_heads=architecture.kv_heads,
        head_dim=architecture.head_dim, intermediate_size=architecture.intermediate_size,
        vocab_size=architecture.vocab_size, max_position_embeddings=architecture.max_positions,
        tie_word_embeddings=architecture.tied_embeddings, use_cache=False,
    )  # fmt: skip


def random_base(
    architecture: Architecture, quantization: str, device: Any, dtype: Any, attention: str = "sdpa",
    shared: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """The frozen base as training/model/loading.py loads it, its weights drawn on `device`, a layer at a time where
    packed; or those of another base, `shared` by name, so that a GPU holds them once."""
    import torch
    from transformers import AutoModelForCausalLM

    config = config_of(architecture)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    if quantization == "nf4":
        _pack(base, device, dtype)
        base.is_loaded_in_4bit = True  # transformers' loader says so; PEFT chooses its layers by it, TRL their type
    for path, module in base.named_modules():
        own = {n: p for n, p in module.named_parameters(recurse=False) if p.is_meta}
        for name, parameter in own.items():
            if shared is not None:
                made = shared[f"{path}.{name}"]
            else:
                made = torch.empty(parameter.shape, dtype=parameter.dtype, device=device).normal_(std=0.02)
            setattr(module, name, torch.nn.Parameter(made))
    rotary = base.model.rotary_emb  # its buffers are computed, not loaded
    base.model.rotary_emb = type(rotary)(config).to(device)
    return base


def _pack(base: Any, device: Any, dtype: Any) -> None:
    """bitsandbytes' NF4 for all linear layers of the blocks, as transformers puts it there."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    for block in base.model.layers:
        for parent in block.modules():
            for name, linear in list(parent.named_children()):
                if not isinstance(linear, torch.nn.Linear):
                    continue
                packed = Linear4bit(
                    linear.in_features, linear.out_features, bias=linear.bias is not None, compute_dtype=dtype,
                    compress_statistics=True, quant_type="nf4", quant_storage=dtype, device="meta",
                )  # fmt: skip
                if packed.bias is not None:
                    packed.bias = torch.nn.Parameter(torch.zeros(linear.out_features, dtype=dtype))
                weight = torch.empty(linear.weight.shape, dtype=dtype, device=device).normal_(std=0.02)
                packed.weight = Params4bit(
                    weight, requires_grad=False, quant_type="nf4", compress_statistics=True, quant_storage=dtype,
                    module=packed,
                )  # fmt: skip
                setattr(parent, name, packed.to(device))
