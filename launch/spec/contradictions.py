"""What a spec says that cannot hold, or that nothing in its run reads: by the spec alone, without devices or files."""

from typing import Any

from launch.secrets import SECRET
from launch.spec.extra import conflicts as extra_conflicts
from launch.spec.monitoring import conflicts as monitoring_conflicts
from launch.spec.runspec import KeyPath, RunSpec, TrainingSpec, is_pattern
from launch.spec.section import Section
from launch.spec.slurm import conflicts as slurm_conflicts
from launch.spec.stability import conflicts as stability_conflicts


def contradictions(spec: RunSpec) -> list[tuple[KeyPath, str]]:
    """Values that cannot both hold, and values that nothing in this run reads, each with the path it stands at."""
    return [
        *_unread(spec),
        *batch_contradictions(spec.training),
        *extra_conflicts(
            spec.training.extra, spec.training.lr_scheduler, spec.data.eval is not None, bool(spec.training.report_to)
        ),
        *slurm_conflicts(spec.slurm),
        *stability_conflicts(spec.stability),
        *monitoring_conflicts(spec.monitoring),
        *_secrets(spec),
    ]


def _given(section: Section, key: str) -> bool:
    return key in section.model_fields_set and getattr(section, key) is not None


def _unread(spec: RunSpec) -> list[tuple[KeyPath, str]]:
    found: list[tuple[KeyPath, str]] = []
    training = spec.training
    if training.eval_samples is None and _given(training, "eval_max_new_tokens"):
        found.append((("training", "eval_max_new_tokens"), "nothing reads this without training.eval_samples"))
    if spec.data.eval is None:
        message = "nothing reads this: there is no data.eval; set data.eval or remove it"
        keys = [key for key in ("eval_steps", "eval_samples", "early_stopping_patience") if _given(training, key)]
        found += [(("training", key), message) for key in keys]
        if "leakage" in spec.data.accept:
            found.append((("data", "accept"), f"leakage: {message}"))
    named = list(spec.data.columns.values())
    for ours, theirs in spec.data.columns.items():
        if named.count(theirs) > 1:
            found.append((("data", "columns", ours), f"{theirs!r} is mapped twice; a column has one meaning"))
    if _given(training, "max_steps") and _given(training, "epochs"):
        message = f"nothing reads this: training.max_steps = {training.max_steps} ends the run; remove one of the two"
        found.append((("training", "epochs"), message))
    found += _unread_lora(spec)
    if spec.slurm.spares and spec.cluster.nodes == 1:
        message = "nothing reads this with cluster.nodes = 1; remove it or ask for more nodes"
        found.append((("slurm", "spares"), message))
    return found


def _unread_lora(spec: RunSpec) -> list[tuple[KeyPath, str]]:
    found: list[tuple[KeyPath, str]] = []
    model, lora = spec.model, spec.lora
    if model.upcast_unquantized and model.quantization == "none":
        message = "nothing reads this with model.quantization: none, where all is held in the run's precision"
        found.append((("model", "upcast_unquantized"), message))
    if _given(model, "double_quantization") and model.quantization != "nf4":
        message = f"nothing reads this with model.quantization: {model.quantization}; it is nf4's"
        found.append((("model", "double_quantization"), message))
    if model.flash_attention != "torch" and model.attention == "eager":
        message = "nothing reads this with model.attention: eager, which has no kernel of its own; use sdpa or varlen"
        found.append((("model", "flash_attention"), message))
    if lora.precision == "bf16" and spec.training.precision == "fp16":
        message = "bf16 beside training.precision: fp16, which is for hardware without bf16; use fp32 or auto"
        found.append((("lora", "precision"), message))
    if lora.layers_to_transform is not None and is_pattern(lora.target_modules):
        message = "nothing reads this: the regular expression of lora.target_modules names the layers itself"
        found.append((("lora", "layers_to_transform"), message))
    start, path = lora.init_lora_weights, ("lora", "init_lora_weights")
    if start == "pissa" and model.quantization != "none":
        message = "pissa takes the principal part out of each weight, and a quantised one cannot give it: use loftq"
        found.append((path, f"{message} with nf4, or model.quantization: none"))
    if start == "loftq" and model.quantization != "nf4":
        message = f"loftq begins with what nf4 lost, and model.quantization is {model.quantization}: use nf4 or default"
        found.append((path, message))
    if start != "default" and lora.use_dora:
        found.append((path, f"{start} with lora.use_dora: each sets the weights' sizes by itself; use one of them"))
    if start != "default" and lora.adapter is not None:
        found.append((path, "nothing reads this: lora.adapter says how the adapter begins; remove one of the two"))
    return found


def batch_contradictions(training: TrainingSpec) -> list[tuple[KeyPath, str]]:
    total, micro = training.global_batch_size, training.micro_batch_size
    if total is None or micro == "auto" or not _given(training, "micro_batch_size"):
        return []
    if total % micro:
        near = next(size for size in range(min(micro, total), 0, -1) if total % size == 0)
        message = f"{micro} does not divide training.global_batch_size = {total}; use {near}, another divisor, or auto"
        return [(("training", "micro_batch_size"), message)]
    accumulation = training.gradient_accumulation_steps
    if _given(training, "gradient_accumulation_steps") and total % (micro * accumulation):
        message = (
            "contradicts the other two: micro_batch_size x gradient_accumulation_steps ="
            f" {micro} x {accumulation} = {micro * accumulation} does not divide {total};"
            " give global_batch_size alone, or the other two alone"
        )
        return [(("training", "global_batch_size"), message)]
    return []


def _secrets(spec: RunSpec) -> list[tuple[KeyPath, str]]:
    message = (
        "looks like a secret; a spec is copied into the run directory: pass it through the environment"
        " (HF_TOKEN, WANDB_API_KEY)"
    )
    return [(path, message) for path, text in strings(spec.model_dump()) if SECRET.search(text)]


def strings(value: Any, path: KeyPath = ()) -> list[tuple[KeyPath, str]]:
    """Every string inside nested dicts and lists, with its path."""
    if isinstance(value, str):
        return [(path, value)]
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in strings(item, (*path, str(key)))]
    if isinstance(value, list | tuple):
        return [found for index, item in enumerate(value) for found in strings(item, (*path, str(index)))]
    return []
