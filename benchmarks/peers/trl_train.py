"""TRL's SFTTrainer on a job of benchmarks/throughput.py: its measurements as JSON on the last line of stdout.

    python benchmarks/peers/trl_train.py JOB.json

Its own way in everything that is not the job: packing by best-fit decreasing without padding (documented as the
fastest), its fused output head and loss, which it always uses, fused AdamW, the newest attention that is installed. A
callback reads the clock; nothing else of it is touched.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.jobs import PAD, WARM_UP, Clock, Job, Measured, between, peak_bytes, rows
from benchmarks.random_model import random_base


class Watch(TrainerCallback):
    def __init__(self, gpu: bool) -> None:
        self.clock, self.losses = Clock(gpu), []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.tick()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def main() -> None:
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    device = torch.device("cuda" if job.gpu else "cpu")
    torch.manual_seed(1)
    attention = job.settings.pop("attention", "sdpa")
    base = random_base(
        job.architecture, job.quantization, device, torch.bfloat16 if job.gpu else torch.float32, attention
    )
    data = Dataset.from_list([{"input_ids": row.ids.tolist(), "labels": _labels(row)} for row in rows(job)])
    watch = Watch(job.gpu)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=base, args=_config(job, folder), train_dataset=data, processing_class=_tokenizer(),
            peft_config=LoraConfig(
                r=job.rank, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[watch],
        )  # fmt: skip
        counted = Counted(trainer.data_collator)
        trainer.data_collator = counted
        trainer.train()
    print(json.dumps(asdict(_measured(job, watch, counted, trainer.args.gradient_accumulation_steps))))


def _config(job: Job, folder: str) -> SFTConfig:
    options: dict[str, Any] = {
        "packing": True, "packing_strategy": "bfd", "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": job.accumulation, "gradient_checkpointing": False, "optim": "adamw_torch_fused",
    }  # fmt: skip
    return SFTConfig(
        output_dir=folder, max_length=job.max_length, max_steps=job.steps + WARM_UP, learning_rate=2e-4,
        max_grad_norm=0.3, lr_scheduler_type="constant",
        logging_steps=25 if job.gpu else 1, logging_first_step=True,
        save_strategy="no", report_to=[], use_cpu=not job.gpu, bf16=job.gpu, seed=42, disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": False}, **{**options, **job.settings},
    )  # fmt: skip


def _labels(row: Any) -> list[int]:
    return [-100] * row.trained_from + row.ids[row.trained_from :].tolist()


def _tokenizer() -> Any:
    """Never asked to read a text: the rows are tokens."""
    from tokenizers import Tokenizer, models

    inner = Tokenizer(models.WordLevel({f"t{number}": number for number in range(3)}, unk_token="t2"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="t0", eos_token="t1")


class Counted:
    """A collator that remembers how many tokens each micro-batch had, and how many places."""

    def __init__(self, inner: Any):
        self.inner, self.tokens, self.places = inner, [], []

    def __call__(self, features: Any) -> Any:
        batch = self.inner(features)
        self.tokens.append(sum(len(feature["input_ids"]) for feature in features))
        self.places.append(batch["input_ids"].numel())
        return batch


def _measured(job: Job, watch: Watch, counted: Counted, accumulation: int) -> Measured:
    def steps(of: list[int]) -> list[int]:
        sums = [sum(of[start : start + accumulation]) for start in range(0, len(of), accumulation)]
        return sums[WARM_UP : WARM_UP + job.steps]

    return Measured(
        between(watch.clock.wall), steps(counted.tokens), peak_bytes(job.gpu), watch.losses[0],
        between(watch.clock.own), sum(steps(counted.places)),
    )  # fmt: skip


if __name__ == "__main__":
    assert PAD == 0
    main()
