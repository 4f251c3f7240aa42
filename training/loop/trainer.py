"""transformers.Trainer with muster's order of samples, evaluation and gate. The loop itself is transformers'."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from launch.plan import Plan
from launch.rundir import RunDir
from training.checkpoint.generators import local_generators
from training.checkpoint.saving import Saver
from training.checkpoint.states import gather_adapter, read_loss_scale
from training.data.sequences.order import MicroBatches, micro_batches, steps_per_epoch
from training.data.sequences.tokens import Sequences
from training.evaluation.loss import summed_loss
from training.evaluation.questions import Question
from training.evaluation.while_training import ask
from training.guard.gate import Gate
from training.loop.arguments import loraplus
from training.loop.monitoring import Recorder
from training.loop.rehearsal import rehearse
from training.loop.resumable import ResumableTrainer
from training.loop.rollback import Beginning, Unsound, go_back, lower_learning_rates
from training.model.adapter import saved_names
from training.model.collate import collator
from training.model.initial import leaves_base_unchanged
from training.model.loading import DTYPES
from training.model.soundness import check_model, evaluating
from training.ranks.control import Control
from training.ranks.engine import verify


def sum_in_fp32(plugin: Any) -> None:
    """FSDP2's gradients, over a step's micro-batches and over the ranks. By accelerate's policy they are summed in the
    type that is computed in, and bf16's eight significant bits lose what is small beside the sum. DDP sums in the
    adapter's own fp32."""
    policy = plugin.mixed_precision_policy
    if policy is not None:  # None where the run computes in fp32
        plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32)


