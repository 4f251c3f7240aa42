"""A run's view as lines of a terminal of any size. Pure: a view and a size in, so many lines of that width out."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from launch.logs.happened import number
from launch.status.view import STYLES
from launch.watching.charts import Glyphs, columns, curve, limits
from launch.watching.heat import abreast, heat, legend
from launch.watching.view import Happening, Row, View
from launch.wording import amount, local, plural, printable, span

# Curves side by side need this many columns, and more rows than this show nothing more.
ABREAST, TALLEST = 72, 8
# Columns of the numbers beside a curve.
AXIS = 8
# Samples come every few seconds: older ones are not of now.
STALE_SECONDS = 30.0


def page(view: View, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """`height` lines of `width` cells each, the last one saying which keys there are."""
    width, height = max(1, width), max(1, height)
    lines = body(view, width, height - 1, glyphs) if height > 1 else []
    lines += [Text()] * (height - 1 - len(lines))
    keys = f"q leaves {glyphs.dot} the run goes on"
    last = [Text(keys, style="dim")] if height > 1 else [_head(view, width)]
    return [fitted(line, width, glyphs) for line in [*lines, *last]]


def snapshot(view: View, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """At most `height` lines, as they are left on the screen."""
    return [fitted(line, width, glyphs) for line in body(view, max(1, width), max(1, height), glyphs)]


@dataclass(frozen=True)
class Share:
    """Lines that each part gets, titles included."""

    curves: int
    heat: int
    happenings: int


def share(height: int, logged: int, dense: int, nodes: int, happenings: int) -> Share:
    """How `height` lines are divided. `dense`: rows of the heat map with nodes beside each other, of `nodes` with one
    below the other. A little for each part first, then what each can use, in the order of their worth."""
    parts = {"curves": 0, "heat": 0, "happenings": 0}
    wishes = [
        ("curves", 2), ("heat", min(2, 1 + dense)), ("happenings", min(3, 1 + happenings)),
        ("heat", 1 + dense), ("curves", 4), ("happenings", min(6, 1 + happenings)),
        ("heat", 1 + nodes), ("curves", 1 + TALLEST), ("happenings", 1 + happenings),
    ]  # fmt: skip
    nothing = {"curves": not logged, "heat": not dense, "happenings": not happenings}
    for name, lines in wishes:
        if nothing[name]:
            continue
        most = parts[name] + height - sum(parts.values())
        if name == "curves" or most >= 2:  # a title alone says nothing
            parts[name] = max(parts[name], min(lines, most))
    return Share(**parts)


def body(view: View, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """At most `height` lines, the most important ones first where there is room for few."""
    each = 2 if height >= 18 else 1
    top = [_head(view, width), _bar(view, width, glyphs), *_flow(_facts(view), width, each, glyphs)]
    top += [Text(f"! {printable(trouble)}", style="bold red") for trouble in view.troubles[: max(1, height // 6)]]
    top += _flow(_numbers(view), width, each, glyphs)
    if view.attempts and height >= 12:
        top.append(Text(f"earlier attempts: {'; '.join(map(printable, reversed(view.attempts)))}", "dim"))
    left = max(0, height - len(top))
    nodes = len(view.nodes)
    dense = -(-nodes // abreast(view.nodes, width))
    parts = share(left, len(view.logged), dense, nodes, len(view.happenings))
    lines = [*top, *_curves(view, width, parts.curves, glyphs)]
    if parts.heat:
        lines += [_heat_title(view, width, glyphs), *heat(view.nodes, width, parts.heat - 1, glyphs)]
    if parts.happenings:
        shown = _newest(view.happenings, parts.happenings - 1)
        lines += [_title("events and warnings", width, glyphs), *(_happening(one, view.now) for one in shown)]
    return lines[:height]


def _flow(words: Sequence[str], width: int, most: int, glyphs: Glyphs) -> list[Text]:
    """Facts on at most so many lines, none of them torn apart while there is another line."""
    between, lines = f" {glyphs.dot} ", list[str]()
    for word in map(printable, words):
        if lines and (len(lines) == most or cell_len(lines[-1] + between + word) <= width):
            lines[-1] += between + word
        else:
            lines.append(word)
    return [Text(line) for line in lines]


def _head(view: View, width: int) -> Text:
    found = view.status
    text = Text(printable(found.name), style="bold")
    state = f"{found.state}: {found.why}" if found.why else found.state
    text.append("  ").append(printable(state), style=f"bold {STYLES.get(found.state, '')}".strip())
    text.append(f"  attempt {found.attempt}" if found.attempt else "", style="not bold")
    if found.job:
        nodes = f" on {found.slurm['nodes']}" if found.slurm and found.slurm["nodes"] else ""
        text.append(printable(f"  job {found.job}{nodes}"), style="not bold")
    clock = local("%H:%M:%S", view.now)
    space = width - text.cell_len - len(clock)
    return text.append(" " * space + clock, style="not bold dim") if space >= 2 else text


def _bar(view: View, width: int, glyphs: Glyphs) -> Text:
    step, steps = view.status.step or 0, view.status.steps
    done = min(1.0, step / steps) if steps else 0.0
    words = f" {100 * done:.0f} %" if steps else ""
    room = max(0, width - len(words))
    filled = int(room * done)
    return Text.assemble((glyphs.filled * filled, "green"), (glyphs.left * (room - filled), "dim"), words)


def _facts(view: View) -> list[str]:
    found, facts = view.status, list[str]()
    if found.step is not None:
        facts.append(f"step {found.step:,} of {found.steps:,}" if found.steps else f"step {found.step:,}")
    if found.eta_seconds is not None:
        form = "%a %H:%M" if found.eta_seconds < 6 * 86400 else "%Y-%m-%d"
        at = local(form, view.now + found.eta_seconds)
        facts.append(f"{span(found.eta_seconds)} left{at and f', done about {at}'}")
    if found.state == "waiting" and found.slurm and found.slurm["start"]:
        facts.append(f"expected to start {local('%Y-%m-%d %H:%M', found.slurm['start'])}")
    if found.time_left_seconds is not None:
        facts.append(f"the job ends in {span(found.time_left_seconds)}")
    if found.checkpoint is not None:
        age = span(max(view.now - found.checkpoint.time, 0))
        facts.append(f"saved step {found.checkpoint.step:,}, {age} ago")
    facts += [view.ranks] if view.ranks else []
    if not facts:
        waits = {"prepared": "nothing has started it", "waiting": "it has not begun"}
        facts.append(waits.get(found.state, "no step yet"))
    return facts


def _numbers(view: View) -> list[str]:
    if not view.logged:
        return []
    row = view.logged[-1]
    parts = [
        ("epoch", row.get("epoch"), "{:.2f}"), ("learning rate", row.get("learning_rate"), "{:.2e}"),
        ("gradient norm", row.get("grad_norm"), "{:.3g}"),
    ]  # fmt: skip
    words = [f"{name} {form.format(value)}" for name, value, form in parts if isinstance(value, int | float)]
    words += [plural(int(row["skipped_steps"]), "skipped step")] if row.get("skipped_steps") else []
    words += [f"MFU {100 * row['mfu']:.1f} %"] if row.get("mfu") else []
    words += [_seconds(row)] if row.get("step_seconds") else []
    memory = row.get("gpu_memory_peak_bytes") or row.get("process_memory_bytes")
    words += [f"peak {amount(int(memory))}"] if memory else []
    return words


def _seconds(row: Row) -> str:
    """What a step takes, and the parts of it that are known."""
    whole = float(row["step_seconds"])
    names = (("data", "data_seconds"), ("compute", "compute_seconds"), ("optimizer", "optimizer_seconds"),
             ("communication", "communication_seconds"))  # fmt: skip
    parts = [f"{name} {100 * row[key] / whole:.0f} %" for name, key in names if isinstance(row.get(key), int | float)]
    return f"{whole:.3g} s a step" + (f" ({', '.join(parts)})" if parts else "")


def _curves(view: View, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Loss and throughput: beside each other where there is room, on one line each where there is little."""
    if height < 1:
        return []
    losses = [row.get("loss") for row in view.logged]
    rates = [row.get("tokens_per_second") for row in view.logged]
    if height < 3 or width < ABREAST:
        rows = [
            _spark("loss", losses, ".3f", width, glyphs, False),
            _spark("tokens/s", rates, ",.0f", width, glyphs, True),
        ]
        return rows[:height]
    wide = (width - 2) // 2
    left = _curve(_loss_title(view), losses, ".3f", wide, height, glyphs, False)
    rate = number(rates[-1], ",.0f") if rates else "-"
    right = _curve(f"tokens/s {rate}", rates, ",.0f", width - wide - 2, height, glyphs, True)
    return [Text.assemble(fitted(one, wide, glyphs), "  ", other) for one, other in zip(left, right, strict=True)]


