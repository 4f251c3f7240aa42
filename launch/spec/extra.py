"""training.extra: which fields of transformers.TrainingArguments may stand there, and why the others may not.

A test holds every field of the installed class to be refused here or known to be read, so that what a new transformers
brings is looked at before anybody can set it in vain.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from launch.spec.section import LARGEST, SMALLEST, NonNegativeFloat, PositiveFloat, PositiveInt

# What the spec or the plan already decides: a second truth.
DECIDED_ELSEWHERE = {
    "output_dir": "--run-dir",
    "per_device_train_batch_size": "training.micro_batch_size",
    "per_device_eval_batch_size": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "learning_rate": "training.learning_rate",
    "lr_scheduler_type": "training.lr_scheduler",
    "warmup_ratio": "training.warmup_ratio",
    "warmup_steps": "training.warmup_ratio",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "optim": "training.optimizer",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "activation_checkpointing": "training.gradient_checkpointing",
    "torch_compile": "training.compile",
    "torch_compile_backend": "training.compile",
    "torch_compile_mode": "training.compile",
    "seed": "training.seed",
    "data_seed": "training.seed",
    "save_steps": "training.save_steps",
    "save_strategy": "training.save_steps",
    "save_total_limit": "training.save_total_limit",
    "logging_steps": "training.log_steps",
    "logging_strategy": "training.log_steps",
    "logging_nan_inf_filter": "the check for non-finite losses, which it would blind",
    "eval_steps": "training.eval_steps",
    "eval_strategy": "training.eval_steps",
    "eval_on_start": "the base's evaluation at step 0",
    "metric_for_best_model": "training.early_stopping_patience",
    "greater_is_better": "training.early_stopping_patience",
    "load_best_model_at_end": "training.early_stopping_patience",
    "deepspeed": "cluster.strategy",
    "fsdp": "cluster.strategy",
    "fsdp_config": "cluster.strategy",
    "accelerator_config": "cluster.strategy",
    "parallelism_config": "cluster.strategy",
    "use_cpu": "cluster.device",
    "auto_find_batch_size": "training.micro_batch_size (it would change the global batch)",
    "average_tokens_across_devices": "the loss, a mean over the global batch",
    "remove_unused_columns": "the data pipeline",
    "group_by_length": "the data pipeline",
    "train_sampling_strategy": "the data pipeline",
    "dataloader_drop_last": "the data pipeline",
    "ignore_data_skip": "--resume",
    "save_only_model": "--resume, which needs the optimizer's state",
    "disable_tqdm": "muster's own progress bar",
    "ddp_find_unused_parameters": "the adapter, whose parameters are all used",
    "local_rank": "the launcher",
    "dataloader_num_workers": "the data pipeline, which reads tokens that are ready",
    "dataloader_persistent_workers": "the data pipeline",
    "dataloader_prefetch_factor": "the data pipeline",
    "gradient_checkpointing_kwargs": "training.gradient_checkpointing",
    "activation_checkpointing_kwargs": "training.gradient_checkpointing",
    "eval_accumulation_steps": "the evaluation, which keeps no logits",
    "prediction_loss_only": "the evaluation, which keeps no logits",
    "include_for_metrics": "the evaluation, which keeps no logits",
    "batch_eval_metrics": "the evaluation, which keeps no logits",
    "eval_do_concat_batches": "the evaluation, which keeps no logits",
    "do_train": "the command",
    "do_eval": "the command",
    "do_predict": "the command",
    "restore_callback_states_from_checkpoint": "--resume",
    "resume_from_checkpoint": "--resume",
    "label_smoothing_factor": "the loss, a mean over the global batch",
    "optim_args": "training.optimizer",
    "optim_target_modules": "training.optimizer",
    "bf16_full_eval": "training.precision",
    "fp16_full_eval": "training.precision",
    "use_cache": "training, which keeps no key-value cache",
    "eval_use_gather_object": "the evaluation, which keeps no logits",
    "save_on_each_node": "the run directory, which every node sees",
    "log_on_each_node": "the run directory, which every node sees",
    "enable_jit_checkpoint": "a stop request, at which the run saves anyway",
    "dataloader_multiprocessing_context": "the data pipeline, which reads tokens that are ready",
    "dataloader_in_order": "the data pipeline",
    "label_names": "the data pipeline",
    "length_column_name": "the data pipeline",
    "ddp_backend": "cluster.device",
    "ddp_timeout": "the process group, which waits 30 minutes",
    "report_to": "training.report_to",
    "skip_memory_metrics": "metrics.jsonl, which has the peak of memory",
}

# What is read only beside another field of training.extra.
ONLY_WITH = {"liger_kernel_config": "use_liger_kernel"}
# What only a tracker of training.report_to reads.
ONLY_REPORTED = ("run_name", "include_num_input_tokens_seen")
# What only a tracker reads that training.report_to does not have.
OF_TRACKIO = ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")


Share = Annotated[float, Field(ge=0, lt=1)]
LogLevel = Literal["detail", "debug", "info", "warning", "error", "critical", "passive"]

# What transformers' loop, its optimizers, its logging or DDP read, as muster drives them, and the values that they can
# use: transformers itself looks at few of them, and later breaks.
READ: dict[str, Any] = {
    "adam_beta1": Share, "adam_beta2": Share, "adam_epsilon": PositiveFloat, "dataloader_pin_memory": bool,
    "ddp_broadcast_buffers": bool, "ddp_bucket_cap_mb": PositiveInt, "ddp_static_graph": bool,
    "debug": Literal["underflow_overflow"],
    "eval_delay": NonNegativeFloat, "full_determinism": bool, "include_num_input_tokens_seen": bool,
    "liger_kernel_config": dict[str, bool], "log_level": LogLevel, "log_level_replica": LogLevel,
    "logging_first_step": bool, "lr_scheduler_kwargs": dict[str, Any], "neftune_noise_alpha": PositiveFloat,
    "run_name": str, "tf32": bool, "torch_empty_cache_steps": PositiveInt, "use_liger_kernel": bool,
}  # fmt: skip


# What transformers' schedules take beside the warm-up and the number of steps.
SCHEDULER_KWARGS: dict[str, dict[str, Any]] = {"cosine": {"num_cycles": PositiveFloat}}


def conflicts(
    extra: Mapping[str, Any], scheduler: str, evaluates: bool, reports: bool
) -> list[tuple[tuple[str, ...], str]]:
    """The fields of training.extra that something else decides or that nothing would read, each with the reason.

    `reports` is whether training.report_to names a tracker.
    """
    found: list[tuple[tuple[str, ...], str]] = []
    for key in extra:
        reason, beside = refused(key), ONLY_WITH.get(key)
        if beside and not extra.get(beside):
            reason = f"nothing reads this without training.extra.{beside}"
        if key in ONLY_REPORTED and not reports:
            reason = "nothing reads this without training.report_to"
        if key == "eval_delay" and not evaluates:
            reason = "nothing reads this: there is no data.eval; set data.eval or remove it"
        if reason:
            found.append((("training", "extra", key), reason))
    return found + _scheduler_conflicts(extra.get("lr_scheduler_kwargs"), scheduler)


def _scheduler_conflicts(given: Any, scheduler: str) -> list[tuple[tuple[str, ...], str]]:
    taken = SCHEDULER_KWARGS.get(scheduler, {})
    found: list[tuple[tuple[str, ...], str]] = []
    for key, value in given.items() if isinstance(given, dict) else []:
        path = ("training", "extra", "lr_scheduler_kwargs", key)
        if key not in taken:
            allowed = f"takes only {', '.join(taken)}" if taken else "takes none"
            found.append((path, f"nothing reads this: training.lr_scheduler {scheduler} {allowed}; remove it"))
        elif _wrong(taken[key], value):
            found.append((path, f"{value!r} is not allowed; expected a number from {SMALLEST:g} to {LARGEST:g}"))
    return found


def refused(key: str) -> str:
    """Why a field may never stand in training.extra; empty where it may."""
    if key in DECIDED_ELSEWHERE:
        return f"cannot be set: it is decided by {DECIDED_ELSEWHERE[key]}"
    if key == "trust_remote_code":
        return "refused: muster never runs code that comes with a checkpoint; remove this key"
    if key in OF_TRACKIO:
        return "nothing reads this: it is trackio's, and training.report_to takes tensorboard, mlflow and wandb"
    if key.startswith("hub_") or key == "push_to_hub":
        return "nothing reads this: muster never uploads; after looking at the adapter: hf upload"
    return ""


def not_allowed(key: str, value: Any) -> dict[str, Any]:
    """The JSON Schema of a field that cannot be this value; empty where it can, or where the field is not known."""
    return _adapter(READ[key]).json_schema() if key in READ and _wrong(READ[key], value) else {}


def _wrong(kind: Any, value: Any) -> bool:
    try:
        _adapter(kind).validate_python(value)
    except ValidationError:
        return True
    return False


def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