class AdapterTrainer(ResumableTrainer):
    """Order, evaluation and gate of muster on transformers' loop.

    train(resume_from_checkpoint=PATH) continues from a good checkpoint directory of muster's own format.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunDir,
        control: Control,
        model: Any,
        tokenizer: Any,
        args: TrainingArguments,
        train: Sequences,
        evaluation: Sequences | None,
        identity: dict[str, Any] | None = None,
        questions: Sequence[Question] = (),
    ):
        per_epoch = steps_per_epoch(len(train), plan.global_batch_size)
        self.plan, self.run_dir, self.ranks, self.identity = plan, run, control, identity or {}
        self.tokenizer, self.questions = tokenizer, list(questions)
        self.saver = Saver()
        self.gate = Gate(plan, run, control, args.device)
        self.recorder = Recorder(plan, run, control, train, per_epoch, self.gate)
        self.beginning = None
        self.batches = MicroBatches(
            len(train),
            args.seed,
            control.rank,
            plan.world_size,
            plan.micro_batch_size,
            plan.gradient_accumulation_steps,
        )
        callbacks: list[Any] = [self.recorder]
        if plan.spec.training.early_stopping_patience:
            callbacks.append(EarlyStoppingCallback(plan.spec.training.early_stopping_patience))
        super().__init__(
            model=model,
            args=args,
            data_collator=collator(plan, tokenizer.pad_token_id),
            callbacks=callbacks,
            train_dataset=train,
            eval_dataset=evaluation,
        )
        if plan.strategy == "ddp":
            self.accelerator.ddp_handler.gradient_as_bucket_view = plan.spec.training.gradient_as_bucket_view
        if plan.strategy == "fsdp2":
            sum_in_fp32(self.accelerator.state.fsdp_plugin)
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)

    # Order

    def _prepare_input(self, data: Any) -> Any:
        """A pinned batch is sent without waiting: the copy is queued behind the last micro-batch's kernels."""
        if isinstance(data, torch.Tensor) and data.is_pinned():
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This rank's share of each global batch; accelerate must not shard it again, so it is not prepared."""
        pin = self.args.device.type == "cuda" and self.args.dataloader_pin_memory
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator, pin_memory=pin)

    def _run_epoch(self, **named: Any) -> Any:
        """One epoch, and what comes before its end once more where the gate sends training back."""
        if self.beginning is not None:
            self.beginning.generators = self.beginning.generators or local_generators(self.args.device)
        asked = named["epoch"]
        while self.state.global_step < self.state.max_steps:  # else resumed after the last step
            self.batches.set_epoch(named["epoch"])
            try:
                super()._run_epoch(**named)
            except Unsound as unsound:
                named |= go_back(self, unsound.verdict)
            else:
                control: Any = self.__dict__["control"]
                if named["epoch"] == asked or control.should_training_stop:
                    return
                named["epoch"] += 1
            self.control = self.callback_handler.on_epoch_begin(self.args, self.state, self.__dict__["control"])

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The micro-batches of an optimizer step, with which it begins."""
        with self.gate.watch.part("data"):
            batches = list(itertools.islice(epoch_iterator, num_batches))
        labels = self._get_num_items_in_batch(batches, device)
        self.gate.begin(self.state.global_step + 1, labels, self.lr_scheduler)
        return batches, labels

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.saver.check()
        self.ranks.pulse.mark("training", self.state.global_step)
        self.gate.indices += [int(index) for index in inputs.pop("indices") if index >= 0]
        if self.gate.left_out:
            return torch.zeros((), device=self.args.device)
        with self.gate.watch.part("pass"):
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def compute_loss(self, *positional: Any, **named: Any) -> Any:
        with self.gate.watch.part("forward"):
            loss = super().compute_loss(*positional, **named)
        self.gate.losses.append(loss.detach())
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.gate.left_out:
            return torch.zeros(())
        with self.gate.watch.part("optimizer"):
            return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm before clipping. Without ZeRO this is where the gate is: an optimizer passes over what has no
        gradient."""
        if self.gate.left_out:
            return None
        norm = super()._get_grad_norm(model, grad_norm)
        if self.gate.zero is None and not self.gate.judge(norm):
            model.zero_grad(set_to_none=True)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(self.recorder.completed(self.state, logs) if "loss" in logs else logs, start_time)

    def rehearsed_step(self, inputs: dict[str, Any], num_items_in_batch: torch.Tensor) -> None:
        """Forward and backward as in `training_step`, of samples that no ledger counts."""
        super().training_step(self.model_wrapped, inputs, num_items_in_batch)

    def create_optimizer(self, *positional: Any, **named: Any) -> Any:
        """transformers' own, but with LoRA+ in groups of different learning rates."""
        ratio = self.plan.spec.lora.loraplus_lr_ratio
        if ratio is None or self.__dict__.get("optimizer") is not None:
            return super().create_optimizer(*positional, **named)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = loraplus(self.peft_model, kind, ratio, {**options, "weight_decay": self.args.weight_decay})
        return self.optimizer

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss over all trainable tokens of the evaluation rows, whatever the batch or the world size.

        Every rank runs the same number of forward passes, as sharded engines require. No logits are kept.
        """
        began = time.monotonic()
        rows: Sequences = eval_dataset or self.eval_dataset
        model, size = self.model_wrapped, self.plan.micro_batch_size
        total = torch.zeros(2, dtype=torch.float64)
        with evaluating(model):
            for start in range(0, len(rows), size * self.plan.world_size):
                self.ranks.pulse.mark("evaluating", self.state.global_step)
                batch = list(range(start, min(len(rows), start + size * self.plan.world_size)))
                mine = micro_batches(batch, self.ranks.rank, self.plan.world_size, size, 1)[0]
                inputs = self._prepare_inputs(self.data_collator([rows[index] for index in mine]))
                inputs.pop("indices")
                total += torch.tensor(summed_loss(model, inputs), dtype=torch.float64)
        summed = torch.stack(self.ranks.gather(total)).sum(0)
        metrics = {f"{metric_key_prefix}_loss": float(summed[0] / summed[1])}
        if self.questions:
            metrics |= self._answer(metric_key_prefix)
        self.log(metrics)
        control: Any = self.__dict__["control"]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, control, metrics)
        self.recorder.paused += time.monotonic() - began
        return metrics

    def _answer(self, prefix: str) -> dict[str, float]:
        with evaluating(self.model_wrapped), self.accelerator.autocast():
            rows = ask(self.peft_model, self.questions, self.plan, self.ranks, self.tokenizer)
        self.recorder.answers(self.state.global_step, rows)
        return {
            f"{prefix}_answer_f1": sum(row["f1"] for row in rows) / len(rows),
            f"{prefix}_rouge_l": sum(row["rouge_l"] for row in rows) / len(rows),
        }

    # Beginning

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Rehearses the largest batch, then loads the adapter and its moments by name, where transformers would load
        an engine's own format."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self.recorder.event("verified", **verify(self.plan, self))
        parameters = self.trainable_parameters()
        self.saved_names = saved_names(self.peft_model, [name for name, _ in parameters])
        fresh = gather_adapter(parameters).copies()
        scale = read_loss_scale(self.optimizer, self.accelerator.scaler)
        self.recorder.rehearsed(rehearse(self))
        self.gate.install(self)
        lower_learning_rates(self.lr_scheduler, self.gate)
        if resume_from_checkpoint is None:
            self.beginning = Beginning(fresh, scale)
            self.put_back(self.beginning)
        else:
            self.restore(Path(resume_from_checkpoint))
        unchanged = resume_from_checkpoint is None and leaves_base_unchanged(self.plan.spec.lora)
        precision = DTYPES[self.plan.precision]
        check_model(self.model_wrapped, self.peft_model, self.args.device, precision, unchanged)
        return prepared
