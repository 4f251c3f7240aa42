"""Statistics of data for people, as rich tables."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.wording import amount


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
