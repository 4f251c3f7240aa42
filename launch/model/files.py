"""Where a model's files are, what config.json says, and which of them are missing or wrong. Opens no weights."""

import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from launch.errors import ConflictError, UsageError
from launch.model import weights
from launch.model.architecture import Architecture, from_config
from launch.model.original import TOKENS
from launch.model.variants import VARIANTS, by_hub
from launch.spec.file import looks_like_path

CONFIG = "config.json"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")


def read_architecture(variant: str) -> Architecture:
    """A known variant's shapes, by its name or, where it is not on this machine, by its hub id; or those of a local or
    cached config.json.

    Raises UsageError for an unknown variant, a directory without config.json, or an architecture that muster does not
    train.
    """
    if variant in VARIANTS:
        return VARIANTS[variant].architecture
    directory = find(variant)
    if directory is None and (known := by_hub(variant)) is not None:
        return VARIANTS[known].architecture
    if directory is None:
        raise ConflictError([(("model", "variant"), f"model.variant {variant}: {_why_unknown(variant)}")])
    return from_config(read_config(directory), str(directory / CONFIG))


def read_config(directory: Path) -> dict[str, Any]:
    """A model directory's config.json. Raises UsageError when there is none, or no JSON object in it."""
    config = directory / CONFIG
    if config.exists() and not config.is_file():  # a pipe would be waited for
        raise UsageError(f"{config}: is no file")
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{config}: no such file; a model directory holds config.json, *.safetensors and a tokenizer"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{config}: cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{config}: is not a JSON object")
    return values


def is_original(directory: Path) -> bool:
    """Whether a directory holds a checkpoint in the layout of the original Qwen, which has to be imported."""
    try:
        return read_config(directory).get("model_type") == "qwen"
    except UsageError:
        return False


def _why_unknown(variant: str) -> str:
    if looks_like_path(variant):
        return "no such directory"
    if "/" in variant:
        return f"not a directory, and not in the Hugging Face cache; download it first: hf download {variant}"
    near = difflib.get_close_matches(variant.lower(), VARIANTS, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown.{hint} Allowed: a local directory, a hub id (owner/name), or {', '.join(VARIANTS)}"


def find(variant: str) -> Path | None:
    """The directory of a variant's files: local, or the snapshot of `main` in the Hugging Face cache, which
    transformers loads. None without either."""
    name = hub_name(variant)
    if os.path.isdir(name):  # a name too long for a path is no directory, where Path.is_dir() raises
        return Path(name)
    if "/" not in name:
        return None
    repository = Path(_hub_cache(), f"models--{name.replace('/', '--')}")
    try:
        commit = (repository / "refs/main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def hub_name(variant: str) -> str:
    """A known variant's hub id; a path or a hub id as it is."""
    return VARIANTS[variant].hub if variant in VARIANTS else variant


def problems(variant: str) -> list[str]:
    """What is missing or unusable in a variant's files, file by file; empty when it can be loaded."""
    name, directory = hub_name(variant), find(variant)
    if not os.path.isdir(name) and not offline():
        return []  # loading fetches what the cache has not
    if directory is None:
        return [
            f"{name} is not in the Hugging Face cache and HF_HUB_OFFLINE is set;"
            f" on a machine with network: hf download {name}"
        ]
    return directory_problems(directory)


def directory_problems(directory: Path) -> list[str]:
    """As `problems`, for a directory of files."""
    original = is_original(directory)
    found = [f"{directory / CONFIG} is missing"] if not (directory / CONFIG).is_file() else []
    try:
        architecture = from_config(read_config(directory), str(directory / CONFIG))
    except UsageError as error:
        architecture = None
        found += [] if found else [str(error)]
    found += weights.problems(directory, architecture, original)
    if original:
        return found + ([] if (directory / TOKENS).is_file() else [f"{directory / TOKENS} is missing"])
    if not any((directory / name).is_file() for name in TOKENIZERS):
        found.append(f"{directory}: no tokenizer ({', '.join(TOKENIZERS)})")
    return found + _chat_template(directory)


def offline() -> bool:
    """Whether huggingface_hub or transformers was told to fetch nothing."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE)


def import_cache(directory: Path) -> Path:
    """Where the imported form of an original checkpoint is kept: beside the Hugging Face cache, by name and content."""
    root = directory.resolve()
    name = root.parent.parent.name.removeprefix("models--") if root.parent.name == "snapshots" else root.name
    return Path(_hf_home(), "muster", f"{name}-{weights_identity(str(directory))}")


def caches() -> list[Path]:
    """Folders of what was fetched from the Hugging Face hub, there or not."""
    return [Path(_hf_home()), Path(_hub_cache())]


def _hf_home() -> str:
    """As huggingface_hub.constants finds it, whose import would take longer than all of `muster plan` may."""
    shared = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return _expanded(os.environ.get("HF_HOME", os.path.join(shared, "huggingface")))


def _hub_cache() -> str:
    older = os.environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(_hf_home(), "hub"))
    return _expanded(os.environ.get("HF_HUB_CACHE", older))


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def weights_identity(variant: str) -> str:
    """A digest that changes with a model's config or weights.

    Only their first and last MiB are read: all of 30 GB would take minutes.
    """
    directory = find(variant)
    digest = hashlib.sha256(hub_name(variant).encode() if directory is None else b"")
    patterns = ("*.safetensors", "*.bin", CONFIG)
    for path in sorted(path for pattern in patterns for path in directory.glob(pattern)) if directory else []:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{path.name} {size}".encode() + file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:20]


def _chat_template(directory: Path) -> list[str]:
    """A model without a chat template is a base model, which nobody has taught to answer."""
    if (directory / "chat_template.jinja").is_file() or (directory / "chat_template.json").is_file():
        return []
    try:
        config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if isinstance(config, dict) and config.get("chat_template"):
        return []
    return [f"{directory}: its tokenizer has no chat template; use the instruct or chat variant"]
