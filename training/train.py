"""One attempt of one run, from its plan to its adapter. Reads top to bottom."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from launch.errors import GO_ON, Stopped, WorkerError
from launch.model.files import weights_identity
from launch.plan import Plan
from launch.rundir import ADAPTER_WEIGHTS, RunDir
from launch.spec import training_identity
from training.checkpoint import checkpoints
from training.checkpoint.generators import seed_rank
from training.checkpoint.manifest import sha256
from training.checkpoint.states import gather_adapter, scatter_adapter
from training.data.encoding.template import ChatFiles
from training.data.encoding.tokenizer import load_tokenizer
from training.data.sequences.tokens import Prepared, Sequences, prepare
from training.evaluation.questions import Question
from training.evaluation.while_training import questions_to_ask
from training.loop import trackers
from training.loop.arguments import total_steps, training_arguments
from training.loop.trainer import AdapterTrainer
from training.model.adapter import adapter_files, read_adapter
from training.model.loading import load, loadable
from training.model.soundness import check_tokens
from training.ranks.control import Control
from training.telemetry.sampling import sampling


@dataclass(frozen=True)
class Data:
    """What is trained on, tokenised before any process group exists."""

    tokenizer: Any
    prepared: Prepared
    questions: list[Question]
    """Those of data.eval that are answered at each evaluation."""


def load_data(plan: Plan, run: RunDir, writer: bool, tell: Callable[[str], None]) -> Data:
    """Rows as tokens, and a model that can be loaded: an original checkpoint is imported at its first use.

    `writer` is true on rank 0. Comes before the model: a bad row should not cost a model's loading time.
    """
    tokenizer = load_tokenizer(plan.spec.model.variant)
    check_tokens(plan.architecture.vocab_size, tokenizer)
    files = ChatFiles.of(tokenizer)
    prepared = prepare(plan.spec.data, files, run.tokens, writer)
    asked = questions_to_ask(plan, files, prepared.evaluation)
    loadable(plan.spec.model.variant, tell)
    return Data(tokenizer, prepared, asked)


def train(
    plan: Plan, run: RunDir, control: Control, data: Data, attempt: int, resume: str, deepspeed: dict[str, Any] | None
) -> None:
    """Trains, and leaves run.adapter. Raises Stopped after a stop that was asked for, or what went wrong."""
    began, first = time.monotonic(), control.rank == 0
    spec, tokenizer, rows, evaluation = plan.spec, data.tokenizer, data.prepared.train, data.prepared.evaluation

    # What a checkpoint's steps were trained on; going on with anything else would not be the same run.
    identity = {
        "data": rows.fingerprint, "base": weights_identity(spec.model.variant),
        "adapter": _adapter_identity(spec.lora.adapter),
        "spec": {**training_identity(spec), "global batch size": plan.global_batch_size},
    }  # fmt: skip
    directory, refused = control.share(checkpoints.choose(run, resume) if first else None)
    if directory is not None:
        checkpoints.check_identity(directory, identity)
    if first:
        checkpoints.set_aside_newer(run, directory)
        checkpoints.bring_ledger(run, directory)
        trackers.prepare(plan, run)
    args = training_arguments(
        plan, run, len(rows), evaluation is not None, deepspeed, resuming=directory is not None, reports=first
    )
    trainer = AdapterTrainer(
        plan, run, control, load(plan, directory), tokenizer, args, rows, evaluation, identity, data.questions
    )
    if first:
        trackers.go_on(trainer, run, directory)
    _tell_the_start(trainer, rows, attempt, directory, refused)
    if directory is None:
        trainer.recorder.forget_after(-1)
        seed_rank(spec.training.seed, control.rank, 0)

    with (
        sampling(plan, run, here=args.local_process_index == 0, first=first),
        trackers.reporting(args.report_to),
    ):
        with trainer.saver:
            trainer.train(resume_from_checkpoint=str(directory) if directory else None)
        control.share(None)  # nobody goes on before the last checkpoint has its name
        step, last = trainer.state.global_step, trainer.state.max_steps
        if trainer.recorder.stopped:
            trainer.recorder.event("stopped", step=step)
            raise Stopped(f"stopped as asked after step {step} of {last}{GO_ON}")
        _load_best(trainer)
        if evaluation is not None and trainer.recorder.last_evaluation != step:
            trainer.evaluate()
        save_adapter(trainer, tokenizer)
        seconds = round(time.monotonic() - began, 1)
        trainer.recorder.event("finished", step=step, seconds=seconds, tokens=trainer.recorder.tokens)


def _adapter_identity(adapter: str | None) -> str | None:
    """Identifies the adapter that training goes on from."""
    return sha256(Path(adapter, ADAPTER_WEIGHTS)) if adapter and Path(adapter, ADAPTER_WEIGHTS).is_file() else None


def _tell_the_start(
    trainer: AdapterTrainer, rows: Sequences, attempt: int, directory: Path | None, refused: list[str]
) -> None:
    plan, tell = trainer.plan, trainer.recorder.event
    held = trainer.eval_dataset
    evaluation = {"evaluation_data": asdict(held.statistics)} if held is not None else {}
    tell(
        "started", attempt=attempt, strategy=plan.strategy, world_size=plan.world_size,
        global_batch_size=plan.global_batch_size, steps=total_steps(plan, len(rows)), data=asdict(rows.statistics),
        **evaluation,
    )  # fmt: skip
    instead = "using the one before it" if directory else "no good one is left, so training starts at step 0"
    for reason in refused:
        tell("checkpoint_refused", reason=reason, instead=instead)
    if directory is not None:
        tell("resumed", checkpoint=directory.name, step=checkpoints.read_progress(directory)["step"])


def _load_best(trainer: AdapterTrainer) -> None:
    """After early stopping the best adapter is the result, not the last one."""
    best = trainer.best_checkpoint()
    if best is not None and best != trainer.run_dir.checkpoint(trainer.state.global_step):
        checkpoints.check_directory(best)
        parameters = trainer.trainable_parameters()
        scatter_adapter(parameters, read_adapter(best, trainer.peft_model, parameters))
        trainer.recorder.last_evaluation = None
        trainer.recorder.best_step = trainer.state.best_global_step
        trainer.recorder.event("best_loaded", checkpoint=best.name, eval_loss=trainer.state.best_metric)


def save_adapter(trainer: AdapterTrainer, tokenizer: Any) -> None:
    """Writes run.adapter, then reads it back and compares each tensor with the live one.

    Under ZeRO-3 an adapter of 40 bytes has been written without an error (trl#4416): only what was reopened counts.
    """
    trainer.ranks.pulse.mark("saving", trainer.state.global_step)
    parameters = trainer.trainable_parameters()
    writes = trainer.ranks.rank == 0
    live = gather_adapter(parameters, kept=writes).copies()
    if writes:

        def complete(directory: Path) -> None:
            saved = read_adapter(directory, trainer.peft_model, parameters)
            differing = [name for name, tensor in live.items() if not torch.equal(tensor, saved[name])]
            if differing:
                raise WorkerError(
                    f"{trainer.run_dir.adapter}: {len(differing)} tensors differ from the trained ones when read back,"
                    f" {differing[0]} first; the adapter was not kept. The last checkpoint is good: --resume auto"
                )
            tokenizer.save_pretrained(directory)

        tensors, texts = adapter_files(trainer.peft_model, live, trainer.saved_names)
        checkpoints.write_directory(trainer.run_dir.adapter, tensors, texts, complete)
    trainer.ranks.share(None)
