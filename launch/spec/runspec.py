"""RunSpec: what a user asks for, as frozen values. file.py reads one from YAML.

The defaults are the documented recipe of the security model: LoRA rank 8 on all linear layers, batch 4 x 4,
learning rate 2e-4 held constant after a short warm-up, three epochs.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from launch.spec.monitoring import MonitoringSpec
from launch.spec.section import (
    LONGEST,
    MOST,
    Count,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Seconds,
    Section,
    Text,
)
from launch.spec.slurm import SlurmSpec
from launch.spec.stability import StabilitySpec

Strategy = Literal["single", "ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2"]
# Those that split the frozen base over the ranks, and those that keep optimizer states in host memory.
SHARDS_BASE: tuple[Strategy, ...] = ("zero3", "zero3_offload", "fsdp2")
# What DeepSpeed divides: 1 the optimizer's states, 2 gradients too, 3 weights too (arXiv 1910.02054).
ZERO_STAGES: dict[Strategy, int] = {"zero1": 1, "zero2": 2, "zero2_offload": 2, "zero3": 3, "zero3_offload": 3}
OFFLOADS: tuple[Strategy, ...] = ("zero2_offload", "zero3_offload")
# Where DeepSpeed is told to send gradients and to add them up in fp32, as DDP does. Its own way is the run's type: bf16
# is off by 0.8 % after 64 micro-batches (docs/strategies.md). At stage 1 it would be another optimizer of DeepSpeed's.
SUMS_FP32: tuple[Strategy, ...] = ("zero2", "zero2_offload", "zero3", "zero3_offload")
# No run planned under 80 % of a GPU's memory ever failed
# (Fujii et al. 2024, "Accelerating LLM training with memory estimation").
SAFE_SHARE = 0.8
Precision = Literal["bf16", "fp16", "fp32"]
Quantization = Literal["none", "nf4", "int8"]
Attention = Literal["sdpa", "eager", "varlen"]
FlashAttention = Literal["torch", "fa3", "fa4"]
Loss = Literal["plain", "chunked"]
LoraImplementation = Literal["peft", "fused"]
Norms = Literal["plain", "fused"]
Optimizer = Literal["paged_adamw_32bit", "adamw_torch", "adamw_torch_fused"]
Scheduler = Literal["constant", "linear", "cosine"]
Tracker = Literal["tensorboard", "mlflow", "wandb"]

ColumnName = Literal[
    "id", "question", "documents", "contexts", "answer", "oracle", "context", "oracle_context", "cot_answer",
    "messages", "tools", "conversations", "system", "instruction", "input", "output", "history", "text",
]  # fmt: skip
# Errors of a row that a person may judge otherwise; the others leave nothing to train on.
AcceptedKind = Literal["citation", "secret", "leakage"]


class ModelSpec(Section):
    """The frozen base."""

    variant: Text
    """A known name (`qwen2.5-14b-instruct`), a local directory, or a hub id (`Qwen/Qwen2.5-14B-Instruct`)."""
    quantization: Quantization = "none"
    """How the frozen base is held: `none` (the run's precision), `nf4` (QLoRA) or `int8`."""
    double_quantization: bool = True
    """Hold nf4's scales in 8 bits as well (QLoRA, arXiv 2305.14314, section 3): 0.37 bits a weight less."""
    upcast_unquantized: bool = False
    """Hold what is not quantised (embeddings, output head, norms) in fp32, as peft's prepare_model_for_kbit_training
    does: 2.2 GB more for 7B, 3.1 GB for 14B."""
    attention: Literal["auto"] | Attention = "auto"
    """What computes attention: `sdpa` (torch's fused kernels), `eager`, which holds every score, or `varlen`, which
    takes packed rows document by document, without a mask. `auto` takes varlen for packed rows on CPU, else sdpa."""
    flash_attention: FlashAttention = "torch"
    """FlashAttention's kernels on GPUs, under `varlen` and, where rows are not packed, `sdpa`: torch's own
    (FlashAttention-2), or those of another package, which torch calls in their place: `fa3` (flash_attn_interface;
    Hopper) or `fa4` (flash_attn.cute; Hopper and Blackwell)."""
    norms: Norms = "plain"
    """Who computes an RMS norm: `plain` is transformers' eight operations in fp32, `fused` one that keeps half as much
    in bf16. `fused` goes with neither a compiler nor Liger's kernels."""


class LoraSpec(Section):
    """The adapter that is trained."""

    rank: PositiveInt = 8
    """Rank r of each adapter pair."""
    alpha: PositiveInt = 32
    """The adapter's output is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the adapter's input."""
    target_modules: Text | list[Text] = "all-linear"
    """`all-linear` (every linear layer but the output head), a list of module names such as `q_proj`, or a regular
    expression that whole names such as `model.layers.0.mlp.up_proj` match."""
    layers_to_transform: list[Count] | None = None
    """Only these blocks are adapted, counted from 0; by default all. Not with a regular expression."""
    modules_to_save: list[Literal["embed_tokens", "lm_head"]] = Field(default_factory=list)
    """Trained whole and saved with the adapter: a base model learns the tokens of turns so."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which bias terms are trained."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What the adapter is held in, and its optimizer's states with torch's AdamW: `auto` is fp32, or what DeepSpeed
    makes of it, the run's precision beside an fp32 copy. `bf16` takes half, and rounds small updates away."""
    use_rslora: bool = False
    """Scale the adapter's output by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732)."""
    use_dora: bool = False
    """Train the magnitudes of the adapted weights beside their directions (DoRA, arXiv 2402.09353)."""
    init_lora_weights: Literal["default", "pissa", "loftq"] = "default"
    """How the adapter begins: `default` changes nothing, `pissa` with the principal part of each weight
    (arXiv 2404.02948), `loftq` with what nf4 lost of it (arXiv 2310.08659)."""
    loraplus_lr_ratio: Annotated[float, Field(ge=1, le=MOST)] | None = None
    """Learning rate of each pair's B over that of its A (LoRA+, arXiv 2402.12354); the paper advises 16."""
    implementation: Literal["auto"] | LoraImplementation = "auto"
    """Who computes an adapted layer: `peft` in five operations, or `fused` in one that keeps and copies less.
    `auto` takes `fused` on CPU and `peft` on GPUs. `fused` goes with neither use_dora, int8, a compiler, Liger's
    kernels nor zero3."""
    cast_inputs: bool = False
    """Cast what goes into each adapter to the adapter's own type, as PEFT's layers do, though autocast casts it back:
    the same result. With dropout or DoRA it is cast in any case. `implementation: auto` becomes `peft` with it."""
    adapter: Text | None = None
    """A directory with an adapter to go on from, of the same rank and modules. Relative paths start at the spec's
    folder."""


class DataSpec(Section):
    """Rows to train on and to evaluate on."""

    train: Text
    """Training rows: a file, folder, glob or hub id (`owner/name:split`). Relative paths start at the spec's folder."""
    eval: Text | None = None
    """Evaluation rows, as `train`."""
    format: Literal["auto", "rag", "raft", "messages", "sharegpt", "alpaca", "text"] = "auto"
    """What a row holds (see docs/data.md); `auto` tells it from each row's keys, and asks where it cannot."""
    columns: dict[ColumnName, Text] = Field(default_factory=dict)
    """Where the rows call a field otherwise: muster's name to theirs, such as `question: prompt`."""
    max_length: PositiveInt = 4096
    """Tokens of a sequence. A row that is too long loses distractors, then ends of documents, never its answer."""
    packing: bool = True
    """Lay several rows into one sequence of max_length tokens; they cannot see one another."""
    on_bad_row: Literal["fail", "quarantine"] = "fail"
    """What an error in a row does: stop before training, or leave the row out and count it."""
    accept: list[AcceptedKind] = Field(default_factory=list)
    """Errors that are known and meant, such as `secret` for texts about leaked keys: they become warnings."""


class TrainingSpec(Section):
    """The recipe: batch, learning rate, intervals."""

    epochs: PositiveFloat = 3
    """Passes over the training rows."""
    max_steps: PositiveInt | None = None
    """Stop after this many optimizer steps, however many epochs that is."""
    micro_batch_size: PositiveInt | Literal["auto"] = 4
    """Sequences per device in one forward pass; `auto` lets the planner choose. Beside gradient_accumulation_steps and
    without global_batch_size `auto` is 4, the recipe's: another size would make another global batch."""
    gradient_accumulation_steps: PositiveInt = 4
    """Forward passes per optimizer step."""
    global_batch_size: PositiveInt | None = None
    """Sequences per optimizer step over all devices. Stands in place of micro-batch x accumulation x devices."""
    learning_rate: PositiveFloat = 2.0e-4
    """Peak learning rate."""
    lr_scheduler: Scheduler = "constant"
    """Shape of the learning rate after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of all steps over which the learning rate rises from 0."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 0.3
    """Gradients are scaled down to this global norm."""
    optimizer: Optimizer = "paged_adamw_32bit"
    """AdamW by bitsandbytes with paged states, or torch's own."""
    precision: Literal["auto"] | Precision = "auto"
    """`auto`: bf16 where the hardware has it, fp16 where it does not, fp32 on CPU."""
    save_steps: PositiveInt = 25
    """Optimizer steps between checkpoints."""
    save_total_limit: PositiveInt = 3
    """Checkpoints kept; the oldest go first."""
    async_save: bool = True
    """Copy and write a checkpoint beside the next step. `false`: the training waits until it has its name."""
    log_steps: PositiveInt = 25
    """Optimizer steps between rows of metrics.jsonl."""
    eval_steps: PositiveInt | None = None
    """Optimizer steps between evaluations; by default once an epoch. Needs data.eval."""
    eval_samples: PositiveInt | None = None
    """Questions of data.eval that are answered at each evaluation, into answers.jsonl; by default none."""
    eval_max_new_tokens: PositiveInt = 256
    """Tokens after which such an answer is cut off."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after this many evaluations without a better eval_loss and keep the best adapter. Needs data.eval."""
    gradient_checkpointing: Literal["auto"] | bool | Count = "auto"
    """Recompute activations in the backward pass to save memory: in all transformer blocks, in none, or in so many.
    These are the first ones that gradients flow through. `auto` lets the planner choose: as few as make the run fit."""
    loss: Literal["auto"] | Loss = "auto"
    """`chunked` computes output head and loss over a few hundred tokens at a time, and only where a token is trained
    on: a batch's logits, its largest tensor, are never there at once. `auto` takes it on CPU, `plain` on GPUs."""
    compile: bool = False
    """Compile each transformer block (torch.compile), with packed rows all padded to max_length so that shapes stay the
    same. The first steps wait for the compiler, a minute or more."""
    gradient_as_bucket_view: bool = True
    """Under ddp, gradients are views of the buckets that are exchanged. `false` holds and copies them beside these."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seeds the adapter, the order of the rows and dropout."""
    report_to: list[Tracker] = Field(default_factory=list)
    """Trackers that get every logged value as well: `tensorboard`, `mlflow`, `wandb`. Each needs its package."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Any other field of transformers.TrainingArguments, checked against the installed version."""


class ClusterSpec(Section):
    """Where it runs."""

    nodes: PositiveInt = 1
    """Machines."""
    devices_per_node: PositiveInt | Literal["auto"] = "auto"
    """Devices on each machine; `auto` takes all its GPUs, or one CPU process without any."""
    device: Literal["auto", "gpu", "cpu"] = "auto"
    """A device is a GPU or, without one, a CPU process."""
    strategy: Literal["auto"] | Strategy = "auto"
    """How devices share the work; `auto` lets the planner choose."""
    network_gbps: Annotated[float, Field(ge=0.001, le=1_000_000)] = 100
    """Gigabits per second that a node sends to another one, all its adapters together. The planner reads it."""
    memory_share: Annotated[float, Field(gt=0, le=0.98)] = SAFE_SHARE
    """Share of a device's memory that a plan may take. What is left is for what the forecast errs by."""


class PreflightSpec(Section):
    """Where the checks before a run draw the line."""

    accept: list[Text] = Field(default_factory=list)
    """Checks whose failure is known and meant, by name: it becomes a warning. `muster preflight --list` names them."""
    shm_gib_per_rank: Annotated[float, Field(ge=0, le=MOST)] = 1
    """GiB of /dev/shm that each process of a node needs."""
    cores_per_rank: PositiveInt = 2
    """CPU cores that each process of a node needs on GPUs."""
    open_files: PositiveInt = 65536
    """Open files that a process must be allowed."""
    uncorrected_ecc_errors: Count = 0
    """Uncorrected memory errors of a GPU, since its driver was loaded, that are still fine."""
    xid_hours: PositiveFloat = 24
    """A fatal Xid error in the kernel's log fails a GPU for so long; an older one warns."""
    clock_skew_seconds: PositiveFloat = 30
    """Nodes' clocks that differ by more fail."""
    clock_skew_warn_seconds: PositiveFloat = 1
    """Nodes' clocks that differ by more warn: their logs can no longer be put in order."""
    answer_seconds: Seconds = 60
    """Seconds in which each node of a job must have answered what it was asked before a run."""
    allreduce_seconds: Seconds = 60
    """Seconds in which all ranks of several nodes must have met and added up a tensor."""
    allreduce_gbps: PositiveFloat | None = None
    """Gigabytes per second (bus bandwidth) that this must reach; by default it is told, not judged."""


class RecoverySpec(Section):
    """What follows when an attempt of the run fails."""

    restarts: Count = 3
    """Restarts in a row that may fail without a further step trained; then the run stops. 0 never restarts."""
    hang_seconds: Annotated[float, Field(ge=5, le=LONGEST)] = 180
    """Seconds without progress of any rank after which a run hangs: stacks are kept and it is restarted.
    A rank whose process shows no life is given a third of them."""
    start_seconds: Annotated[float, Field(ge=5, le=LONGEST)] = 1800
    """The same for what comes before the first batch: reading data and loading the model."""


class RunSpec(Section):
    """One run: model, adapter, data, training, and where it runs."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Names the run and its directory: letters, digits, dot, dash, underscore."""
    model: ModelSpec
    lora: LoraSpec = LoraSpec()
    data: DataSpec
    training: TrainingSpec = TrainingSpec()
    cluster: ClusterSpec = ClusterSpec()
    slurm: SlurmSpec = SlurmSpec()
    preflight: PreflightSpec = PreflightSpec()
    recovery: RecoverySpec = RecoverySpec()
    stability: StabilitySpec = StabilitySpec()
    monitoring: MonitoringSpec = MonitoringSpec()


# The keys that lead to a value: ("training", "epochs").
KeyPath = tuple[str, ...]


def is_pattern(targets: str | list[str]) -> bool:
    """Whether lora.target_modules is a regular expression."""
    return isinstance(targets, str) and targets != "all-linear"


def training_identity(spec: RunSpec) -> dict[str, Any]:
    """What makes two specs the same training, flat by dotted key.

    Where it runs (cluster, slurm), how a step is divided, how often it is saved or logged and to whom, which of the
    AdamWs updates it and who computes attention, norms, adapted layers and the loss may change between the attempts of
    one run; what is learnt, from what and in which order may not.
    """
    may_change = {
        "micro_batch_size", "gradient_accumulation_steps", "global_batch_size", "gradient_checkpointing",
        "save_steps", "save_total_limit", "async_save", "log_steps", "optimizer", "eval_samples", "eval_max_new_tokens",
        "attention", "flash_attention", "norms", "implementation", "cast_inputs", "loss", "compile",
        "gradient_as_bucket_view", "report_to",
    }  # fmt: skip
    if spec.training.early_stopping_patience is None:  # else it decides which adapter is kept
        may_change.add("eval_steps")
    flat: dict[str, Any] = {}
    for section in ("model", "lora", "data", "training"):
        for key, value in getattr(spec, section).model_dump().items():
            if key not in may_change:
                flat[f"{section}.{key}"] = value
    return flat
