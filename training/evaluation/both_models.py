"""One process's share of an evaluation: on its device, first with the base, then with the adapter on it."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from launch.diagnosis.exceptions import classify
from launch.errors import ExitCode, NumericalError, UsageError
from launch.evaluation import MODELS, Job, Model, chosen
from launch.machine.discover import cpu_count
from launch.rundir import MANIFEST
from launch.spec import SAFE_SHARE
from launch.wording import first_line, plural
from training.checkpoint.checkpoints import check_directory
from training.data.encoding.template import ChatFiles
from training.data.encoding.tokenizer import load_tokenizer
from training.data.sequences.tokens import Sequences, prepare
from training.evaluation.answers import Answering, answers, ends
from training.evaluation.batches import in_batches
from training.evaluation.loss import summed_loss
from training.evaluation.questions import Question, questions
from training.model.adapter import lacking_tensors
from training.model.collate import Collator
from training.model.loading import DTYPES, load_base, loadable
from training.model.soundness import evaluating

Row = dict[str, Any]


def evaluated(job: Job, rank: int) -> Iterator[Row]:
    """Rows for launch.evaluation.report. Rank 0 also says what the data and the questions are."""
    first, adapter = rank == 0, Path(job.adapter)
    if first and (adapter / MANIFEST).is_file():
        check_directory(adapter)
    tokenizer = load_tokenizer(job.model.variant)
    files = ChatFiles.of(tokenizer)
    rows = _rows(job, files, writer=first)
    every = list(questions(job.data, job.source, files, rows)) if job.limit != 0 else []
    asked = [every[place] for place in chosen(len(every), job.limit)]
    if first:
        yield {"kind": "data", "statistics": asdict(rows.statistics), "questions": len(asked)}
        yield from ({"kind": "question", **question.row(job.declines)} for question in asked)
    loadable(job.model.variant)
    loaded = load_base(job.model, job.precision, job.attention, **_placement(job, rank))
    for model in MODELS:
        # The base comes first, and by itself: an adapter that trains biases cannot be taken off again.
        loaded = _adapted(loaded, adapter) if model == "adapter" else loaded
        yield _measured(model, loaded, job, rows, range(len(rows))[rank :: job.processes], tokenizer)
        yield from _answered(model, loaded, job, asked[rank :: job.processes], tokenizer)


def _rows(job: Job, files: ChatFiles, writer: bool) -> Sequences:
    prepared = prepare(job.data, files, Path(job.tokens), writer, only=None if job.own_tokens else job.split)
    if job.split == "train":
        return prepared.train
    assert prepared.evaluation is not None
    return prepared.evaluation


def _placement(job: Job, rank: int) -> dict[str, Any]:
    """Where from_pretrained puts the model: on this process's device, or over all of the job's GPUs."""
    if job.topology.device == "cpu":
        torch.set_num_threads(max(1, cpu_count() // job.processes))
        return {"device_map": {"": "cpu"}}
    if job.spread:
        room = int(SAFE_SHARE * job.topology.memory_bytes)
        return {"device_map": "auto", "max_memory": dict.fromkeys(range(job.topology.devices_per_node), room)}
    torch.cuda.set_device(rank)
    return {"device_map": {"": f"cuda:{rank}"}}


def _adapted(base: Any, adapter: Path) -> PeftModel:
    """Raises UsageError for an adapter of another model: PEFT leaves out what has no place, with a warning."""
    try:
        # Trainable, for its parameters are found by that; nothing is trained.
        model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        if classify(error)[0] is ExitCode.GPU_MEMORY:
            raise
        raise UsageError(f"{adapter}: is not an adapter of this base: {first_line(error)}") from error
    lacking = lacking_tensors(adapter, model)
    if lacking:
        what = f"{plural(len(lacking), 'tensor')} of it or of the model have no counterpart, {lacking[0]} first"
        raise UsageError(f"{adapter}: is not an adapter of this base: {what}")
    return model


def _measured(model: Model, loaded: Any, job: Job, rows: Sequences, mine: range, tokenizer: Any) -> Row:
    """This process's share of the loss. Raises NumericalError when it is not finite."""
    collator = Collator(tokenizer.pad_token_id, job.data.packing)

    def loss(batch: list[int]) -> tuple[float, int]:
        inputs = collator([rows[index] for index in batch])
        inputs.pop("indices")
        return summed_loss(loaded, {name: tensor.to(loaded.device) for name, tensor in inputs.items()})

    total, tokens = 0.0, 0
    loaded.config.use_cache = False  # with a cache transformers does not look for packed rows, and they see one another
    with evaluating(loaded), _cast(job):
        for _, (summed, counted) in in_batches(mine, job.loss_batch_size, loss):
            total, tokens = total + summed, tokens + counted
    if not math.isfinite(total):
        raise NumericalError(
            f"the held-out loss of the {model} is {total}: its weights are broken, or {job.precision} is too narrow for"
            " them"
        )
    return {"kind": "loss", "model": model, "sum": total, "tokens": tokens}


def _answered(model: Model, loaded: Any, job: Job, mine: list[Question], tokenizer: Any) -> Iterator[Row]:
    known = ends(loaded, (question.end for question in mine))
    how = Answering(job.max_new_tokens, job.max_positions, tokenizer.pad_token_id, known)
    with evaluating(loaded), _cast(job):
        for answer in answers(loaded, [question.prompt for question in mine], how, job.answer_batch_size):
            question = mine[answer.place]
            judged = question.judged(answer, tokenizer, job.declines)
            yield {"kind": "answer", "model": model, "id": question.name, **judged}


def _cast(job: Job) -> AbstractContextManager[Any]:
    """As in training: the adapter is held in fp32, and computes in the base's type."""
    if job.precision == "fp32":
        return nullcontext()
    return torch.autocast("cuda", DTYPES[job.precision])
