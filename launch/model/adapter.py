"""Which modules of a model an adapter changes, how many parameters it trains, and from which other adapter it can go
on. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from launch.model.architecture import Architecture
from launch.spec import KeyPath, LoraSpec, is_pattern

# Variants of LoRA that change weights in other ways, by their keys in adapter_config.json: neither trained nor merged.
UNKNOWN = ("rank_pattern", "alpha_pattern", "layer_replication", "trainable_token_indices", "use_qalora", "lora_bias")
# Initialisations by which PEFT changes the base itself: an adapter that was saved as it is then belongs to that base.
CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga")
# A spec's keys by PEFT's, of what two adapters must have in common.
_COMMON = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "use_rslora", "use_dora": "use_dora"}


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
    what is trained whole, and biases of the base."""
    sizes = adapted(architecture, lora).values()
    pairs = lora.rank * sum(inputs + outputs for inputs, outputs in sizes)
    magnitudes = sum(outputs for _, outputs in sizes) if lora.use_dora else 0
    whole = architecture.vocab_size * architecture.hidden_size * len(set(lora.modules_to_save))
    return pairs + magnitudes + whole + bias_elements(architecture, lora)


def bias_elements(architecture: Architecture, lora: LoraSpec) -> int:
    """Of the base's own biases that are trained."""
    if lora.bias == "none":
        return 0
    modules = architecture.modules if lora.bias == "all" else adapted(architecture, lora)
    return sum(outputs for name, (_, outputs) in modules.items() if architecture.biased(name.rpartition(".")[2]))


def conflicts(architecture: Architecture, lora: LoraSpec) -> list[tuple[KeyPath, str]]:
    """What this architecture does not have, each with its place in the spec."""
    found = _target_conflicts(architecture, lora.target_modules)
    beyond = [number for number in lora.layers_to_transform or [] if number >= architecture.layers]
    if beyond or lora.layers_to_transform == []:
        given = ", ".join(map(str, beyond)) or "empty"
        message = f"lora.layers_to_transform: {given}; allowed: 0 to {architecture.layers - 1}"
        found.append((("lora", "layers_to_transform"), message))
    if not found and lora.init_lora_weights != "default":
        narrowest = min(min(sizes) for sizes in adapted(architecture, lora).values())
        found += _too_many_pairs(lora, narrowest)
    if lora.modules_to_save and architecture.tied_embeddings:
        message = "lora.modules_to_save: this model's output head is its embedding; training one would part them"
        found.append((("lora", "modules_to_save"), f"{message}; remove it"))
    return found


def _too_many_pairs(lora: LoraSpec, narrowest: int) -> list[tuple[KeyPath, str]]:
    if lora.rank <= narrowest:
        return []
    message = f"lora.rank {lora.rank}: {lora.init_lora_weights} finds at most {narrowest} pairs in the narrowest module"
    return [(("lora", "rank"), f"{message}; lower it, or use init_lora_weights: default")]


def other_kind(theirs: Mapping[str, Any], lora: LoraSpec) -> list[str]:
    """What an adapter's adapter_config.json has that the spec's adapter has not: a line each."""
    found = [
        f"lora.{ours}: the adapter has {theirs.get(key)!r}, the spec says {getattr(lora, ours)!r}"
        for key, ours in _COMMON.items()
        if theirs.get(key, False) != getattr(lora, ours)
    ]
    if theirs.get("bias", "none") != lora.bias:
        found.append(f"lora.bias: the adapter has {theirs['bias']!r}, the spec says {lora.bias!r}")
    whole = sorted(theirs.get("modules_to_save") or [])
    if whole != sorted(lora.modules_to_save):
        found.append(f"lora.modules_to_save: the adapter has {whole!r}, the spec says {sorted(lora.modules_to_save)!r}")
    found += [f"{key} is set, which a spec cannot say" for key in UNKNOWN if theirs.get(key)]
    changed = changed_base(theirs)
    return found + ([changed] if changed else [])


def changed_base(config: Mapping[str, Any]) -> str | None:
    """Why an adapter, by its adapter_config.json, is for no base that is on a disk; None where it is for its base."""
    start = str(config.get("init_lora_weights", ""))
    if not start.startswith(CHANGES_BASE):
        return None
    return (
        f"it is for a base that its init_lora_weights {start!r} has changed: save it for the unchanged one, with PEFT's"
        " path_initial_model_for_weight_conversion"
    )


def other_modules(shapes: Mapping[str, tuple[int, ...]], architecture: Architecture, lora: LoraSpec) -> list[str]:
    """Names of an adapter's pairs that the spec's adapter has not, or in another shape, and the other way round."""
    wanted = {
        f"base_model.model.{module}.lora_{half}.weight": shape
        for module, (inputs, outputs) in adapted(architecture, lora).items()
        for half, shape in (("A", (lora.rank, inputs)), ("B", (outputs, lora.rank)))
    }
    pairs = {name: shape for name, shape in shapes.items() if name.endswith((".lora_A.weight", ".lora_B.weight"))}
    return sorted(name for name in pairs.keys() | wanted.keys() if pairs.get(name) != wanted.get(name))


def _target_conflicts(architecture: Architecture, targets: str | list[str]) -> list[tuple[KeyPath, str]]:
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
