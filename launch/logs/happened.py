"""Rows of events.jsonl and metrics.jsonl as people read them: a line each. Pure.

A row of another version may lack a key or have more: what is there is told.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from launch.wording import amount, plural, printable, span

Row = dict[str, Any]


def told(row: Row) -> list[str]:
    """The lines of an event; none for one that says nothing to people, or that nobody here knows."""
    tell = _LINES.get(str(row.get("event")))
    try:
        return [printable(line) for line in tell(row)] if tell else []
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):  # written by another version
        return [printable(f"{row.get('event')}: {row.get('reason') or row.get('message') or ''}".rstrip(": "))]


def logged(row: Row, total: int | None) -> str | None:
    """The line of a logged step or of an evaluation; None for a row that is neither."""
    step = row.get("step")
    if "eval_loss" in row:
        scores = [f"{name.removeprefix('eval_')} {number(row[name], '.4f')}" for name in row if _is_score(name)]
        return printable("  ".join([f"step {step}: eval_loss {number(row['eval_loss'], '.4f')}", *scores]))
    if "loss" not in row:
        return None
    return f"step {step}/{'?' if total is None else total}: {numbers(row)}"


def in_order(found: Iterable[tuple[Row, str]]) -> list[str]:
    """Lines of several files by the time of their rows; a row without one comes last."""
    return [line for _, line in sorted(found, key=lambda pair: pair[0].get("time", math.inf))]


def numbers(row: Row) -> str:
    """What a logged step's bar says."""
    return f"loss {number(row.get('loss'), '.3f')}  {number(row.get('tokens_per_second'), ',.0f')} tokens/s"


def number(value: Any, form: str) -> str:
    """A number as its format has it; a dash for one that is missing, is none, or is too large for one."""
    try:
        return format(value, form) if isinstance(value, int | float) and not isinstance(value, bool) else "-"
    except OverflowError:
        return "-"


def _is_score(name: str) -> bool:
    return name.startswith("eval_") and name != "eval_loss"


def data_line(name: str, data: Row, left_out: str = "tokens/*/quarantine.jsonl") -> str:
    """What became of rows, nothing left out; those that were stand in `left_out`."""
    done = [f"{count:,} {what}" for what, count in data["counts"].items()]
    if data["quarantined_rows"]:
        done.append(f"{plural(data['quarantined_rows'], 'row')} left out (see {left_out})")
    use = "trained on" if name == "data" else "judged"
    tokens = f"{data['tokens']:,} tokens, {data['trainable_tokens']:,} of them {use}"
    return "; ".join([f"{name}: {plural(data['rows'], 'row')}, {tokens}", *done])


def _started(row: Row) -> list[str]:
    lines = [data_line("data", row["data"])]
    return [*lines, data_line("evaluation", row["evaluation_data"])] if "evaluation_data" in row else lines


def _forecast_off(row: Row) -> list[str]:
    took, expected = (amount(row[key]) for key in ("measured_bytes", "forecast_bytes"))
    return [f"warning: the largest batch took {took}, the forecast for it was {expected}"]


def _warning(row: Row) -> list[str]:
    at = f"step {row['step']}: " if row.get("step") is not None else ""
    advice = f"; {row['advice']}" if row.get("advice") else ""
    return [f"{at}warning: {row.get('message') or row['kind']}{advice}"]


def _skipped(row: Row) -> list[str]:
    names = (("loss", "loss"), ("grad_norm", "gradient norm"), ("threshold", "threshold"))
    found = [f"{name} {number(row[key], '.4g')}" for key, name in names if row.get(key) is not None]
    numbers = f" ({', '.join(found)})" if found else ""
    return [f"step {row['step']}: update left out: {row['reason']}{numbers}"]


def _rolled_back(row: Row) -> list[str]:
    out = row.get("left_out") or []
    left = f"; the samples of {plural(len(out), 'step')} are left out" if out else ""
    return [f"step {row['step']}: back to step {row['to_step']}: {row['reason']}{left}"]


def _lowered(row: Row) -> list[str]:
    warmup = f", reached over {plural(row['warmup_steps'], 'step')}" if row.get("warmup_steps") else ""
    return [f"step {row['step']}: learning rate lowered to {number(row['learning_rate'], '.3g')}{warmup}"]


def _saved(row: Row) -> list[str]:
    return [f"step {row['step']}: saved a checkpoint of {amount(row['bytes'])} in {row['seconds']:.1f} s"]


def _rehearsed(row: Row) -> list[str]:
    peak = row.get("peak_bytes") or row.get("process_bytes")
    return [f"rehearsed the largest batch{f': {amount(peak)}' if peak else ''}"]


def _grace_short(row: Row) -> list[str]:
    needed, grace = row["needed_seconds"], row["grace_seconds"]
    return [f"warning: the job's last {grace:g} s are not enough to save, {needed:g} s are: {row['fix']}"]


def _finished(row: Row) -> list[str]:
    return [f"finished at step {row['step']} after {span(row['seconds'])}, {row['tokens']:,} tokens"]


def _failed(row: Row) -> list[str]:
    return [f"failed: {str(row.get('message') or row.get('class')).partition(chr(10))[0]}"]


_LINES: dict[str, Callable[[Row], list[str]]] = {
    "submitted": lambda row: [f"submitted as job {row['job']}"],
    "started": _started,
    "resumed": lambda row: [f"resumed from {row['checkpoint']}"],
    "checkpoint_refused": lambda row: [f"refused {row['reason']}; {row['instead']}"],
    "rehearsed": _rehearsed,
    "forecast_off": _forecast_off,
    "saved": _saved,
    "best_loaded": lambda row: [f"loaded the best checkpoint, {row['checkpoint']}"],
    "warning": _warning,
    "skipped": _skipped,
    "rolled_back": _rolled_back,
    "learning_rate_lowered": _lowered,
    "oom": lambda row: [row["reason"]],
    "restarted": lambda row: [f"restarted: {row['reason'].partition(chr(10))[0]}"],
    "node_excluded": lambda row: [f"left out: node {row['node']}: {row['reason']}"],
    "requeued": lambda row: [f"queued again: {row['reason']}"],
    "supervisor_killed": lambda row: [row["reason"]],
    "grace_short": _grace_short,
    "stopped": lambda row: [f"stopped as asked at step {row['step']}"],
    "finished": _finished,
    "failed": _failed,
}

# Those that are somebody's worry.
WORRIES = frozenset({
    "checkpoint_refused", "forecast_off", "warning", "skipped", "rolled_back", "learning_rate_lowered", "oom",
    "restarted", "supervisor_killed", "node_excluded", "grace_short", "failed",
})  # fmt: skip

# What whoever supervises a run does not say by itself.
OF_WORKERS = frozenset({
    "started", "resumed", "checkpoint_refused", "forecast_off", "warning", "skipped", "rolled_back",
    "learning_rate_lowered",
})  # fmt: skip
