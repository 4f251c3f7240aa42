"""Answers to a few held-out questions while training, in answers.jsonl."""

from typing import Any

from torch.distributed.fsdp import FSDPModule

from launch.errors import UsageError
from launch.evaluation import DECLINES, chosen
from launch.plan import Plan
from launch.spec import SHARDS_BASE
from training.control import Control
from training.data.template import ChatFiles
from training.data.tokens import Sequences
from training.evaluation.answers import Answering, answers
from training.evaluation.questions import Question, questions
from training.evaluation.scores import judged


def sampled(plan: Plan, files: ChatFiles, evaluation: Sequences | None) -> list[Question]:
    """The questions that training.eval_samples asks for, spread evenly over data.eval.

    Raises UsageError when its rows have no question to answer.
    """
    count, source = plan.spec.training.eval_samples, plan.spec.data.eval
    if count is None or source is None or evaluation is None:
        return []
    every = list(questions(plan.spec.data, source, files, evaluation.every_name()))
    if not every:
        raise UsageError(f"training.eval_samples: no row of {source} asks anything; remove it")
    return [every[place] for place in chosen(len(every), count)]


def answered(model: Any, asked: list[Question], plan: Plan, ranks: Control, tokenizer: Any) -> list[dict[str, Any]]:
    """Rows of answers.jsonl without their step, on every rank. All ranks call this, in a model that is evaluating."""
    shards = plan.strategy in SHARDS_BASE
    # A rank without a question of its own repeats one: engines that gather weights want every rank in step.
    mine = [
        place % len(asked)
        for place in range(ranks.rank, -(-len(asked) // ranks.world_size) * ranks.world_size, ranks.world_size)
    ]
    how = Answering(
        plan.spec.training.eval_max_new_tokens, plan.architecture.max_positions, tokenizer.pad_token_id,
        frozenset(question.end for question in asked), in_step=shards and ranks.world_size > 1,
    )  # fmt: skip
    if isinstance(model, FSDPModule):
        model.unshard()  # answers are made inside the outermost module, whose own call would do it
    found = {}
    for answer in answers(model, [asked[place].prompt for place in mine], how, plan.micro_batch_size):
        place = mine[answer.place]
        question, text = asked[place], tokenizer.decode(answer.tokens).strip()
        found[place] = {
            "id": question.sample.id, "question": question.sample.asked, "reference": question.sample.answer,
            "answer": text, **judged(text, question.sample.answer, question.documents, DECLINES),
            "tokens": len(answer.tokens), "complete": answer.complete,
        }  # fmt: skip
    everything = {place: row for some in ranks.collect(found) for place, row in some.items()}
    return [everything[place] for place in sorted(everything)]
