"""What an evaluation is asked for, and the numbers that come of what its processes found. Pure."""

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from launch.errors import NoPlanError, UsageError
from launch.machine.hardware import Topology
from launch.memory import Setting, inference_bytes
from launch.model.architecture import Architecture
from launch.plan.kernels import answering_attention
from launch.spec import SAFE_SHARE, DataSpec, ModelSpec, Precision
from launch.wording import amount

Model = Literal["base", "adapter"]
MODELS: tuple[Model, ...] = ("base", "adapter")
# The rows of an evaluation's table: the report's key, what it is called, and how its value reads.
MEASURES = (
    ("loss", "held-out loss", "{:.4f}"), ("perplexity", "perplexity", "{:.2f}"), ("answer_f1", "answer F1", "{:.3f}"),
    ("rouge_l", "ROUGE-L", "{:.3f}"), ("citation_precision", "citation precision", "{:.1%}"),
    ("citation_recall", "citation recall", "{:.1%}"), ("invented_citations", "citations of no document", "{}"),
    ("unanswerable_declined", "unanswerable: declined", "{:.1%}"),
    ("answerable_declined", "answerable: declined", "{:.1%}"), ("cut_off", "answers cut off", "{}"),
)  # fmt: skip
LARGEST_EXPONENT = math.log(sys.float_info.max)

# How an answer's first sentence says that the documents do not hold it. Which of the references it takes for one is
# part of the report: they tell whether it understands these answers.
DECLINES = (
    r"\b(documents?|sources?|passages?|contexts?|excerpts?|texts?|materials?|information)\b(\s(?!that\b|which\b)\w+){0,2}?\s"
    r"(\w+n['\u2019]t|(do|does|did|is|are|can|could) ?not|\w+ (no|none|nothing|neither))\b"
    r"|\b(cannot|can ?not|can['\u2019]t|could not|couldn['\u2019]t|unable to|not possible to)\s(be\s)?"
    r"(answer|determine|find|tell|say|establish)"
    r"|\bnot (\w+ly )?(answered|mentioned|stated|specified|covered|contained|provided|given|found|described) (in|by)\b"
    r"|\b(no|not enough|insufficient) information\b|\bi (do not|don['\u2019]t) know\b"
    r"|(\u6587\u6863|\u6587\u4ef6|\u8d44\u6599|\u6750\u6599|\u4e0a\u4e0b\u6587).{0,8}(\u6ca1\u6709|\u672a|\u4e0d|\u65e0\u6cd5)"
    r"|\u65e0\u6cd5(\u56de\u7b54|\u786e\u5b9a|\u5f97\u77e5)|\u4e0d\u77e5\u9053"
)


class Job(BaseModel):
    """One evaluation, resolved: what each of its processes reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    adapter: str
    """The directory of PEFT's two files."""
    step: int | None
    """Of a checkpoint, its optimizer step."""
    model: ModelSpec
    data: DataSpec
    split: Literal["train", "eval"]
    """Which of its rows are judged: `train` where nobody knows what was trained on."""
    tokens: str
    """Where rows are tokenised, or have been."""
    own_tokens: bool
    """Whether these are the run's own, of what it trained on too."""
    max_positions: int
    precision: Precision
    attention: str
    topology: Topology
    processes: int
    """One on each device, or a single one with the model laid over all of them."""
    loss_batch_size: int
    answer_batch_size: int
    limit: int | None
    max_new_tokens: int
    declines: str
    unused: list[str]
    """Packages that other libraries import wherever they are installed, and that nothing here has a use for."""

    @property
    def source(self) -> str:
        """The rows that are judged."""
        return str(getattr(self.data, self.split))

    @property
    def spread(self) -> bool:
        return self.processes < self.topology.devices_per_node


def unused_packages(model: ModelSpec, adapter: Mapping[str, Any]) -> list[str]:
    """`adapter` is an adapter_config.json: for one that began as LoftQ's PEFT quantises, whatever the base is."""
    quantises = model.quantization != "none" or adapter.get("init_lora_weights") == "loftq"
    return ["deepspeed"] if quantises else ["deepspeed", "bitsandbytes"]


def precision_here(planned: Precision | None, topology: Topology) -> Precision:
    """What the model was trained in, where these devices have it; else the best that they have."""
    if topology.device == "cpu":
        return "fp32"
    if planned is None or (planned == "bf16" and not topology.bf16):
        return "bf16" if topology.bf16 else "fp16"
    return planned


