"""The numbers that a run is judged by: the page's first, those of `--json`, and what runs are compared by. Pure."""

from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from launch.report.reading import OF_BEST, Points, Reading
from launch.report.values import BYTES, PERCENT, PLAIN, SECONDS, SHARE, TOKENS, Unit, off, shown
from launch.rundir.journal import drawable
from launch.wording import plural, span

Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Kind:
    key: str
    name: str
    unit: Unit = PLAIN
    better: Literal["low", "high", ""] = ""


KINDS = (
    Kind("eval_loss", "Evaluation loss", better="low"), Kind("eval_loss_base", "Evaluation loss of the base"),
    Kind("eval_loss_best", "Lowest evaluation loss", better="low"), Kind("loss", "Training loss"),
    Kind("step", "Step"), Kind("steps", "Steps planned"), Kind("epoch", "Epochs"), Kind("tokens", "Tokens trained"),
    Kind("tokens_per_second", "Throughput", TOKENS, "high"), Kind("step_seconds", "Time of a step", SECONDS, "low"),
    Kind("mfu", "Model FLOPs utilisation", SHARE, "high"), Kind("seconds", "Trained for", SECONDS),
    Kind("attempts", "Attempts"), Kind("memory_peak_bytes", "Peak memory", BYTES, "low"),
    Kind("gpu_utilization", "GPU utilisation", PERCENT, "high"), Kind("skipped_steps", "Steps left out"),
    Kind("answer_f1_base", "Answer F1 of the base"), Kind("answer_f1", "Answer F1", better="high"),
)  # fmt: skip


def numbers(reading: Reading) -> Numbers:
    """Each of KINDS; None where it was not measured.

    eval_loss is the last one, after early stopping that of the adapter which was kept; throughput, step time and MFU
    are medians of the logged rows, GPU utilisation the mean of all samples of all GPUs.
    """
    curves = reading.curves
    evaluated, best = curves.get("eval_loss"), curves.get("eval_loss" + OF_BEST)
    base = evaluated.values[0] if evaluated and evaluated.steps[0] == 0 else None
    own = [value for value, step in zip(evaluated.values, evaluated.steps, strict=True) if step] if evaluated else []
    busy = [value for gpu in reading.gpus.values() for value in gpu.get("utilization", Points()).values]
    scores, peak = reading.scores, _last(curves.get("gpu_memory_peak_bytes"))
    if peak is None and "process_memory_bytes" in curves:
        peak = max(curves["process_memory_bytes"].values)
    return {
        "eval_loss": _last(best) if best else own[-1] if own else None, "eval_loss_base": base,
        "eval_loss_best": min(own, default=None), "loss": _last(curves.get("loss")), "step": reading.status.step,
        "steps": reading.status.steps, "epoch": _last(curves.get("epoch")), "tokens": _last(curves.get("tokens")),
        "tokens_per_second": _median(curves.get("tokens_per_second")),
        "step_seconds": _median(curves.get("step_seconds")), "mfu": _median(curves.get("mfu")),
        "seconds": round(sum(one.end - one.start for one in reading.begun), 1) if reading.begun else None,
        "attempts": len(reading.diagnosis.tried), "memory_peak_bytes": peak,
        "gpu_utilization": round(fmean(busy), 1) if busy else None,
        "skipped_steps": _last(curves.get("skipped_steps")), "answer_f1_base": _score(scores, "base"),
        "answer_f1": _score(scores, "adapter"),
    }  # fmt: skip


@dataclass(frozen=True)
class Told:
    """A number for a reader."""

    name: str
    value: str
    note: str = ""


def told(reading: Reading, found: Numbers) -> list[Told]:
    """The few that a reader wants first, each beside what it is to be compared with."""
    plan, of = reading.plan, {kind.key: kind for kind in KINDS}
    rate = plan.throughput.tokens_per_second if plan and plan.throughput else None
    notes = {
        "eval_loss": _against_base(found["eval_loss"], found["eval_loss_base"]),
        "answer_f1": f"base {shown(found['answer_f1_base'])}" if found["answer_f1_base"] is not None else "",
        "loss": _first(reading), "step": f"of {found['steps']:,.0f}" if found["steps"] else "",
        "tokens": f"{shown(found['epoch'])} {'epoch' if found['epoch'] == 1 else 'epochs'}" if found["epoch"] else "",
        "tokens_per_second": f"forecast {shown(rate, TOKENS)}, {_over(rate, found['tokens_per_second'])}"
        if rate and found["tokens_per_second"] else "median",
        "mfu": "median", "seconds": plural(int(found["attempts"] or 0), "attempt"),
        "memory_peak_bytes": _memory(reading), "gpu_utilization": "mean of all GPUs",
    }  # fmt: skip
    parts = []
    for key, note in {**notes, "skipped_steps": "by the stability guard"}.items():
        value, kind = found[key], of[key]
        if value is None or (key == "skipped_steps" and not value):
            continue
        text = span(value) if key == "seconds" else shown(value, kind.unit)
        parts.append(Told(kind.name, text, note))
    return parts


def _against_base(own: float | None, base: float | None) -> str:
    if own is None or not base:
        return ""
    return f"base {shown(base)}, {100 * (own / base - 1):+.1f} %"


def _over(planned: float, measured: float | None) -> str:
    return f"off by {off(planned, measured)}" if measured else ""


def _first(reading: Reading) -> str:
    losses = reading.curves.get("loss")
    return f"first {shown(losses.values[0])}" if losses and len(losses.values) > 1 else ""


def _memory(reading: Reading) -> str:
    plan = reading.plan
    if plan is None or plan.topology.device == "cpu":
        return "of the process"
    return f"forecast {shown(plan.memory.peak_bytes, BYTES)} of {shown(plan.topology.memory_bytes, BYTES)}"


def _score(scores: object, model: str) -> float | None:
    own = scores.get(model) if isinstance(scores, dict) else None
    value = own.get("answer_f1") if isinstance(own, dict) else None
    return float(value) if value is not None and drawable(value) else None


def _last(points: Points | None) -> float | None:
    return points.values[-1] if points else None


def _median(points: Points | None) -> float | None:
    return median(points.values) if points else None
