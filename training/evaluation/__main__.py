"""One process of `muster evaluate`: python -m training.evaluation DIRECTORY RANK.

Reads the job from the directory, evaluates its share of the rows on its device, first with the base, then with the
adapter on it, and writes what it finds beside the job. Processes have nothing to say to one another.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from launch.diagnose import failure
from launch.discover import cpu_count
from launch.errors import MusterError
from launch.evaluation import Job, Model, chosen
from launch.journal import append, write_json
from launch.rundir import MANIFEST, Evaluation
from training.checkpoint import check_directory
from training.data.collate import Collator
from training.data.template import ChatFiles, load_tokenizer
from training.data.tokens import Sequences, prepare
from training.evaluation.answers import Answering, answers
from training.evaluation.batches import in_batches
from training.evaluation.loss import summed_loss
from training.evaluation.questions import Question, questions
from training.evaluation.scores import judged
from training.model import DTYPES, load_base, loadable
from training.soundness import evaluating

Row = dict[str, Any]


def main() -> int:
    place, rank = Evaluation(Path(sys.argv[1])), int(sys.argv[2])
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says that a kernel for inference is not installed
    try:
        job = Job.model_validate_json(place.job.read_text(encoding="utf-8"))
        for row in evaluated(job, place, rank):
            append(place.found(rank), row)
    except BaseException as error:  # noqa: BLE001 - whatever ends a process has to be reported
        if not isinstance(error, MusterError):
            traceback.print_exc()
        told = failure(rank, error)
        write_json(place.failure(rank), told)
        return int(told["exit_code"])
    return 0


def evaluated(job: Job, place: Evaluation, rank: int) -> Iterator[Row]:
    """Rows for launch.evaluation.report. Rank 0 also says what the data and the questions are."""
    first, device = rank == 0, _device(job, rank)
    adapter = Path(job.adapter)
    if first and (adapter / MANIFEST).is_file():
        check_directory(adapter)
    tokenizer = load_tokenizer(job.model.variant)
    files = ChatFiles.of(tokenizer)
    rows = prepare(job.data, files, place.tokens, writer=first).train
    asked = _questions(job, files, rows)
    if first:
        yield {
            "kind": "data", "rows": rows.statistics.rows, "tokens": rows.statistics.trainable_tokens,
            "sequences": len(rows), "questions": len(asked),
        }  # fmt: skip
        yield from ({"kind": "question", **question.row(job.declines)} for question in asked)
    loadable(job.model.variant)
    base = load_base(job.model, job.precision, job.attention, "auto" if job.spread else {"": device})
    ends = _ends(base, asked)
    how = Answering(job.max_new_tokens, job.max_positions, tokenizer.pad_token_id, ends)
    sequences, mine = range(len(rows))[rank :: job.processes], asked[rank :: job.processes]
    collator = Collator(tokenizer.pad_token_id, job.data.packing)
    yield from _measured("base", base, job, rows, sequences, collator)
    yield from _answered("base", base, job, mine, how, tokenizer)
    # The base comes first, and by itself: an adapter that trains biases cannot be taken off again.
    adapted = PeftModel.from_pretrained(base, adapter)
    yield from _measured("adapter", adapted, job, rows, sequences, collator)
    yield from _answered("adapter", adapted, job, mine, how, tokenizer)


def _device(job: Job, rank: int) -> str:
    if job.topology.device == "cpu":
        torch.set_num_threads(max(1, cpu_count() // job.processes))
        return "cpu"
    torch.cuda.set_device(rank)
    return f"cuda:{rank}"


def _questions(job: Job, files: ChatFiles, rows: Sequences) -> list[Question]:
    if job.limit == 0:
        return []
    every = list(questions(job.data, job.data.train, files, rows.every_name()))
    return [every[place] for place in chosen(len(every), job.limit)]


def _ends(base: Any, asked: list[Question]) -> frozenset[int]:
    """What ends an answer in training, and what the model's own settings end with."""
    own = base.generation_config.eos_token_id
    return frozenset({question.end for question in asked} | set(own if isinstance(own, list) else [own] if own else []))


def _measured(model: Model, loaded: Any, job: Job, rows: Sequences, mine: range, collator: Collator) -> Iterator[Row]:
    """This process's share of the loss."""

    def loss(batch: list[int]) -> tuple[float, int]:
        inputs = collator([rows[index] for index in batch])
        inputs.pop("indices")
        return summed_loss(loaded, {name: tensor.to(loaded.device) for name, tensor in inputs.items()})

    total, tokens = 0.0, 0
    loaded.config.use_cache = False  # with a cache transformers does not look for packed rows, and they see one another
    with evaluating(loaded), _cast(job):
        for _, (summed, counted) in in_batches(mine, job.loss_batch_size, loss):
            total, tokens = total + summed, tokens + counted
    yield {"kind": "loss", "model": model, "sum": total, "tokens": tokens}


def _answered(
    model: Model, loaded: Any, job: Job, mine: list[Question], how: Answering, tokenizer: Any
) -> Iterator[Row]:
    with evaluating(loaded), _cast(job):
        for answer in answers(loaded, [question.prompt for question in mine], how, job.batch_size):
            question, text = mine[answer.place], tokenizer.decode(answer.tokens).strip()
            scores = judged(text, question.sample.answer, question.documents, job.declines)
            yield {
                "kind": "answer", "model": model, "id": question.sample.id, "answer": text, **scores,
                "tokens": len(answer.tokens), "complete": answer.complete,
            }  # fmt: skip


def _cast(job: Job) -> AbstractContextManager[Any]:
    """As in training: the adapter is held in fp32, and computes in the base's type."""
    if job.precision == "fp32":
        return nullcontext()
    return torch.autocast("cuda", DTYPES[job.precision])


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
