"""Models for people, as rich tables."""

from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.wording import plural


def models_view(models: list[dict[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for column in ("name", "parameters", "context", "kind", "license", "here"):
        justify: Literal["left", "right"] = "right" if column in ("parameters", "context") else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column == "name")
    for model in models:
        billions, here = f"{model['parameters'] / 1e9:.1f} B", "yes" if model["directory"] else "no"
        table.add_row(
            model["name"],
            billions,
            f"{model['context']:,}",
            _kind(model),
            model["license"],
            here,
        )
    return table


def model_view(model: dict[str, Any], problems: list[str]) -> RenderableType:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _model_rows(model, problems).items():
        table.add_row(name, Text(value))
    return Group(Text(model["name"], style="bold"), table, Text(), _fits(model))


def _model_rows(model: dict[str, Any], problems: list[str]) -> dict[str, str]:
    shapes = model["architecture"]
    attention = f"{shapes['heads']} heads of {shapes['head_dim']}, {shapes['kv_heads']} for keys and values"
    files = model["directory"] or "not on this machine; loading downloads them"
    return {
        "kind": _kind(model),
        "license": model["license"] or "see its own files",
        "files": "; ".join(problems) or files,
        "parameters": f"{model['parameters']:,}",
        "context": f"{model['context']:,} tokens",
        "shapes": f"{shapes['model_type']}, {shapes['layers']} layers of {shapes['hidden_size']:,}, MLP"
        f" {shapes['intermediate_size']:,}, vocabulary {shapes['vocab_size']:,}",
        "attention": attention,
        "LoRA targets": ", ".join(model["lora_targets"]),
        "adapter": f"{model['adapter_parameters']:,} parameters at rank 8 on all of them",
    }


def _fits(model: dict[str, Any]) -> RenderableType:
    """Strategy and share of memory by GPU, for each way of the columns."""
    title = f"The recipe with sequences of {model['max_length']:,} tokens: strategy and share of each GPU's memory"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    ways = list(dict.fromkeys((fit["gpus"].split("x")[0], fit["quantization"]) for fit in model["fits"]))
    table.add_column("GPU")
    for count, quantization in ways:
        table.add_column(f"{plural(int(count), 'GPU')}{'' if quantization == 'none' else f', {quantization}'}")
    rows: dict[str, list[str]] = {}
    for fit in model["fits"]:
        cell = f"{fit['strategy']} {100 * fit['memory_share']:.0f} %" if fit["strategy"] else "-"
        rows.setdefault(fit["gpus"].split("x", 1)[1], []).append(cell)
    for gpu, cells in rows.items():
        table.add_row(gpu, *cells)
    return table


def _kind(model: dict[str, Any]) -> str:
    kind = {True: "chat", False: "base", None: "unknown"}[model["chat"]]
    return f"{kind}, original layout" if model["original_layout"] else kind
