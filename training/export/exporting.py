"""`muster export`: a directory that Transformers, PEFT and vLLM load as it is, and that was looked at before it got its
name."""

import gc
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from launch.errors import HostError, NumericalError, UsageError, WorkerError
from launch.model.files import directory_problems, find
from launch.model.weights import header, weight_files
from launch.plan.trained import Trained
from launch.rundir import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST
from launch.rundir.journal import new_directory
from launch.wording import first_line, plural
from training.checkpoint.checkpoints import check_directory
from training.checkpoint.manifest import described
from training.data.encoding.tokenizer import load_tokenizer
from training.export.card import model_card
from training.export.merge import merge
from training.model.loading import DTYPES, loadable
from training.model.soundness import TOLERANCE, distance
from training.original.importing import check_space

Tell = Callable[[str], None]
# What a base's directory has beside its weights that a merged model needs too.
BESIDE = ("config.json", "generation_config.json", "LICENSE*", "NOTICE*")
PROBES = 3  # sequences whose logits are compared
LENGTH = 48


def export_adapter(trained: Trained, out: Path, tell: Tell) -> None:
    """PEFT's two files with the tokenizer and a model card. Raises NumericalError for one that is not finite."""
    with safe_open(trained.adapter / ADAPTER_WEIGHTS, framework="pt") as opened:
        broken = [name for name in opened.keys() if not opened.get_tensor(name).isfinite().all()]  # noqa: SIM118
    if broken:
        raise NumericalError(f"{trained.adapter}: {plural(len(broken), 'tensor')} not finite, {broken[0]} first")
    with _made(trained, out, needed=0) as folder:
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(trained.adapter / name, folder / name)
        _finish(trained, folder, merged=False)
    tell(f"adapter of {trained.name} for {trained.base}")


def export_merged(trained: Trained, out: Path, precision: str | None, tell: Tell) -> None:
    """The base with the adapter in its weights: a model by itself. A quantised base is taken as it was before.

    Raises WorkerError when its logits are not those of base and adapter; nothing is left then.
    """
    disable_progress_bar()
    trained.check_base()
    name = loadable(trained.base, tell)
    base = find(name)
    problems = directory_problems(base) if base else [f"{name} is not on this machine: hf download {name}"]
    if base is None or problems:
        raise UsageError("\n".join(problems))
    dtype = DTYPES[precision] if precision else None
    with _made(trained, out, _needed(base, dtype)) as folder:
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
    the logits' standard deviation; and against half of what the adapter changes, unless that is lost in rounding
    itself: a merge that forgot the adapter would be as far away as that.
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
    rounding = TOLERANCE[kind] * spread
    allowed = min(rounding, max(change / 2, rounding / 5))
    if not off <= allowed:
        raise WorkerError(
            f"the merged model's logits are {off:.2e} from those of base and adapter, whose standard deviation is"
            f" {spread:.2e} (allowed {allowed:.2e}); it was not kept"
        )
    return (
        f"logits: {off / spread:.1e} of their standard deviation from base and adapter (allowed {allowed / spread:.0e})"
    )


def _needed(base: Path, dtype: torch.dtype | None) -> int:
    """Bytes of the base's weights, in another type if need be."""
    files = weight_files(base, original=False)
    if dtype is None:
        return sum(path.stat().st_size for path in files)
    return dtype.itemsize * sum(math.prod(shape) for path in files for shape in header(path)[0].values())


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    vocabulary = model.config.vocab_size
    ids = torch.arange(PROBES * LENGTH, device=model.device).reshape(PROBES, LENGTH) * 7919 % vocabulary
    logits: torch.Tensor = model(input_ids=ids).logits.float().cpu()
    return logits


@contextmanager
def _made(trained: Trained, out: Path, needed: int) -> Iterator[Path]:
    """The new directory. Raises UsageError for a place that is taken, HostError for a disk without room, and
    DamagedCheckpoint for an adapter that is not as it was written."""
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists already; choose another place")
    if out.is_relative_to(trained.adapter.resolve()):
        raise UsageError(f"--out {out}: lies in what is exported, {trained.adapter}; choose a place outside of it")
    if (trained.adapter / MANIFEST).is_file():
        check_directory(trained.adapter)
    check_space(out, needed)
    try:
        with new_directory(out) as folder:
            yield folder
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise HostError(f"--out {out}: could not be written: {reason}; nothing is left of it") from error


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
