"""An original Qwen checkpoint becomes a directory that transformers, vLLM and PEFT read as Qwen2."""

import errno
import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from launch.errors import HostError, UsageError
from launch.model.architecture import from_config
from launch.model.files import (
    CONFIG,
    directory_problems,
    find,
    hub_name,
    import_cache,
    is_original,
    read_config,
)
from launch.model.original import TOKENS, native_config
from launch.model.variants import VARIANTS, by_hub
from launch.model.weights import weight_files
from launch.rundir import MANIFEST
from launch.rundir.journal import new_directory
from launch.wording import amount, first_line
from training.checkpoint.manifest import described
from training.original.tokenizer import END_OF_TEXT, TURN_ENDS, original_tokenizer

GENERATION = "generation_config.json"
# What the original says in the same words as transformers.
SAMPLING = ("do_sample", "top_p", "top_k", "temperature", "repetition_penalty", "max_new_tokens")


def import_model(source: Path, out: Path, tell: Callable[[str], None] = lambda _: None) -> None:
    """Makes `out`, whole or not at all, from an original checkpoint. `tell` hears of each shard.

    manifest.json records SHA-256 and size of what was read and of what was written. Raises UsageError for a checkpoint
    that is incomplete or not an original one, HostError when the disk is too small.
    """
    if not source.is_dir():
        raise UsageError(f"{source}: no such directory; expected the files of an original Qwen checkpoint")
    if not is_original(source):
        found = read_config(source).get("model_type", "missing")
        raise UsageError(f"{source / CONFIG}: model_type is {found!r}; only 'qwen', the original layout, is imported")
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists already; choose another place")
    problems = directory_problems(source)
    if problems:
        raise UsageError("\n".join(problems))
    files = weight_files(source, original=True)
    check_space(out, sum(path.stat().st_size for path in files))
    try:
        with new_directory(out) as folder:
            _write(source, files, folder, tell)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise HostError(f"{out} could not be written: {reason}; nothing is left of it") from error


def native_directory(source: Path, tell: Callable[[str], None] = lambda _: None) -> Path:
    """The imported form of an original checkpoint, made in the cache at first use. Processes wait for one another."""
    out = import_cache(source)
    if not (out / MANIFEST).is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out.with_name(f"{out.name}.lock"), "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (out / MANIFEST).is_file():
                tell(f"importing {source} into {out}, once")
                import_model(source, out, tell)
    return out


def original_directory(variant: str, weights: bool) -> Path | None:
    """Where an original checkpoint's files are, fetched from the hub where the cache has them not; None for others.

    Python files are not among them. Raises UsageError when nothing can be fetched.
    """
    found, name = find(variant), hub_name(variant)
    released = VARIANTS.get(by_hub(variant) or variant)
    known = released is not None and released.original and not Path(name).is_dir()  # whatever of it the cache has yet
    if not known and not (found and is_original(found)):
        return None
    if found is None or (found != Path(name) and (directory_problems(found) if weights else not _has_tokens(found))):
        found = fetched(variant, weights)
    return found


def fetched(variant: str, weights: bool) -> Path:
    """The snapshot of a hub id, fetched; without Python files. Raises UsageError when it cannot be."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, tokens = hub_name(variant), [TOKENS, "*.txt", "*.model", "*.jinja"]
    patterns = ["*.json", "LICENSE*", "NOTICE*", *tokens, *(["*.safetensors"] if weights else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise HostError(f"{name}: could not be fetched: {error.strerror}; free space in the cache") from None
        reason = f"model.variant {variant}: could not be fetched: {first_line(error)}"
        raise UsageError(f"{reason}; on a machine with network: hf download {name}") from None


def _has_tokens(directory: Path) -> bool:
    return (directory / TOKENS).is_file()


def is_chat(source: Path) -> bool:
    """Whether an original checkpoint was taught to answer: its generation config then names the format of its turns."""
    return _generation(source).get("chat_format") == "chatml"


def _write(source: Path, files: list[Path], folder: Path, tell: Callable[[str], None]) -> None:
    from training.original.weights import convert

    config = native_config(read_config(source), str(source / CONFIG))
    chat = is_chat(source)
    tokenizer = original_tokenizer(source, chat)
    if len(tokenizer) > config["vocab_size"]:
        raise UsageError(
            f"{source / CONFIG}: vocab_size is {config['vocab_size']:,}, its tokenizer has {len(tokenizer):,} tokens"
        )
    tokenizer.save_pretrained(folder)
    dtype = convert(files, folder, from_config(config, str(source / CONFIG)), tell)
    config |= {"dtype": str(dtype).removeprefix("torch."), "eos_token_id": tokenizer.eos_token_id}
    config["pad_token_id"] = tokenizer.pad_token_id
    _write_json(folder / CONFIG, config)
    _write_json(folder / GENERATION, _native_generation(source, chat, tokenizer))
    for path in [*source.glob("LICENSE*"), *source.glob("NOTICE*")]:
        shutil.copyfile(path, folder / path.name)
    wrong = directory_problems(folder)
    if wrong:
        raise HostError("what was written is not whole: " + "; ".join(wrong))
    texts = [path for pattern in (GENERATION, "LICENSE*", "NOTICE*") for path in source.glob(pattern)]
    read = [*files, source / CONFIG, source / TOKENS, *texts]
    manifest = {"files": described(folder.iterdir()), "source": {"directory": str(source), "files": described(read)}}
    _write_json(folder / MANIFEST, manifest)


def _native_generation(source: Path, chat: bool, tokenizer: Any) -> dict[str, Any]:
    ends = (TURN_ENDS, END_OF_TEXT) if chat else (END_OF_TEXT,)
    given = _generation(source)
    return {
        "eos_token_id": [tokenizer.convert_tokens_to_ids(token) for token in ends],
        "pad_token_id": tokenizer.pad_token_id,
        **{key: given[key] for key in SAMPLING if key in given},
    }


def _generation(source: Path) -> dict[str, Any]:
    try:
        values = json.loads((source / GENERATION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def check_space(out: Path, needed: int) -> None:
    """Raises HostError when a directory of so many bytes does not fit where it is to be."""
    parent = next(path for path in out.resolve().parents if path.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise HostError(f"{parent}: {amount(free)} free, {amount(needed)} needed; choose another --out")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
