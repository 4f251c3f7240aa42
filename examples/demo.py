"""make demo: a small base, a run of examples/demo.yaml, and what the adapter changed.

    python examples/demo.py

The base is made on the spot (build/tiny-base) from the documents of examples/security-rag that are trained on; the
evaluation questions are about documents that neither the base nor the adapter has seen.
"""

import json
import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BASE, RUN = ROOT / "build/tiny-base", ROOT / "runs/demo"
QUESTION = "sc-vendor-risk-q1"


def main() -> None:
    subprocess.run([sys.executable, ROOT / "examples/tiny_base.py", BASE], check=True)
    shutil.rmtree(RUN, ignore_errors=True)  # the demo's own; a run of yours is never removed
    done = subprocess.run(
        [sys.executable, "-m", "launch", "run", ROOT / "examples/demo.yaml", "--run-dir", RUN], cwd=ROOT
    )
    if done.returncode:
        sys.exit(done.returncode)
    evaluations = [row["eval_loss"] for row in map(json.loads, (RUN / "metrics.jsonl").open()) if "eval_loss" in row]
    before, after = evaluations[0], evaluations[-1]
    print(
        f"\nevaluation loss on unseen documents: {before:.3f} before, {after:.3f} after ("
        f"{100 * (after / before - 1):+.0f} %)",
        flush=True,
    )
    show_answers()
    print(f"\nrun directory: {RUN.relative_to(ROOT)} (adapter, metrics, ledger of samples, logs)")


def show_answers() -> None:
    """One evaluation question, answered by the base alone and with the adapter."""
    logging.disable(logging.WARNING)  # libraries' notes on optional kernels
    warnings.simplefilter("ignore")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from training.data.rows.formats import to_sample
    from training.data.rows.sources import rows_of

    disable_progress_bar()
    file = str(ROOT / "examples/security-rag/eval.jsonl")
    samples = (to_sample(row.read(), file, row.line, "rag", {}) for row in rows_of(file))
    *messages, reference = next(sample for sample in samples if sample.id == QUESTION).conversation
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), RUN / "adapter").eval()
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    def answer() -> str:
        with torch.no_grad():
            tokens = model.generate(
                **inputs,
                max_new_tokens=60,
                do_sample=False,
                no_repeat_ngram_size=3,
                pad_token_id=tokenizer.pad_token_id,
            )
        return str(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    print(f"\nquestion:  {messages[-1]['content'].rsplit('Question: ', 1)[1]}")
    print(f"reference: {reference['content']}")
    with model.disable_adapter():
        print(f"before:    {answer()}")
    print(f"after:     {answer()}", flush=True)
    print("(Two million parameters learn the form of an answer in a minute, to cite and to stop; not its content.)")


if __name__ == "__main__":
    main()
