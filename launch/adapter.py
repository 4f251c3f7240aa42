"""Which modules of a model an adapter changes, and how many parameters it trains. Pure."""

import re

from launch.architecture import Architecture
from launch.spec import LoraSpec, Path, is_pattern


def adapted(architecture: Architecture, lora: LoraSpec) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each adapted module by its full name, as peft chooses them."""
    layers = lora.layers_to_transform
    return {
        name: sizes
        for name, sizes in architecture.modules.items()
        if _matches(name, lora.target_modules) and (layers is None or int(name.split(".")[2]) in layers)
    }


def adapter_parameters(architecture: Architecture, lora: LoraSpec) -> int:
    """Trainable parameters: rank x (inputs + outputs) for each adapted module, with DoRA a magnitude for each output,
    and what is trained whole. Trained biases are not counted."""
    sizes = adapted(architecture, lora).values()
    pairs = lora.rank * sum(inputs + outputs for inputs, outputs in sizes)
    magnitudes = sum(outputs for _, outputs in sizes) if lora.use_dora else 0
    whole = architecture.vocab_size * architecture.hidden_size * len(set(lora.modules_to_save))
    return pairs + magnitudes + whole


def conflicts(architecture: Architecture, lora: LoraSpec) -> list[tuple[Path, str]]:
    """What this architecture does not have, each with its place in the spec."""
    found = _target_conflicts(architecture, lora.target_modules)
    beyond = [number for number in lora.layers_to_transform or [] if number >= architecture.layers]
    if beyond or lora.layers_to_transform == []:
        given = ", ".join(map(str, beyond)) or "empty"
        message = f"lora.layers_to_transform: {given}; allowed: 0 to {architecture.layers - 1}"
        found.append((("lora", "layers_to_transform"), message))
    if lora.modules_to_save and architecture.tied_embeddings:
        message = "lora.modules_to_save: this model's output head is its embedding; training one would part them"
        found.append((("lora", "modules_to_save"), f"{message}; remove it"))
    return found


def _target_conflicts(architecture: Architecture, targets: str | list[str]) -> list[tuple[Path, str]]:
    path, names = ("lora", "target_modules"), list(architecture.modules)
    allowed = f"allowed: all-linear, a regular expression, or a list of {', '.join(architecture.linears)}"
    if isinstance(targets, str):
        if not is_pattern(targets):
            return []
        try:
            matched = any(re.fullmatch(targets, name) for name in names)
            beyond = next((name for name in _others(architecture) if re.fullmatch(targets, name)), None)
        except re.error as error:
            return [(path, f"lora.target_modules: {targets!r} is no regular expression: {error}; {allowed}")]
        if matched and beyond is None:
            return []
        what = f"matches {beyond} too, which is no linear layer of a block" if beyond else "matches no linear layer"
        return [(path, f"lora.target_modules: {targets!r} {what}; a whole name is {names[0]}; {allowed}")]
    unknown = [target for target in targets if not any(_matches(name, [target]) for name in names)]
    if targets and not unknown:
        return []
    given = ", ".join(unknown) or "empty"
    return [(path, f"lora.target_modules: {given}: not a linear layer of this model; {allowed}")]


def _others(architecture: Architecture) -> list[str]:
    """Modules that a regular expression may match and that are not adapted: what holds linear layers, and the rest."""
    block = ("", ".self_attn", ".mlp", ".mlp.act_fn", ".input_layernorm", ".post_attention_layernorm")
    blocks = [f"model.layers.{number}{part}" for number in range(architecture.layers) for part in block]
    return ["model", "model.layers", "model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", *blocks]


def _matches(name: str, targets: str | list[str]) -> bool:
    """peft's rule: a regular expression has to match the whole name, an entry of a list its last parts."""
    if isinstance(targets, str):
        return targets == "all-linear" or bool(re.fullmatch(targets, name))
    return any(name == target or name.endswith(f".{target}") for target in targets)
