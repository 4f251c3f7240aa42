"""A peer's side of benchmarks/throughput.py: its trainer is watched, and has to train the job and nothing else."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, TrainerCallback

from benchmarks.jobs import PAD, WARM_UP, Clock, Job, Measured, Row, between, peak_bytes, rows, versions
from launch.memory import adapter_of
from launch.spec import LoraSpec


class Watch(TrainerCallback):
    """The clock, the losses, and how much went through the model in each optimizer step.

    Counted where the model is called: a trainer may fetch batches early, and end an epoch with a step of fewer ones.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.clock, self.losses = job, Clock(job.gpu), []
        self.batches, self.tokens, self.places = [], [], []
        self.attention = ""

    def on_train_begin(self, *_: Any, model: Any, train_dataloader: Any, **__: Any) -> None:
        same_rows(self.job, train_dataloader.dataset)
        pairs = adapter_of(self.job.architecture, LoraSpec(rank=self.job.rank)).pairs
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trained == pairs, f"{trained} parameters are trained, LoRA of all linear layers has {pairs}"
        self.attention = model.config._attn_implementation
        model.register_forward_pre_hook(self._saw, with_kwargs=True)

    def _saw(self, _: Any, __: Any, kwargs: Any) -> None:
        self.batches.append(kwargs["input_ids"])

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.tick()
        self.tokens.append(sum(int((ids != PAD).sum()) for ids in self.batches))
        self.places.append(sum(ids.numel() for ids in self.batches))
        self.batches.clear()

    def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def measured(self) -> Measured:
        return Measured(
            between(self.clock.wall), self.tokens[WARM_UP:], peak_bytes(self.job.gpu), self.losses[0],
            between(self.clock.own), sum(self.places[WARM_UP:]), {**versions(), "attention": self.attention},
        )  # fmt: skip


def same_rows(job: Job, dataset: Any) -> None:
    """AssertionError unless the documents that a trainer holds are the job's rows, each whole and with its labels."""
    wanted = Counter((row.ids.tobytes(), np.array(labels(row), dtype=np.int32).tobytes()) for row in rows(job))
    held = Counter(document for example in dataset for document in _documents(example))
    missing, strange = (wanted - held).total(), (held - wanted).total()
    assert held == wanted, f"of {wanted.total()} rows {missing} are missing or changed; {strange} are not the job's"


def _documents(example: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """(tokens, labels) of each in a sequence. TRL keeps their lengths; LLaMA-Factory's mask numbers them from 1."""
    ids, marks = (np.asarray(example[name], dtype=np.int32) for name in ("input_ids", "labels"))
    if lengths := example.get("seq_lengths"):
        mask = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    else:
        mask = np.asarray(example.get("attention_mask", np.ones(len(ids), dtype=int)))
    for number in range(1, mask.max() + 1):
        yield ids[mask == number].tobytes(), marks[mask == number].tobytes()


def labels(row: Row) -> list[int]:
    """None (-100) before the first token that is trained on."""
    return [-100] * row.trained_from + row.ids[row.trained_from :].tolist()


def tokenizer() -> PreTrainedTokenizerFast:
    """Never asked to read a text: the rows are tokens."""
    from tokenizers import Tokenizer, models

    inner = Tokenizer(models.WordLevel({f"t{number}": number for number in range(3)}, unk_token="t2"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=f"t{PAD}", eos_token="t1", unk_token="t2")


def attention(job: Job, names: tuple[str, str]) -> str:
    """The newest that is installed beside the peer. `names` are its words for FlashAttention-3 and 2.

    Packed rows are what both document FlashAttention for: under SDPA they cost a mask.
    """
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    if job.gpu and torch.cuda.get_device_capability()[0] == 9 and is_flash_attn_3_available():
        return names[0]
    return names[1] if job.gpu and is_flash_attn_2_available() else "sdpa"


def device(job: Job) -> torch.device:
    return torch.device("cuda" if job.gpu else "cpu")
