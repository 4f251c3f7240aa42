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
from trl import SFTConfig, SFTTrainer

from benchmarks.jobs import WARM_UP, Job, rows
from benchmarks.peers.side import Watch, attention, device, labels, tokenizer
from benchmarks.random_model import random_base


def main() -> None:
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    torch.manual_seed(1)
    chosen = job.settings.pop("attention", None) or attention(job, ("flash_attention_3", "flash_attention_2"))
    dtype = torch.bfloat16 if job.gpu else torch.float32
    base = random_base(job.architecture, job.quantization, device(job), dtype, chosen)
    data = Dataset.from_list([{"input_ids": row.ids.tolist(), "labels": labels(row)} for row in rows(job)])
    watch = Watch(job)
    with tempfile.TemporaryDirectory() as folder:
        SFTTrainer(
            model=base, args=_config(job, folder), train_dataset=data, processing_class=tokenizer(),
            peft_config=LoraConfig(
                r=job.rank, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[watch],
        ).train()  # fmt: skip
    print(json.dumps(asdict(watch.measured())))


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


if __name__ == "__main__":
    main()