def processes_for(
    architecture: Architecture, model: ModelSpec, precision: Precision, topology: Topology, length: int
) -> int:
    """How many processes evaluate: one on each device that holds the whole model, or one over all devices.

    `length` is the tokens of a sequence with its answer. Raises NoPlanError when not even all devices hold it.
    """
    setting = Setting(
        strategy="single", world_size=1, micro_batch_size=1, max_length=length, gradient_checkpointing=False,
        quantization=model.quantization, double_quantization=model.double_quantization,
        upcast_unquantized=model.upcast_unquantized, precision=precision, attention=answering_attention(model),
        gpu=topology.device == "gpu",
    )  # fmt: skip
    needed = inference_bytes(architecture, setting)
    room = int(SAFE_SHARE * topology.memory_bytes)
    if needed <= room:
        return topology.devices_per_node
    if topology.device == "gpu" and needed <= room * topology.devices_per_node:
        return 1
    advice = "" if model.quantization != "none" or topology.device == "cpu" else "; --quantization nf4 needs less"
    raise NoPlanError(
        f"the model needs {amount(needed)} to be evaluated, and {topology.devices_per_node} x {topology.device_name}"
        f" have {amount(topology.memory_bytes)} each{advice}"
    )


def decline_pattern(pattern: str) -> re.Pattern[str]:
    """Raises UsageError for a pattern that is no regular expression."""
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise UsageError(f"--declines {pattern}: is no regular expression: {error}") from None


def chosen(count: int, limit: int | None) -> list[int]:
    """Places of at most `limit` of `count` rows, spread evenly over them."""
    if limit is None or limit >= count:
        return list(range(count))
    return [place * count // limit for place in range(limit)]


def answered(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions in their order, each with what base and adapter answered."""
    rows = list(found)
    questions = {
        row["id"]: {key: row[key] for key in row if key != "kind"} for row in rows if row["kind"] == "question"
    }
    for row in rows:
        if row["kind"] == "answer":
            judged = {key: row[key] for key in row if key not in ("kind", "model", "id")}
            questions[row["id"]][row["model"]] = judged
    return list(questions.values())


def report(job: Job, found: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The numbers of base and adapter. One that nothing was found for is None."""
    questions = answered(found)
    data = next(row for row in found if row["kind"] == "data")["statistics"]
    unanswerable = sum(question["unanswerable"] for question in questions)
    return {
        "name": job.name, "adapter_path": job.adapter, "step": job.step, "base_model": job.model.variant,
        "quantization": job.model.quantization, "precision": job.precision, "data": job.source, **data,
        "questions": len(questions),
        "questions_with_documents": sum(bool(question["documents"]) for question in questions),
        "unanswerable": unanswerable, "max_new_tokens": job.max_new_tokens,
        "devices": job.topology.devices_per_node, "device_name": job.topology.device_name,
        "seconds": round(seconds, 1),
        **{model: _numbers(model, found, questions) for model in MODELS},
    }  # fmt: skip


def _numbers(model: Model, found: Sequence[dict[str, Any]], questions: list[dict[str, Any]]) -> dict[str, Any]:
    losses = [row for row in found if row["kind"] == "loss" and row["model"] == model]
    loss = _ratio(sum(row["sum"] for row in losses), sum(row["tokens"] for row in losses))
    answers = [(question, question[model]) for question in questions]
    retrieved = [(question, answer) for question, answer in answers if question["documents"]]
    known = [(set(question["oracles"]), answer) for question, answer in retrieved if question["oracles"] is not None]
    right = sum(len(oracles & set(answer["cited"])) for oracles, answer in known)
    cited = sum(len(answer["cited"]) + len(answer["invented"]) for _, answer in known)
    declined = {
        unanswerable: _ratio(sum(answer["declined"] for answer in some), len(some))
        for unanswerable in (True, False)
        for some in [[answer for question, answer in retrieved if question["unanswerable"] is unanswerable]]
    }
    return {
        "loss": loss,
        "perplexity": None if loss is None or loss > LARGEST_EXPONENT else math.exp(loss),
        "answer_f1": _ratio(sum(answer["f1"] for _, answer in answers), len(answers)),
        "rouge_l": _ratio(sum(answer["rouge_l"] for _, answer in answers), len(answers)),
        "citation_precision": _ratio(right, cited),
        "citation_recall": _ratio(right, sum(len(oracles) for oracles, _ in known)),
        "invented_citations": sum(len(answer["invented"]) for _, answer in retrieved) if retrieved else None,
        "unanswerable_declined": declined[True],
        "answerable_declined": declined[False],
        "cut_off": sum(not answer["complete"] for _, answer in answers) if answers else None,
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
