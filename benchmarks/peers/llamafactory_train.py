"""LLaMA-Factory on a job of benchmarks/throughput.py: its measurements as JSON on the last line of stdout.

    python benchmarks/peers/llamafactory_train.py JOB.json

Its own `run_exp`, which `llamafactory-cli train` calls, with its own loader, packing, collator and trainer. Two things
are put in the place of its own, so that it trains the job: the base's weights are random, not read from a file, and
a row's text is its number, whose tokens and labels are the job's.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from llamafactory.data.processor import SupervisedDatasetProcessor
from llamafactory.train.tuner import run_exp
from transformers import AutoModelForCausalLM

from benchmarks.jobs import WARM_UP, Job, rows
from benchmarks.peers.side import Watch, attention, device, labels, tokenizer
from benchmarks.random_model import config_of, random_base


def main() -> None:
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    made, watch = rows(job), Watch(job)

    def base(*_: Any, config: Any, **__: Any) -> Any:
        torch.manual_seed(1)
        dtype = torch.bfloat16 if job.gpu else torch.float32
        return random_base(job.architecture, job.quantization, device(job), dtype, config._attn_implementation)

    def tokens(*_: Any, prompt: list[dict[str, str]], **__: Any) -> tuple[list[int], list[int]]:
        row = made[int(prompt[0]["content"])]
        return row.ids.tolist(), labels(row)

    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), job, len(made))
        with (
            patch.object(AutoModelForCausalLM, "from_pretrained", base),
            patch.object(SupervisedDatasetProcessor, "_encode_data_example", tokens),
        ):
            run_exp(_settings(job, Path(folder)), callbacks=[watch])
    print(json.dumps(asdict(watch.measured())))


def _write(folder: Path, job: Job, count: int) -> None:
    """What its loaders read: configuration, tokenizer, and rows in its default format."""
    config_of(job.architecture).save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    lines = [json.dumps({"instruction": str(number), "input": "", "output": ""}) for number in range(count)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.jsonl"}}))


def _settings(job: Job, folder: Path) -> dict[str, Any]:
    # It packs up to cutoff_len - 1 tokens, fills up to cutoff_len, and its collator pads to a multiple of 8, of which
    # positions that were packed know nothing: eight more than the longest row is the least that holds it.
    options: dict[str, Any] = {
        "cutoff_len": job.max_length + 8, "per_device_train_batch_size": 1,
        "flash_attn": attention(job, ("fa3", "fa2")), "gradient_accumulation_steps": job.accumulation,
        "disable_gradient_checkpointing": True, "optim": "adamw_torch_fused",
    }  # fmt: skip
    return {
        "stage": "sft", "do_train": True, "model_name_or_path": str(folder / "base"), "dataset": "rows",
        "dataset_dir": str(folder), "cache_dir": str(folder / "cache"), "overwrite_cache": True, "template": "empty",
        "finetuning_type": "lora", "lora_target": "all", "lora_rank": job.rank, "lora_alpha": 32, "lora_dropout": 0.0,
        "output_dir": str(folder / "out"), "max_steps": job.steps + WARM_UP, "learning_rate": 2e-4,
        "max_grad_norm": 0.3, "lr_scheduler_type": "constant", "logging_steps": 25 if job.gpu else 1,
        "logging_first_step": True, "save_strategy": "no", "report_to": "none", "use_cpu": not job.gpu,
        "bf16": job.gpu, "seed": 42, "disable_tqdm": True, **options, **job.settings,
    }  # fmt: skip


if __name__ == "__main__":
    main()
