"""`muster export`: a directory that Transformers, PEFT and vLLM load as it is, and that was looked at before it got its
name."""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from launch.errors import HostError, UsageError, WorkerError
from launch.journal import new_directory
from launch.model_files import find
from launch.rundir import MANIFEST
from launch.trained import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Trained
from training.data.template import load_tokenizer
from training.export.card import model_card
from training.export.merge import merge
from training.manifest import described
from training.model import DTYPES, loadable
from training.soundness import TOLERANCE, distance

Tell = Callable[[str], None]
# What a base's directory has beside its weights that a merged model needs too.
BESIDE = ("config.json", "generation_config.json", "LICENSE*", "NOTICE*")
PROBES = 3  # sequences whose logits are compared
LENGTH = 48


def export_adapter(trained: Trained, out: Path, tell: Tell) -> None:
    """PEFT's two files with the tokenizer and a model card."""
    with _made(out) as folder:
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(trained.adapter / name, folder / name)
        _finish(trained, folder, merged=False)
    tell(f"adapter of {trained.name} for {trained.base}")


def export_merged(trained: Trained, out: Path, precision: str | None, tell: Tell) -> None:
    """The base with the adapter in its weights: a model by itself. A quantised base is taken as it was before.

    Raises WorkerError when its logits are not those of base and adapter; nothing is left then.
    """
    disable_progress_bar()
    name = loadable(trained.base, tell)
    base = find(name)
    if base is None:
        raise UsageError(f"{trained.base}: its files are not on this machine; fetch them first: hf download {name}")
    dtype = DTYPES[precision] if precision else None
    with _made(out) as folder:
        merge(trained, base, folder, dtype, tell)
        for pattern in BESIDE:
            for path in base.glob(pattern):
                shutil.copyfile(path, folder / path.name)
        if dtype is not None:
            _set_dtype(folder / "config.json", dtype)
        _finish(trained, folder, merged=True)
        tell(_compared(trained, base, folder, dtype))


def _compared(trained: Trained, base: Path, merged: Path, dtype: torch.dtype | None) -> str:
    """How far the merged model's logits are from those of base and adapter, in words.

    Rounding each merged weight to its type moves logits a little, so their distance (root mean square) is held against
    the logits' standard deviation, and against what the adapter changes: a merge that forgot it would be as far away.
    """
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype or "auto", trust_remote_code=False)
    adapted = PeftModel.from_pretrained(model, trained.adapter).eval()
    expected = _logits(adapted)
    with adapted.disable_adapter():
        plain = _logits(adapted)
    kind = model.dtype
    del model, adapted
    gc.collect()
    found = _logits(AutoModelForCausalLM.from_pretrained(merged, dtype=dtype or "auto", trust_remote_code=False).eval())
    spread, off, change = float(expected.std()), distance(found, expected), distance(plain, expected)
    allowed = TOLERANCE.get(kind, TOLERANCE[torch.float32]) * spread
    if not off <= allowed or (change > 2 * allowed and off > change / 2):
        raise WorkerError(
            f"the merged model's logits are {off:.2e} from those of base and adapter, whose standard deviation is"
            f" {spread:.2e} (allowed {allowed:.2e}); it was not kept"
        )
    return (
        f"logits: {off / spread:.1e} of their standard deviation from base and adapter (allowed {allowed / spread:.0e})"
    )


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    vocabulary = model.config.vocab_size
    ids = torch.arange(PROBES * LENGTH, device=model.device).reshape(PROBES, LENGTH) * 7919 % vocabulary
    logits: torch.Tensor = model(input_ids=ids).logits.float().cpu()
    return logits


def _made(out: Path) -> Any:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists already; choose another place")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"--out {out}: cannot be made: {error.strerror}") from None
    return new_directory(out)


def _finish(trained: Trained, folder: Path, merged: bool) -> None:
    """Tokenizer, card and manifest."""
    source = trained.adapter if (trained.adapter / "tokenizer.json").is_file() else None
    tokenizer = load_tokenizer(str(source) if source else trained.base)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(trained, merged), encoding="utf-8")
    manifest = {"files": described(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _set_dtype(config: Path, dtype: torch.dtype) -> None:
    values = json.loads(config.read_text(encoding="utf-8"))
    values.pop("torch_dtype", None)
    values["dtype"] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
