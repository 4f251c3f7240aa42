"""Where a model's files are, what config.json says, and which files are missing. Opens no weights."""

import difflib
import hashlib
import json
import os
from pathlib import Path

from launch.architecture import ORIGINAL_LAYOUT, VARIANTS, Architecture, from_config
from launch.errors import ConflictError, UsageError
from launch.specfile import looks_like_path

INDEX = "model.safetensors.index.json"
LARGEST_HEADER = 100_000_000  # bytes; safetensors refuses larger ones
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")


def read_architecture(variant: str) -> Architecture:
    """A known variant's shapes, or those of a local or cached config.json.

    Raises UsageError for an unknown variant, a directory without config.json, or an architecture that muster does not
    train.
    """
    if variant in VARIANTS:
        return VARIANTS[variant][1]
    directory = find(variant)
    if directory is None:
        raise ConflictError([(("model", "variant"), f"model.variant {variant}: {_why_unknown(variant)}")])
    config = directory / "config.json"
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
    return from_config(values, str(config))


def _why_unknown(variant: str) -> str:
    if looks_like_path(variant):
        return "no such directory"
    if "/" in variant:
        return f"not a directory, and not in the Hugging Face cache; download it first: hf download {variant}"
    near = difflib.get_close_matches(variant.lower(), VARIANTS, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown.{hint} Allowed: a local directory, a hub id (owner/name), or {', '.join(VARIANTS)}"


def find(variant: str) -> Path | None:
    """The directory of a variant's files: local, or the Hugging Face cache's newest snapshot; None without either."""
    name = hub_name(variant)
    if os.path.isdir(name):  # a name too long for a path is no directory, where Path.is_dir() raises
        return Path(name)
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"), "hub"
    )
    snapshots = Path(cache, f"models--{name.replace('/', '--')}", "snapshots")
    found = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True) if "/" in name else []
    return found[0] if found else None


def hub_name(variant: str) -> str:
    """A known variant's hub id; a path or a hub id as it is."""
    return VARIANTS[variant][0] if variant in VARIANTS else variant


def problems(variant: str) -> list[str]:
    """What is missing or unusable in a variant's files, file by file; empty when it can be loaded."""
    if variant in ORIGINAL_LAYOUT:
        successor = variant.replace("qwen-", "qwen1.5-")
        return [
            f"{variant} is in the original layout, whose code comes with the weights; muster never runs such code."
            f" Use its successor {successor}"
        ]
    name, directory = hub_name(variant), find(variant)
    if not os.path.isdir(name) and not _offline():
        return []  # loading fetches what the cache has not
    if directory is None:
        return [
            f"{name} is not in the Hugging Face cache and HF_HUB_OFFLINE is set;"
            f" on a machine with network: hf download {name}"
        ]
    found = [f"{directory / 'config.json'} is missing"] if not (directory / "config.json").is_file() else []
    found += _weights(directory)
    if not any((directory / name).is_file() for name in TOKENIZERS):
        found.append(f"{directory}: no tokenizer ({', '.join(TOKENIZERS)})")
    return found + _chat_template(directory)


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def weights_identity(variant: str) -> str:
    """A digest that changes with a model's config or weights.

    Only their first and last MiB are read: all of 30 GB would take minutes.
    """
    directory = find(variant)
    digest = hashlib.sha256(hub_name(variant).encode() if directory is None else b"")
    for path in sorted([*directory.glob("*.safetensors"), directory / "config.json"]) if directory else []:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{path.name} {size}".encode() + file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:20]


def _weights(directory: Path) -> list[str]:
    index = directory / INDEX
    if not index.is_file():
        single = directory / "model.safetensors"
        if single.is_file() and single.stat().st_size:
            return _cut_short(single)
        others = sorted(path.name for path in directory.glob("*.bin"))
        hint = f"; {others[0]} is a pickle, which muster does not load: convert it to safetensors" if others else ""
        return [f"{single} is missing or empty{hint}"]
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return [f"{index} cannot be read; download it again"]
    found: list[str] = []
    for path in (directory / shard for shard in shards):
        if path.is_file() and path.stat().st_size:
            found += _cut_short(path)
        else:
            found.append(f"{path} is missing or empty, but {INDEX} names it")
    return found


def _cut_short(path: Path) -> list[str]:
    """Whether a safetensors file has the size that its header tells: 8 bytes, the header, then the tensors."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, LARGEST_HEADER)))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected, size = 8 + length + max(ends, default=0), os.fstat(file.fileno()).st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return [f"{path} is no safetensors file that can be read; download it again"]
    if size != expected:
        return [f"{path} has {size:,} bytes, its header says {expected:,}; download it again"]
    return []


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