def _loss_title(view: View) -> str:
    loss = f"loss {number(view.logged[-1].get('loss'), '.3f') if view.logged else '-'}"
    found = [row for row in view.evaluations if isinstance(row.get("eval_loss"), int | float)]
    if not found:
        return loss
    best = min(found, key=lambda row: row["eval_loss"])
    which = "(best)" if best is found[-1] else f"best {best['eval_loss']:.3f} at {best['step']}"
    return f"{loss} eval {found[-1]['eval_loss']:.3f} {which}"


def _curve(
    title: str, values: Sequence[float | None], form: str, width: int, height: int, glyphs: Glyphs, zero: bool
) -> list[Text]:
    shown = columns(values, max(1, width - AXIS - 1))
    drawn, between = curve(shown, len(shown), height - 1, glyphs, zero), limits(shown, zero)
    marks = [""] * (height - 1)
    if between is not None:
        marks[0], marks[-1] = number(between[1], form), number(between[0], form) if height > 2 else ""
    rows = [
        Text.assemble((mark.rjust(AXIS), "dim"), " ", (line, "cyan")) for mark, line in zip(marks, drawn, strict=True)
    ]
    return [Text(title, style="bold"), *rows]


def _spark(name: str, values: Sequence[float | None], form: str, width: int, glyphs: Glyphs, zero: bool) -> Text:
    value = number(values[-1], form) if values else "-"
    line = curve(values, max(1, width - 20), 1, glyphs, zero)[0]
    return Text.assemble((name.ljust(9), "bold"), value.rjust(10), " ", (line, "cyan"))


