"""The plan in transformers' words: its TrainingArguments and, for LoRA+, its optimizer."""

import math
from typing import Any

from peft.optimizers import create_loraplus_optimizer
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from launch.errors import UsageError
from launch.plan import Plan
from launch.rundir import RunDir
from launch.wording import first_line
from training.data.sequences.order import steps_per_epoch


def total_steps(plan: Plan, sequences: int) -> int:
    """Optimizer steps of the whole run."""
    training = plan.spec.training
    return training.max_steps or math.ceil(training.epochs * steps_per_epoch(sequences, plan.global_batch_size))


def warmup_steps(plan: Plan, sequences: int) -> int:
    """Optimizer steps over which the learning rate rises from 0: never all of them, or nothing is learnt."""
    steps = total_steps(plan, sequences)
    return min(math.ceil(plan.spec.training.warmup_ratio * steps), steps - 1)


def training_arguments(
    plan: Plan,
    run: RunDir,
    sequences: int,
    has_eval: bool,
    deepspeed: dict[str, Any] | None,
    resuming: bool,
    reports: bool = True,
) -> TrainingArguments:
    """The plan in transformers' words: `sequences` to train on, and DeepSpeed's JSON where DeepSpeed is the engine.
    `resuming` leaves out the evaluation of the untrained base; `reports` is true on the rank that tells
    training.report_to.

    Raises UsageError for what transformers refuses of training.extra and training.report_to.
    """
    training = plan.spec.training
    options: dict[str, Any] = {
        "output_dir": str(run.root),
        "report_to": training.report_to if reports else [],
        "run_name": plan.name,
        **_learning(plan, sequences),
        **_saving_and_evaluation(plan, sequences, has_eval, resuming),
        **_devices(plan, deepspeed),
        **training.extra,
    }
    try:
        arguments = TrainingArguments(**options)
    except (TypeError, ValueError, ImportError, RuntimeError) as error:
        if not training.extra:
            raise
        raise UsageError(f"training.extra: transformers refuses it: {first_line(error)}") from error
    try:
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()
    except (ImportError, RuntimeError) as error:
        raise UsageError(f"training.report_to: transformers refuses it: {first_line(error)}") from error
    return arguments


def _learning(plan: Plan, sequences: int) -> dict[str, Any]:
    """What is learnt from, how much of it at once and how fast."""
    training = plan.spec.training
    return {
        "per_device_train_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": plan.lr_scheduler,
        "warmup_steps": warmup_steps(plan, sequences),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": plan.optimizer,
        "seed": training.seed,
        "average_tokens_across_devices": True,
        "remove_unused_columns": False,
    }


def _saving_and_evaluation(plan: Plan, sequences: int, has_eval: bool, resuming: bool) -> dict[str, Any]:
    """When something is told, saved or evaluated, and what the best checkpoint is."""
    training = plan.spec.training
    return {
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": training.log_steps,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        # Once an epoch, in steps: an epoch's own evaluation comes after the last step's save, where a kill loses it.
        "eval_strategy": "steps" if has_eval else "no",
        "eval_steps": training.eval_steps or steps_per_epoch(sequences, plan.global_batch_size),
        "eval_on_start": has_eval and not resuming,
        "metric_for_best_model": "eval_loss" if training.early_stopping_patience else None,
        "greater_is_better": False if training.early_stopping_patience else None,
    }


def _devices(plan: Plan, deepspeed: dict[str, Any] | None) -> dict[str, Any]:
    """Precision and engine."""
    return {
        "bf16": plan.precision == "bf16",
        "fp16": plan.precision == "fp16",
        "use_cpu": plan.topology.device == "cpu" and plan.strategy in ("single", "ddp"),
        "deepspeed": deepspeed,
        "accelerator_config": {"use_configured_state": True},
        "ddp_find_unused_parameters": False,
        # Rotary frequencies, the same on every rank: a broadcast would only make ranks wait in each forward pass.
        "ddp_broadcast_buffers": False,
    }


def loraplus(model: Any, kind: Any, ratio: float, options: dict[str, Any]) -> Any:
    """An optimizer whose B matrices learn `ratio` times as fast as their A."""
    decay = options.pop("weight_decay")
    optimizer: Any = create_loraplus_optimizer(
        model, kind, loraplus_lr_ratio=ratio, loraplus_weight_decay=decay, **options
    )
    # An empty group, for embeddings or biases that nobody trains, is more than DeepSpeed can flatten.
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
    return optimizer
