"""What LLaMA-Factory does with rows before it trains: seconds on the last line of stdout.

    python benchmarks/peers/llamafactory_data.py ROWS TOKENIZER MAX_LENGTH

Its own loader, on its documented settings: ChatML, loss on the answer, packing, two preprocessing workers.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from transformers import AutoTokenizer


def main() -> None:
    path, name, max_length = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(name)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(path, Path(folder, "rows.jsonl"))
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        entry = {"file_name": "rows.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
        Path(folder, "dataset_info.json").write_text(json.dumps({"rows": entry}))
        settings = {
            "model_name_or_path": name, "stage": "sft", "do_train": True, "finetuning_type": "lora", "dataset": "rows",
            "dataset_dir": folder, "template": "qwen", "cutoff_len": int(max_length), "packing": True,
            "preprocessing_num_workers": 2, "overwrite_cache": True, "output_dir": str(Path(folder, "out")),
            "use_cpu": True, "report_to": "none",
        }  # fmt: skip
        model_args, data_args, training_args, _, _ = get_train_args(settings)
        template = get_template_and_fix_tokenizer(tokenizer, data_args)
        began = time.perf_counter()
        made = get_dataset(template, model_args, data_args, training_args, stage="sft", tokenizer=tokenizer)
        seconds = time.perf_counter() - began
    assert len(made["train_dataset"]) > 0
    print(seconds)


if __name__ == "__main__":
    main()