def _title(name: str, width: int, glyphs: Glyphs) -> Text:
    return Text(f"{glyphs.line * 2} {name} ".ljust(width, glyphs.line), style="dim")


def _heat_title(view: View, width: int, glyphs: Glyphs) -> Text:
    age = view.now - max((node.time for node in view.nodes), default=view.now)
    old = f", {span(age)} ago" if age > STALE_SECONDS else ""
    if not any(node.gpus for node in view.nodes):
        return _title(f"hosts without a GPU{old}", width, glyphs)
    return _title(f"GPUs: utilisation, memory{old}  {legend(glyphs)}", width, glyphs)


def _newest(found: Sequence[Happening], most: int) -> list[Happening]:
    """The last ones, and the last warning even where what is newer would leave it out: every save is an event."""
    shown = list(found[-most:])
    warning = next((one for one in reversed(found) if one.worry), None)
    if warning is not None and most > 1 and not any(one.worry for one in shown):
        shown[0] = warning
    return shown


def _happening(one: Happening, now: float) -> Text:
    form = "%H:%M:%S" if one.time is None or now - one.time < 43200 else "%m-%d %H:%M"
    at = (local(form, one.time) if one.time is not None else "") or " " * 8
    return Text.assemble(
        (at, "dim"), " ! " if one.worry else "   ", (printable(one.text), "yellow" if one.worry else "")
    )


def fitted(text: Text, width: int, glyphs: Glyphs) -> Text:
    """The text in exactly `width` cells, on one line."""
    line = text.copy()
    line.plain = line.plain.encode("ascii", "replace").decode() if glyphs.ascii else line.plain
    line.truncate(width, overflow="crop" if glyphs.ascii else "ellipsis", pad=True)
    line.no_wrap, line.end = True, ""
    return line
