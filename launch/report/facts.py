"""What a report says in words and tables beside its curves. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from launch.evaluation import MEASURES, MODELS, chosen
from launch.report.numbers import Numbers
from launch.report.reading import Reading
from launch.report.values import BYTES, PLAIN, SECONDS, TOKENS, Unit, off, shown
from launch.rundir.journal import drawable
from launch.wording import span

Tone = Literal["good", "bad", "warn", "calm"]
TONES: Mapping[str, Tone] = {
    "finished": "good", "running": "good", "failed": "bad", "interrupted": "bad", "waiting": "warn",
}  # fmt: skip
# Texts of a page: more is in the files that it names.
MOST_EXAMPLES, MOST_TEXT = 8, 2000


@dataclass(frozen=True)
class Verdict:
    word: str
    tone: Tone
    sentence: str
    fix: str


@dataclass(frozen=True)
class Row:
    """What was planned beside what came."""

    name: str
    planned: str
    measured: str
    off: str = ""


def verdict(reading: Reading, found: Numbers) -> Verdict:
    """As `muster status` and `muster diagnose` have it."""
    state, diagnosis = reading.status, reading.diagnosis
    cause = diagnosis.cause
    tone = TONES.get(state.state, "calm")
    if state.state in ("failed", "interrupted") and cause is not None:
        return Verdict(state.state, tone, diagnosis.why, cause.fix)
    why = state.why or (diagnosis.why if state.state == "prepared" else "")
    parts = [why, _progress(found)] if state.state != "finished" else [_progress(found), _learnt(found)]
    if state.eta_seconds is not None:
        parts.append(f"done in about {span(state.eta_seconds)}")
    if state.slurm_silence:
        parts.append(f"told from the run directory alone: {state.slurm_silence}")
    return Verdict(state.state, tone, "; ".join(filter(None, parts)), "")


def _progress(found: Numbers) -> str:
    step, steps = found["step"], found["steps"]
    if step is None:
        return "no step has been trained"
    return f"step {step:,.0f} of {steps:,.0f}" if steps else f"step {step:,.0f}"


def _learnt(found: Numbers) -> str:
    own, base = found["eval_loss"], found["eval_loss_base"]
    if own is None or not base:
        return ""
    return f"evaluation loss {shown(base)} before, {shown(own)} after ({100 * (own / base - 1):+.1f} %)"


def against_plan(reading: Reading, found: Numbers) -> list[Row]:
    plan, seen = reading.plan, reading.event("verified")
    if plan is None:
        return []
    rows = _memory(reading, found)
    if plan.throughput is not None:
        rows += [
            _row("Throughput", plan.throughput.tokens_per_second, found["tokens_per_second"], TOKENS),
            _row("Time of a step", plan.throughput.step_seconds, found["step_seconds"], SECONDS),
        ]
    if plan.duration_seconds is not None and found["seconds"] is not None:
        rows.append(Row("Training", span(plan.duration_seconds), span(found["seconds"])))
    if found["steps"] is not None:
        rows.append(_row("Steps", found["steps"], found["step"], PLAIN, far=False))
    promised = {
        "Strategy": (plan.strategy, seen.get("engine")), "Processes": (plan.world_size, seen.get("world_size")),
        "Precision": (plan.precision, seen.get("precision")), "Attention": (plan.attention, seen.get("attention")),
        "Loss": (plan.loss, seen.get("loss")),
        "Norms": (plan.norms, seen.get("norms")),
        "LoRA layers": (plan.lora_implementation, seen.get("lora_implementation")),
        "Optimizer": (plan.optimizer, seen.get("optimizer")),
        "Global batch": (plan.global_batch_size, seen.get("global_batch_size")),
        "Trainable parameters": (f"{plan.adapter_parameters:,}", _thousands(seen.get("trainable_parameters"))),
    }  # fmt: skip
    return [
        *rows, *(Row(name, str(own), str(got) if got is not None else "") for name, (own, got) in promised.items())
    ]  # fmt: skip


def _memory(reading: Reading, found: Numbers) -> list[Row]:
    plan = reading.plan
    assert plan is not None
    rows = []
    if plan.measured is not None:
        one, size = plan.measured, plan.measured.compared
        rows.append(_row(f"Memory of the largest batch ({one.length:,} tokens)", one.forecast_bytes, size, BYTES))
    if plan.topology.device == "gpu":
        used = [max(gpu["memory_used_bytes"].values) for gpu in reading.gpus.values() if "memory_used_bytes" in gpu]
        rows += [
            _row("Memory allocated at the peak", plan.memory.peak_bytes, found["memory_peak_bytes"], BYTES),
            _row("Memory in use on the fullest GPU", plan.memory.process_bytes, max(used, default=None), BYTES),
        ]
    return rows


def _row(name: str, planned: float, measured: float | None, unit: Unit, far: bool = True) -> Row:
    told = shown(measured, unit) if measured is not None else ""
    return Row(name, shown(planned, unit), told, off(planned, measured) if far else "")


def _thousands(value: object) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


DATA = (
    ("rows", "Rows"), ("quarantined_rows", "Rows left out"), ("samples", "Samples"), ("sequences", "Sequences"),
    ("tokens", "Tokens"), ("trainable_tokens", "Tokens trained on"),
)  # fmt: skip


def data_rows(reading: Reading) -> tuple[list[str], list[list[str]]]:
    """(splits, rows): what the last attempt trained and evaluated on."""
    started = reading.event("started")
    splits = {
        name: started[key] for name, key in (("Training", "data"), ("Evaluation", "evaluation_data"))
        if isinstance(started.get(key), dict)
    }  # fmt: skip
    rows = [[name, *(_thousands(own.get(key)) or "" for own in splits.values())] for key, name in DATA]
    found = [own.get("counts") for own in splits.values()]
    counts = [own if isinstance(own, dict) else {} for own in found]
    for name in dict.fromkeys(name for own in counts for name in own):
        rows.append([name.replace("_", " "), *(_thousands(own.get(name)) or "0" for own in counts)])
    shares = [[_share(own.get("trainable_tokens"), own.get("tokens")), _share(own.get("tokens"), own.get("samples"), 1)]
              for own in splits.values()]  # fmt: skip
    names = ("Share trained on", "Tokens of a sample, mean")
    rows += [[name, *(own[place] for own in shares)] for place, name in enumerate(names)]
    return list(splits), rows if splits else []


def _share(part: Any, whole: Any, per: int = 0) -> str:
    if not drawable(part) or not drawable(whole) or not whole:
        return ""
    return f"{part / whole:,.1f}" if per else f"{100 * part / whole:.1f} %"


def score_rows(reading: Reading) -> list[list[str]]:
    """Base and adapter, a measure a row; empty without an evaluation."""
    found = [reading.scores.get(model) for model in MODELS]
    rows = []
    for key, name, form in MEASURES:
        values = [own.get(key) if isinstance(own, dict) else None for own in found]
        told = [form.format(value) if drawable(value) else "-" for value in values]
        rows.append([name, *told])
    return rows if any(isinstance(own, dict) for own in found) else []


def examples(reading: Reading) -> list[dict[str, str | None]]:
    """Some of the answers, spread evenly over them, the end of a long text cut."""
    some = [reading.examples[place] for place in chosen(len(reading.examples), MOST_EXAMPLES)]
    return [{key: None if text is None else _cut(text) for key, text in row.items()} for row in some]


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} ... ({len(text):,} characters)"


# Checks whose evidence says what a run ran on.
TOLD = ("packages", "driver", "torch-build", "nccl")
PRINTS = (("base", "fingerprint of the base"), ("data", "fingerprint of the data"))


def again(reading: Reading) -> list[list[str]]:
    """What another run needs to be the same one, beside its plan: packages, driver, nodes, weights and data."""
    checks = reading.checks.get("checks")
    found = [check for check in (checks if isinstance(checks, list) else []) if isinstance(check, dict)]
    told = {str(check.get("name")): check.get("evidence") for check in found if check.get("status") != "skipped"}
    values = {name: told.get(name) for name in TOLD}
    values["nodes"] = ", ".join(sorted({node for node, _ in reading.gpus}))
    values |= {name: reading.progress.get(key) for key, name in PRINTS}
    values["checks before it"] = reading.checks.get("verdict")
    return [[name, str(value)] for name, value in values.items() if value]
