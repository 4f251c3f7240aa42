"""Shards of an original checkpoint -> shards under Qwen2's names, one at a time."""

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from launch.errors import UsageError
from launch.model.architecture import Architecture
from launch.model.original import native_names
from launch.model.weights import INDEX, SINGLE, Shape, expected
from launch.wording import first_line

# Constants that early revisions saved among the weights.
BUFFERS = ("attn.masked_bias", "attn.bias", "rotary_emb.inv_freq")


def convert(files: list[Path], out: Path, architecture: Architecture, tell: Callable[[str], None]) -> torch.dtype:
    """Writes each shard's tensors under their native names, and the index; returns their type.

    Needs the memory of one shard, and that of the file that is read. Raises UsageError for a tensor that is unknown,
    missing, or of another shape than config.json says.
    """
    wanted = expected(architecture, original=True)
    names = native_names(architecture.layers)
    weight_map: dict[str, str] = {}
    types: set[torch.dtype] = set()
    for number, source in enumerate(files, start=1):
        name = SINGLE if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for key, tensor in _read(source):
            if key in names:
                _check(source, key, tuple(tensor.shape), wanted.pop(key, None))
                tensors |= _divided(tensor, names[key])
                types.add(tensor.dtype)
            elif not key.endswith(BUFFERS):
                raise UsageError(f"{source}: tensor {key!r} is none of the original Qwen's; nothing was imported")
        weight_map |= dict.fromkeys(tensors, name)
        save_file(tensors, out / name, metadata={"format": "pt"})
        tell(f"{source.name}: {len(tensors)} tensors")
    if wanted:
        raise UsageError(f"{files[0].parent}: {len(wanted)} tensors are in no file, {next(iter(wanted))} first")
    if len(types) != 1:
        raise UsageError(f"{files[0].parent}: its tensors are of several types: {sorted(map(str, types))}")
    if len(files) > 1:
        size = sum((out / name).stat().st_size for name in set(weight_map.values()))
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (out / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")
    return types.pop()


def _divided(tensor: torch.Tensor, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The native tensors that one of the original holds one behind the other."""
    if len(names) == 1:
        return {names[0]: tensor.contiguous()}
    return {name: part.clone() for name, part in zip(names, tensor.chunk(len(names)), strict=True)}


def _check(source: Path, key: str, shape: Shape, wanted: Shape | None) -> None:
    if wanted is None:
        raise UsageError(f"{source}: tensor {key!r} was in an earlier file too; nothing was imported")
    if shape != wanted:
        raise UsageError(f"{source}: {key} has {list(shape)}, config.json says {list(wanted)}; nothing was imported")


def _read(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor of a file, mapped from disk. A pickle is read by torch's own reader, which builds tensors alone."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - is no dict
                    yield key, file.get_tensor(key)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
                raise UsageError(f"{path}: holds no dictionary of tensors by name; download it again")
            yield from tensors.items()
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path}: holds more than tensors, and loading it would run code: {first_line(error)}"
        ) from None
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UsageError(f"{path}: cannot be read: {first_line(error)}; download it again") from None
