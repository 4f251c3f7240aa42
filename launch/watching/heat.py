"""GPUs as a heat map: a row a node, a cell a GPU, its utilisation on the left and its memory on the right. Pure."""

from collections.abc import Callable, Sequence

from rich.text import Text

from launch.watching.charts import SHADES, Glyphs, shade
from launch.watching.view import Gpu, Node
from launch.wording import amount, printable

# Of a node's name its end is kept: what differs stands there.
NAME = 14
GAP = "   "
_GIB = 1024**3


def heat(nodes: Sequence[Node], width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """At most `height` lines. Side by side where one below the other would not fit, and where that is not enough the
    nodes with the idlest GPUs, and how many more there are."""
    if height < 1 or not nodes:
        return []
    if not any(node.gpus for node in nodes):
        return [_host(node) for node in nodes[:height]]
    names = _names(nodes)
    cells = max(len(node.gpus) for node in nodes)
    used = min(abreast(nodes, width), -(-len(nodes) // height))
    shown = list(nodes)
    hidden = len(nodes) - used * height
    if hidden > 0:  # one line is needed to say so
        shown = sorted(nodes, key=_idlest)[: used * (height - 1)]
        hidden = len(nodes) - len(shown)
    rows = -(-len(shown) // used) if shown else 0
    lines = [_abreast([shown[at] for at in range(row, len(shown), rows)], names, cells, used == 1, glyphs)
             for row in range(rows)]  # fmt: skip
    return [*lines, Text(f"and {hidden:,} more nodes, none of them idler", style="dim")] if hidden > 0 else lines


def abreast(nodes: Sequence[Node], width: int) -> int:
    """How many nodes have room beside each other; 1 without any."""
    cells = max((len(node.gpus) for node in nodes), default=0)
    if not cells:
        return 1
    wide = max(map(len, _names(nodes).values())) + 2 * (cells + 1)
    return max(1, (width + len(GAP)) // (wide + len(GAP)))


def _abreast(nodes: Sequence[Node], names: dict[str, str], cells: int, alone: bool, glyphs: Glyphs) -> Text:
    text = Text()
    for number, node in enumerate(nodes):
        text.append(GAP if number else "")
        text.append(names[node.name].ljust(max(map(len, names.values()))))
        for value, style in ((_utilization, _busy), (_memory, _full)):
            text.append(" ")
            text.append(_cells(node, value, style, cells, glyphs))
    return text.append(f"{GAP}{_words(nodes[0], glyphs)}", style="dim") if alone else text


def _cells(
    node: Node, value: Callable[[Gpu], float | None], style: Callable[[float | None], str], cells: int, glyphs: Glyphs
) -> Text:
    text = Text()
    for gpu in node.gpus:
        if gpu.error:
            text.append(glyphs.lost, style="bold red")
        else:
            text.append(shade(value(gpu), glyphs), style=style(value(gpu)))
    return text.append(" " * (cells - len(node.gpus)))


def _words(node: Node, glyphs: Glyphs) -> str:
    """A node's numbers: mean utilisation, the fullest GPU, the hottest one, and what all of them draw."""
    busy = [gpu.utilization for gpu in node.gpus if gpu.utilization is not None]
    full = max(
        (gpu for gpu in node.gpus if gpu.memory_bytes is not None), key=lambda gpu: gpu.memory_bytes or 0, default=None
    )
    hot = [gpu.temperature for gpu in node.gpus if gpu.temperature is not None]
    watts = [gpu.watts for gpu in node.gpus if gpu.watts is not None]
    words = [f"{sum(busy) / len(busy):3.0f} %"] if busy else []
    if full is not None:
        total = f" of {full.total_bytes / _GIB:.0f}" if full.total_bytes else ""
        words.append(f"{(full.memory_bytes or 0) / _GIB:.1f}{total} GiB")
    words += [f"{max(hot):.0f} {glyphs.degree}C".replace("  ", " ")] if hot else []
    words += [f"{sum(watts):,.0f} W"] if watts else []
    return "  ".join(words)


def _host(node: Node) -> Text:
    cpu = f"cores {node.cpu:.0f} % busy" if node.cpu is not None else ""
    memory = f"{amount(int(node.host_bytes))} of memory used" if node.host_bytes is not None else ""
    return Text(f"{printable(node.name)}  {', '.join(filter(None, (cpu, memory)))}")


def legend(glyphs: Glyphs) -> str:
    """What a shade means."""
    parts = [f"{glyphs.shades[0]} <{SHADES[1]:.0f}"]
    parts += [f"{glyphs.shades[at]} <{SHADES[at + 1]:.0f}" for at in range(1, len(SHADES) - 1)]
    return "  ".join([*parts, f"{glyphs.shades[-1]} {SHADES[-1]:.0f}+ %"])


def _names(nodes: Sequence[Node]) -> dict[str, str]:
    """Host names without their domain, their beginning cut where they are long."""
    short = {node.name: printable(node.name).partition(".")[0] or printable(node.name) for node in nodes}
    return {name: text if len(text) <= NAME else f"~{text[1 - NAME :]}" for name, text in short.items()}


def _idlest(node: Node) -> float:
    """One with a GPU that is lost or tells nothing comes first."""
    return min((-1.0 if gpu.error or gpu.utilization is None else gpu.utilization for gpu in node.gpus), default=-1.0)


def _utilization(gpu: Gpu) -> float | None:
    return gpu.utilization


def _memory(gpu: Gpu) -> float | None:
    return gpu.memory


def _busy(percent: float | None) -> str:
    """An idle GPU is what costs."""
    if percent is None:
        return "dim"
    return "red" if percent < 30 else "yellow" if percent < 60 else "green"


def _full(percent: float | None) -> str:
    """A full one is what fails."""
    if percent is None:
        return "dim"
    return "red" if percent >= 95 else "yellow" if percent >= 85 else "cyan"
