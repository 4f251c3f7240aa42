"""The largest batch first: what would fail for want of memory at hour three fails before step 1.

One optimizer step, one evaluation batch of the longest sequences in the data and, where a run answers questions,
answers to the longest of them, on every rank at once. The trainer puts adapter and moments back afterwards: a
rehearsal changes nothing.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from launch.diagnosis.exceptions import ADVICE
from launch.errors import ExitCode, GpuMemoryError
from launch.memory import Measured, forecast
from launch.memory.host import CPU_PROCESS
from launch.plan import Plan
from launch.wording import amount, first_line, plural
from training.data.sequences.tokens import Sequences
from training.evaluation.loss import summed_loss
from training.evaluation.while_training import ask_longest
from training.model.soundness import evaluating

# Tokens of the longest sequence to train on, to evaluate on, and of a question with its answer.
Lengths = tuple[int, int | None, int | None]


def rehearse(trainer: Any) -> Measured:
    """Every rank calls this, on an engine that is ready to train.

    Raises GpuMemoryError where the largest batch does not fit, else what training would raise.
    """
    began, plan, held, answered = time.monotonic(), trainer.plan, trainer.eval_dataset, None
    with _generators(trainer.args.device):
        with _fitting(plan, "to train on", trainer.train_dataset):
            _optimizer_step(trainer, trainer.train_dataset)
        if held is not None:
            with _fitting(plan, "to evaluate on", held):
                _evaluate(trainer, held)
        if trainer.questions:
            with _fitting(plan, "to answer", held):
                answered = _answer(trainer)
    lengths = _longest(trainer.train_dataset), None if held is None else _longest(held), answered
    seconds = round(time.monotonic() - began, 3)
    return _most(trainer.ranks.collect(_measured(plan, lengths, seconds, trainer.args.device)))


@contextlib.contextmanager
def _fitting(plan: Plan, use: str, rows: Sequences) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, GpuMemoryError) as error:
        size = plural(plan.micro_batch_size, "sequence")
        raise GpuMemoryError(
            f"the largest batch {use}, {size} of {_longest(rows):,} tokens, does not fit, and no step was trained:"
            f" {first_line(error)}. {amount(plan.memory.process_bytes)} of {amount(plan.topology.memory_bytes)} were"
            f" planned for; is somebody else on this GPU (nvidia-smi)? {ADVICE[ExitCode.GPU_MEMORY]}"
        ) from error


def _longest(rows: Sequences) -> int:
    return rows.tokens(rows.longest(1)[0])


def _optimizer_step(trainer: Any, rows: Sequences) -> None:
    """Of the longest sequences.

    A step on an empty batch comes before it, for moments and communication buffers exist in every step but a run's
    first; and where gradients are accumulated an empty micro-batch, for they do in all but the first.
    """
    _micro_batch(trainer, rows, [], last=True)
    _update(trainer)
    _forget_peak()
    if trainer.plan.gradient_accumulation_steps > 1:
        _micro_batch(trainer, rows, [], last=False)
    _micro_batch(trainer, rows, rows.longest(trainer.plan.micro_batch_size), last=True)
    _update(trainer)


def _micro_batch(trainer: Any, rows: Sequences, indices: list[int], last: bool) -> None:
    """Forward and backward. As in transformers' loop, gradients are exchanged in a step's last one alone."""
    trainer.ranks.pulse.mark("rehearsing")
    inputs = trainer.data_collator([rows[index] for index in indices])
    inputs.pop("indices")
    count = torch.tensor(max(1, int((inputs["labels"] >= 0).sum())), device=trainer.args.device)
    trainer.accelerator.gradient_state._set_sync_gradients(last)
    alone = not last and not trainer.plan.zero_stage
    with trainer.accelerator.no_sync(trainer.model_wrapped) if alone else contextlib.nullcontext():
        trainer.rehearsed_step(inputs, count)


def _update(trainer: Any) -> None:
    trainer._clip_grad_norm(trainer.model_wrapped)
    trainer.optimizer.step()
    trainer.model_wrapped.zero_grad()


def _evaluate(trainer: Any, rows: Sequences) -> None:
    """The loss of the largest batch to evaluate on."""
    longest = rows.longest(trainer.plan.micro_batch_size)
    inputs = trainer._prepare_inputs(trainer.data_collator([rows[index] for index in longest]))
    inputs.pop("indices")
    with evaluating(trainer.model_wrapped):
        summed_loss(trainer.model_wrapped, inputs)


def _answer(trainer: Any) -> int:
    with evaluating(trainer.model_wrapped), trainer.accelerator.autocast():
        return ask_longest(trainer.peft_model, trainer.questions, trainer.plan, trainer.tokenizer)


@contextlib.contextmanager
def _generators(device: torch.device) -> Iterator[None]:
    """Dropout draws from generators that are put back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _forget_peak() -> None:
    """From here on the peak is the largest batch's."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # VmHWM starts anew (proc(5), clear_refs)
        Path("/proc/self/clear_refs").write_text("5")


def expected(plan: Plan, length: int, evaluation_length: int | None, answer_length: int | None = None) -> int:
    """The forecast for sequences of these lengths, of the number that is measured: torch's peak on a GPU, the process's
    resident memory on a CPU."""
    there = replace(plan.setting, max_length=length, answer_tokens=answer_length)
    training = forecast(plan.architecture, there)
    evaluation = 0
    if evaluation_length is not None:
        held = replace(plan.setting, max_length=evaluation_length)
        evaluation = forecast(plan.architecture, held).phases["evaluation"]
    peak = max(training.peak_bytes, evaluation)
    return peak if plan.topology.device == "gpu" else CPU_PROCESS + peak


def _measured(plan: Plan, lengths: Lengths, seconds: float, device: torch.device) -> Measured:
    gpu = device.type == "cuda"
    return Measured(
        length=lengths[0], evaluation_length=lengths[1], answer_length=lengths[2], seconds=seconds,
        peak_bytes=torch.cuda.max_memory_allocated(device) if gpu else None,
        reserved_bytes=torch.cuda.max_memory_reserved(device) if gpu else None,
        process_bytes=gpu_process_bytes(device) if gpu else resident_peak(),
        forecast_bytes=expected(plan, *lengths),
    )  # fmt: skip


def _most(found: list[Measured]) -> Measured:
    """The rank's that took most memory."""
    return max(found, key=lambda measured: measured.compared or 0)


def gpu_process_bytes(device: torch.device) -> int | None:
    """What the driver says that this process uses; None where it does not tell, as inside a container of other pids."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            mine = [p for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
            return int(mine[0].usedGpuMemory) if mine and mine[0].usedGpuMemory else None
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def resident_peak() -> int | None:
    """Most resident memory of this process since `_forget_peak`."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
