"""What TRL's SFTTrainer does with rows before it trains: seconds on the last line of stdout.

    python benchmarks/peers/trl_data.py ROWS TOKENIZER MAX_LENGTH

Its own method, on its documented settings: prompt and completion, so that the loss is on the answer, packing by
best-fit decreasing, two processes. A tiny model is made for the trainer to hold; it is not used.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer


def main() -> None:
    path, name, max_length = sys.argv[1:]
    rows = [json.loads(line)["messages"] for line in Path(path).read_text().splitlines()]
    data = Dataset.from_list([{"prompt": messages[:-1], "completion": messages[-1:]} for messages in rows])
    tokenizer = AutoTokenizer.from_pretrained(name)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, **sizes))
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(
            output_dir=folder, max_length=int(max_length), packing=True, packing_strategy="bfd", dataset_num_proc=2,
            use_cpu=True, report_to=[],
        )  # fmt: skip
        trainer = SFTTrainer(model=model, args=args, train_dataset=data.select(range(8)), processing_class=tokenizer)
        began = time.perf_counter()
        packed = trainer._prepare_dataset(data, tokenizer, args, True, None, "train")
        seconds = time.perf_counter() - began
    assert len(packed) < len(data)
    print(seconds)


if __name__ == "__main__":
    main()
