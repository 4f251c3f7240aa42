"""Answers to a few held-out questions at each evaluation of a run, in answers.jsonl."""

from dataclasses import replace
from typing import Any

from torch.distributed.fsdp import FSDPModule

from launch.errors import UsageError
from launch.evaluation import DECLINES, chosen
from launch.plan import Plan
from launch.spec import SHARDS_BASE
from training.data.encoding.template import ChatFiles
from training.data.sequences.tokens import Sequences
from training.evaluation.answers import Answering, answers, ends
from training.evaluation.questions import Question, questions
from training.ranks.control import Control

# Tokens that a rehearsal makes: one behind the questions, and one behind that.
LAST = 2


def questions_to_ask(plan: Plan, files: ChatFiles, evaluation: Sequences | None) -> list[Question]:
    """Those that training.eval_samples asks for, spread evenly over data.eval.

    Raises UsageError when its rows have no question to answer.
    """
    count, source = plan.spec.training.eval_samples, plan.spec.data.eval
    if count is None or source is None or evaluation is None:
        return []
    every = list(questions(plan.spec.data, source, files, evaluation))
    if not every:
        raise UsageError(f"training.eval_samples: no row of {source} asks anything; remove it")
    return [every[place] for place in chosen(len(every), count)]


def ask(model: Any, asked: list[Question], plan: Plan, ranks: Control, tokenizer: Any) -> list[dict[str, Any]]:
    """Rows of answers.jsonl without their step, on every rank. All ranks call this, in a model that is evaluating."""
    mine = share(len(asked), ranks.rank, ranks.world_size)
    how = _ready(model, asked, plan, tokenizer)
    found = {}
    for answer in answers(model, [asked[place].prompt for place in mine], how, plan.micro_batch_size):
        ranks.pulse.mark("evaluating")
        question = asked[mine[answer.place]]
        found[mine[answer.place]] = {
            "id": question.name, "question": question.sample.asked, "reference": question.sample.answer,
            **question.judged(answer, tokenizer, DECLINES),
        }  # fmt: skip
    everything = {place: row for some in ranks.collect(found) for place, row in some.items()}
    return [everything[place] for place in sorted(everything)]


def ask_longest(model: Any, asked: list[Question], plan: Plan, tokenizer: Any) -> int:
    """The most that answering will ever hold at once, in two tokens: the longest questions, each filled up as if it had
    its longest answer already. Tokens of the longest one. All ranks call this.

    Raises GpuMemoryError when not even one fits.
    """
    how = _ready(model, asked, plan, tokenizer)
    longest = sorted((question.prompt for question in asked), key=len)[-plan.setting.answered_at_once :]
    sizes = [len(prompt) + how.room(len(prompt)) for prompt in longest]
    filled = [(prompt * size)[: max(1, size - LAST)] for prompt, size in zip(longest, sizes, strict=True)]
    for _ in answers(model, filled, replace(how, max_new_tokens=LAST), len(filled)):
        pass
    return max(sizes)


def _ready(model: Any, asked: list[Question], plan: Plan, tokenizer: Any) -> Answering:
    """How this run answers, and a model that can."""
    if isinstance(model, FSDPModule):
        model.unshard()  # answers are made inside the outermost module, whose own call would do it
    return Answering(
        plan.spec.training.eval_max_new_tokens, plan.architecture.max_positions, tokenizer.pad_token_id,
        ends(model, (question.end for question in asked)),
        in_step=plan.strategy in SHARDS_BASE and plan.world_size > 1,
    )  # fmt: skip


def share(count: int, rank: int, world_size: int) -> list[int]:
    """The questions of one rank. One without a question of its own repeats another's: all ranks have as many, for
    engines that gather weights want them in step."""
    each = -(-count // world_size)
    return [place % count for place in range(rank, each * world_size, world_size)]
