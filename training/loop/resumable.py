"""What a trainer saves, and how it goes on from there: by parameter name, whatever engine holds it."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from launch.plan import Plan
from launch.rundir import PROGRESS, RunDir
from training.checkpoint import checkpoints
from training.checkpoint.generators import local_generators, seed_rank, set_generators
from training.checkpoint.saving import Saver
from training.checkpoint.states import (
    MOMENTS,
    gather_adapter,
    gather_optimizer,
    read_loss_scale,
    scatter_adapter,
    scatter_optimizer,
    write_loss_scale,
)  # fmt: skip
from training.guard.gate import Gate
from training.loop.monitoring import Recorder
from training.loop.rollback import START, Beginning, set_schedule
from training.model.adapter import Tensors, adapter_files, read_adapter, trainable_parameters
from training.ranks.control import Control


class ResumableTrainer(Trainer):
    """Checkpoints of muster's own format in place of each engine's. Whoever extends it sets what is declared here."""

    plan: Plan
    run_dir: RunDir
    ranks: Control
    identity: dict[str, Any]
    """What a checkpoint's steps were trained on."""
    gate: Gate
    recorder: Recorder
    saver: Saver
    saved_names: dict[str, str]
    """What PEFT calls each trainable parameter in its file."""
    beginning: Beginning | None
    """Where training can go back to while no checkpoint is known to be good."""

    @property
    def peft_model(self) -> Any:
        """The model without the engine's wrappers."""
        return self.accelerator.unwrap_model(self.model)

    def trainable_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """As the engine holds them between steps. Every rank calls this.

        FSDP2 leaves its outermost module whole after a forward pass, under parameters that the optimizer does not know.
        """
        for module in self.model_wrapped.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return trainable_parameters(self.peft_model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """What every rank must do is done here; rank 0 copies and writes while the training goes on."""
        began = time.monotonic()
        self.ranks.pulse.mark("saving", self.state.global_step)
        self.saver.finish()
        step, parameters, writes = self.state.global_step, self.trainable_parameters(), self.ranks.rank == 0
        adapter = gather_adapter(parameters, kept=writes)
        moments, updates = gather_optimizer(self.optimizer, parameters, kept=writes)
        generators, best = self._generators(), self.best_checkpoint()
        if writes:
            progress = {
                "step": step,
                "updates": updates,
                "tokens": self.recorder.tokens,
                "scheduler_epoch": self.lr_scheduler.last_epoch,
                "scaler": read_loss_scale(self.optimizer, self.accelerator.scaler),
                "stability": self.gate.guard.state(),
                "drift": self.recorder.drift.state(),
                "strategy": self.plan.strategy,
                "world_size": self.plan.world_size,
                "optimizer": self.plan.optimizer,
                **self.identity,
            }
            texts = {PROGRESS: json.dumps(progress, indent=2), "trainer_state.json": self._trainer_state()}
            stalled = time.monotonic() - began

            def write(copies: tuple[Tensors, Tensors]) -> None:
                others = {"optimizer.safetensors": copies[1], "generators.safetensors": generators}
                self._write(step, copies[0], others, texts, began, stalled, best)

            self.saver.begin(lambda: (adapter.copies(), moments.copies()), write)
            if not self.plan.spec.training.async_save:
                self.saver.finish()
        if self.gate.guard.trouble is None:  # else it may be the only place that is good enough to go back to
            self.beginning = None
        self.recorder.paused += time.monotonic() - began

    def _write(
        self, step: int, adapter: Tensors, others: dict[str, Tensors], texts: dict[str, str], began: float,
        stalled: float, best: Path | None,
    ) -> None:  # fmt: skip
        """The half of a save that a thread does: from tensors in host memory to a directory with its name."""
        tensors, own = adapter_files(self.peft_model, adapter, self.saved_names)
        size = checkpoints.write_directory(self.run_dir.checkpoint(step), tensors | others, own | texts)
        seconds = round(time.monotonic() - began, 3)
        beside = self.plan.spec.training.async_save
        stalled = round(stalled + self.saver.waited, 4) if beside else seconds
        self.recorder.event("saved", step=step, seconds=seconds, stalled_seconds=stalled, bytes=size)
        checkpoints.keep_newest(self.run_dir, self.plan.spec.training.save_total_limit, best)

    def settle_save(self) -> None:
        """To be called before an update: a checkpoint that is being copied is one of before it."""
        self.recorder.paused += self.saver.settle()

    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the lowest eval_loss, while early stopping keeps one."""
        step = self.state.best_global_step if self.plan.spec.training.early_stopping_patience else None
        return self.run_dir.checkpoint(step) if step else None

    def _trainer_state(self) -> str:
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "state") and callable(callback.state):
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        # TrainerState.save_to_json writes exactly this; the checkpoint writes its files itself.
        return json.dumps(dataclasses.asdict(self.state), indent=2, sort_keys=True)

    def put_back(self, beginning: Beginning) -> None:
        """The run as it was before anything was rehearsed: the adapter, and an optimizer without a past."""
        parameters = self.trainable_parameters()
        scatter_adapter(parameters, beginning.adapter)
        zeros = {name: torch.zeros_like(value) for name, value in beginning.adapter.items()}
        nothing = {f"{name}.{moment}": value for name, value in zeros.items() for moment in MOMENTS}
        scatter_optimizer(self.optimizer, parameters, nothing, updates=0)
        write_loss_scale(self.optimizer, self.accelerator.scaler, beginning.scale)

    def restore(self, directory: Path) -> None:
        parameters = self.trainable_parameters()
        scatter_adapter(parameters, read_adapter(directory, self.peft_model, parameters))
        progress = checkpoints.read_progress(directory)
        scatter_optimizer(
            self.optimizer, parameters, load_file(directory / "optimizer.safetensors"), progress["updates"]
        )
        set_schedule(self.lr_scheduler, progress["scheduler_epoch"])
        write_loss_scale(self.optimizer, self.accelerator.scaler, progress["scaler"])
        self.gate.guard.restore(progress.get("stability", {}))
        self.recorder.drift.restore(progress.get("drift", {}))
        self.recorder.tokens = progress["tokens"]
        self.recorder.forget_after(progress["step"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The adapter is loaded in _restore, once the engine holds it."""

    def _generators(self) -> dict[str, torch.Tensor]:
        """Every rank's random generators, which decide dropout."""
        return {
            f"{kind}-{rank}": state
            for kind, mine in local_generators(self.args.device).items()
            for rank, state in enumerate(self.ranks.gather(mine))
        }

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """This rank's generators; on another world size a seed that depends on rank and step."""
        if checkpoint is None:
            return
        if checkpoint == START:
            assert self.beginning is not None
            set_generators(self.beginning.generators, self.args.device)
            return
        saved = load_file(Path(checkpoint) / "generators.safetensors")
        if len([name for name in saved if name.startswith("cpu-")]) != self.plan.world_size:
            seed_rank(self.plan.spec.training.seed, self.ranks.rank, self.state.global_step)
            return
        mine = f"-{self.ranks.rank}"
        set_generators(
            {name.removesuffix(mine): saved[name] for name in saved if name.endswith(mine)}, self.args.device
        )
