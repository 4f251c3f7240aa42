"""One training job that several programs run: the same shapes, the same rows, the same labels."""

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.model.architecture import Architecture, from_config
from launch.model.variants import VARIANTS

# Share of a row's tokens that is trained on, the last ones of it: answers of the shipped rows (characters of the file);
# texts whole; instructions and tool calls as their files' answers, by characters.
TRAINED = {
    "security-rag": 0.05, "built from a folder of documents": 1.0, "instructions (alpaca)": 0.6,
    "tool calls (sharegpt)": 0.3,
}  # fmt: skip
# For CPUs: wide enough that matrices, not Python, take the time; a vocabulary that is 24 times the width (42 in 7B).
SMALL = {
    "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 6144, "max_position_embeddings": 8192,
}  # fmt: skip
LIBRARIES = (
    "torch", "transformers", "peft", "accelerate", "bitsandbytes", "liger-kernel", "flash-attn", "trl", "llamafactory"
)  # fmt: skip
WARM_UP = 2
PAD = 0


@dataclass(frozen=True)
class Job:
    """What is trained, and how a muster run is set for it. Lengths in tokens."""

    model: str
    """`small`, or a variant's name."""
    gpu: bool
    quantization: str = "none"
    lengths: str = "mixture"
    """`mixture` as recorded, `rag` (rows with documents and a short answer), or `fixed`: all of max_length."""
    max_length: int = 4096
    accumulation: int = 4
    steps: int = 8
    rank: int = 16
    settings: dict[str, Any] = field(default_factory=dict)
    """Of a muster spec (`training.loss`), or a peer's own."""

    @property
    def architecture(self) -> Architecture:
        return from_config(SMALL, "small") if self.model == "small" else VARIANTS[self.model].architecture

    @property
    def sequences(self) -> int:
        """Full ones, of a whole run."""
        return self.accumulation * (self.steps + WARM_UP)


@dataclass(frozen=True)
class Row:
    ids: NDArray[np.int32]
    trained_from: int
    """Tokens from this one on carry a label."""


def rows(job: Job) -> list[Row]:
    """Random tokens; enough to fill the job's sequences. The same ones each time."""
    random = np.random.default_rng(7)
    wanted, found = job.sequences * job.max_length, []
    lengths = _lengths(job)
    order = random.permutation(len(lengths))
    while wanted > 0:
        length, share = lengths[order[len(found) % len(lengths)]]
        ids = random.integers(1, job.architecture.vocab_size, length, dtype=np.int32)
        found.append(Row(ids, max(1, round(length * (1 - share)))))
        wanted -= length
    return found


def _lengths(job: Job) -> Sequence[tuple[int, float]]:
    """(tokens, share that is trained on)."""
    if job.lengths == "fixed":
        return [(job.max_length, 1.0)]
    recorded = json.loads(Path(__file__).with_name("lengths.json").read_text())["lengths"]
    names = ["security-rag"] if job.lengths == "rag" else list(recorded)
    return [(min(length, job.max_length), TRAINED[name]) for name in names for length in recorded[name]]


@dataclass
class Measured:
    """What a program did with a job."""

    step_seconds: list[float]
    """Of each step after the warm-up."""
    step_tokens: list[int]
    """Of the same steps, padding left out."""
    peak_bytes: int
    """torch's peak on a GPU, the process's resident peak on a CPU."""
    first_loss: float
    cpu_seconds: list[float] = field(default_factory=list)
    """The process's own in the same steps: where others share the machine, what the work took."""
    computed_tokens: int = 0
    """Positions of the same steps that went through the model, padding included."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that it ran on; of a peer the attention, too, which is what is installed beside it."""

    @property
    def tokens_per_second(self) -> float:
        """The median step's: on a shared machine one step may wait for somebody else."""
        return statistics.median(t / s for t, s in zip(self.step_tokens, self.step_seconds, strict=True))

    @property
    def tokens_per_cpu_second(self) -> float:
        return sum(self.step_tokens) / sum(self.cpu_seconds)


@dataclass
class Clock:
    """When steps ended, by the wall and by the process's own seconds."""

    gpu: bool
    wall: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)

    def tick(self) -> None:
        import torch

        if self.gpu:
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter())
        self.own.append(time.process_time())


def between(times: list[float]) -> list[float]:
    """Seconds of each step after the warm-up, from the times at which steps ended."""
    return [later - earlier for earlier, later in zip(times[WARM_UP - 1 :], times[WARM_UP:], strict=False)]


def versions() -> dict[str, str]:
    """Of the libraries of this environment that training speed may depend on."""
    found = {}
    for package in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def peak_bytes(gpu: bool) -> int:
    import resource

    import torch

    return torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
