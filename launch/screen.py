"""Checks, models, data and evaluations for people, as rich tables. Readable without colour."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.evaluation import MEASURES, MODELS, chosen
from launch.preflight import Check, Result, sentence
from launch.preflight.result import SEVERITY
from launch.wording import amount, plural, printable

if TYPE_CHECKING:
    from launch.preflight.selftest import Tried

MARKS = {
    "pass": ("ok", "green"),
    "warn": ("warn", "yellow"),
    "fail": ("FAIL", "red"),
    "skipped": ("skip", "dim"),
    "unknown": ("?", "yellow"),
}


def checks_view(results: Sequence[Result], place: str) -> RenderableType:
    """By family, those that stop the run first, the verdict last. What does not concern the run is named in a line."""
    told = [result for result in results if result.status != "skipped"]
    families = sorted(  # from a dict, not a set: among equals their order is the catalogue's, the same each time
        dict.fromkeys(r.family for r in told),
        key=lambda f: min(SEVERITY.index(r.status) for r in told if r.family == f),
    )
    table = Table(title="Checks", title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for family in families:
        own = sorted((r for r in told if r.family == family), key=lambda r: SEVERITY.index(r.status))
        for (status, text), same in groupby(own, key=lambda r: (r.status, _found(r))):
            mark, style = MARKS[status]
            table.add_row(Text(mark, style=style), "\n".join(r.name for r in same), Text(text))
    reasons = Counter(result.evidence for result in results if result.status == "skipped")
    left_out = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    lines = [Text(f"skipped: {left_out}", style="dim")] if left_out else []
    return Group(table, *lines, Text(sentence(results, place), style="bold"))


def _found(result: Result) -> str:
    where = f"{result.node}: " if result.node else ""
    accepted = " (accepted)" if result.accepted else ""
    return f"{where}{result.evidence}{accepted}{f'. {result.fix}' if result.fix else ''}"


def checks_list(checks: Sequence[Check]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    table.add_column("check", style="bold", no_wrap=True)
    for column in ("family", "finds", "threshold"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, check.family, check.finds, check.threshold)
    return table


def selftest_view(tried: "Sequence[Tried]") -> RenderableType:
    """A simulated machine a row: what was found, and whether that is what is wrong with it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("machine", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("as expected", no_wrap=True)
    for each in tried:
        same: dict[str, list[str]] = {}
        for name, status in each.found.items():
            same.setdefault(status, []).append(name)
        found = "; ".join(f"{status}: {', '.join(names)}" for status, names in same.items())
        judged = "not tried" if each.not_tried else "yes" if each.right else "NO"
        table.add_row(each.scenario, found or "nothing", judged)
    counted = [each for each in tried if not each.not_tried]
    told = f"{sum(each.right for each in counted)} of {len(counted)} machines as expected"
    reasons = dict.fromkeys(each.not_tried for each in tried if each.not_tried)
    lines = [f"{sum(each.not_tried == why for each in tried)} not tried: {why}" for why in reasons]
    return Group(table, Text(told, style="bold"), *map(Text, lines))


def models_view(models: list[dict[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for column in ("name", "parameters", "context", "kind", "license", "here"):
        table.add_column(column, justify="right" if column in ("parameters", "context") else "left", overflow="fold")
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


def stats_view(measured: dict[str, Any]) -> RenderableType:
    """Each split's numbers and its lengths as bars."""
    parts: list[RenderableType] = []
    for name, split in measured["splits"].items():
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for key, value in _stats_rows(split, measured["max_length"]).items():
            table.add_row(key, Text(value))
        parts += [Text(name, style="bold"), table, _bars(split["histogram"]), Text()]
    memory = amount(measured["peak_memory_bytes"])
    parts.append(Text(f"{measured['seconds']:.1f} s, {measured['rows_per_second']:,.0f} rows/s, {memory} at the peak"))
    return Group(*parts)


def _stats_rows(split: dict[str, Any], max_length: int) -> dict[str, str]:
    places = ", ".join(f"{place} % {length:,}" for place, length in split["length_percentiles"].items())
    left_out = f", {split['quarantined_rows']:,} left out for errors" if split["quarantined_rows"] else ""
    share = 100 * split["trainable_share"]
    rows = {
        "rows": f"{split['rows']:,}{left_out}",
        "tokens": f"{split['tokens']:,}, {split['trainable_tokens']:,} ({share:.1f} %) trained on",
        "lengths": places,
        "packing": f"{100 * split['packing_yield']:.2f} % of the positions of sequences of {max_length:,} hold a token",
        "no packing": f"{100 * split['padding_share_without_packing']:.1f} % padding, were all padded to the longest",
    }
    return rows | (
        {"changed": "; ".join(f"{n:,} {what}" for what, n in split["changes"].items())} if split["changes"] else {}
    )


def _bars(histogram: dict[str, list[int]]) -> RenderableType:
    edges, counts = histogram["edges"], histogram["counts"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="right", style="dim")
    table.add_column()
    table.add_column(justify="right")
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        table.add_row(f"{low:,} to {high:,}", "\u2588" * round(40 * count / max(1, *counts)), f"{count:,}")
    return table


ANSWER_SHOWN = 400  # characters of an answer on the screen; answers.jsonl has it whole


def evaluation_view(report: dict[str, Any]) -> RenderableType:
    """Base and adapter side by side. A number that nothing was found for is a dash."""
    table = Table(box=None, pad_edge=False)
    table.add_column(style="bold")
    for model in MODELS:
        table.add_column(model, justify="right")
    for key, name, form in MEASURES:
        values = [report[model][key] for model in MODELS]
        table.add_row(name, *("-" if value is None else form.format(value) for value in values))
    asked = f"{plural(report['questions'], 'question')} answered, {report['unanswerable']} of them unanswerable"
    head = (
        f"{report['name']}: {plural(report['samples'], 'row')}, {report['trainable_tokens']:,} tokens judged; {asked}"
    )
    return Group(Text(head, style="bold"), table)


def answers_view(answers: list[dict[str, Any]], count: int) -> RenderableType:
    """Some of the answers, spread evenly over them."""
    parts: list[RenderableType] = []
    for row in (answers[place] for place in chosen(len(answers), count)):
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        texts = {"question": row["question"], "reference": row["reference"]}
        texts |= {str(model): row[model]["answer"] for model in MODELS}
        for name, text in texts.items():
            short = text if len(text) <= ANSWER_SHOWN else f"{text[:ANSWER_SHOWN]} ..."
            table.add_row(name, Text("\n".join(printable(line) for line in short.splitlines())))
        parts += [Text(), table]
    return Group(*parts)
