"""A checkpoint's weight files, judged by their headers: all there, whole, and of the shapes that config.json says.

Opens no tensor, so it takes milliseconds for any size.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

from launch.model.architecture import Architecture
from launch.model.original import native_names
from launch.wording import plural

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
LARGEST_HEADER = 100_000_000  # bytes; safetensors refuses larger ones

Shape = tuple[int, ...]


def weight_files(directory: Path, original: bool) -> list[Path]:
    """The files that hold the weights: safetensors; of an original checkpoint also pickles, where it has no others.

    Raises ValueError for an index that cannot be read.
    """
    kinds = ((SINGLE, INDEX), (PICKLE, PICKLE_INDEX)) if original else ((SINGLE, INDEX),)
    for single, index in kinds:
        if (directory / index).is_file():
            return [directory / name for name in _shards(directory / index)]
        if (directory / single).is_file():
            return [directory / single]
    return [directory / SINGLE]


def problems(directory: Path, architecture: Architecture | None, original: bool) -> list[str]:
    """What is missing or wrong, file by file; empty when the weights can be loaded."""
    try:
        files = weight_files(directory, original)
    except ValueError as error:
        return [str(error)]
    found: list[str] = []
    shapes: dict[str, Shape] = {}
    for path in files:
        if not path.is_file() or not path.stat().st_size:
            found.append(_missing(directory, path, original))
        elif path.suffix == ".bin":
            found += (
                [] if zipfile.is_zipfile(path) else [f"{path} is no torch file that can be read; download it again"]
            )
        else:
            more, damage = header(path)
            shapes |= more
            found += damage
    if found or not shapes or architecture is None:
        return found
    return _other_shapes(directory, shapes, expected(architecture, original))


def expected(architecture: Architecture, original: bool) -> dict[str, Shape]:
    """Shape of each tensor of a checkpoint of this architecture, by its name there."""
    native = architecture.tensors
    if not original:
        return native
    return {
        name: (sum(native[part][0] for part in parts), *native[parts[0]][1:])
        for name, parts in native_names(architecture.layers).items()
    }


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{index} cannot be read; download it again") from None


def _missing(directory: Path, path: Path, original: bool) -> str:
    if path.name != SINGLE:
        index = INDEX if path.suffix == ".safetensors" else PICKLE_INDEX
        return f"{path} is missing or empty, but {index} names it"
    others = sorted(other.name for other in directory.glob("*.bin"))
    hint = f"; {others[0]} is a pickle, which muster does not load: convert it to safetensors" if others else ""
    return f"{path} is missing or empty{'' if original else hint}"


def header(path: Path) -> tuple[dict[str, Shape], list[str]]:
    """The shapes in a safetensors file, and whether its size is right: 8 bytes, the header, the tensors."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(length, LARGEST_HEADER)))
            header.pop("__metadata__", None)
            shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
            ends = [entry["data_offsets"][1] for entry in header.values()]
            needed, size = 8 + length + max(ends, default=0), os.fstat(file.fileno()).st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}, [f"{path} is no safetensors file that can be read; download it again"]
    if size != needed:
        return shapes, [f"{path} has {size:,} bytes, its header says {needed:,}; download it again"]
    return shapes, []


def _other_shapes(directory: Path, shapes: dict[str, Shape], wanted: dict[str, Shape]) -> list[str]:
    found = []
    absent = [name for name in wanted if name not in shapes]
    if absent:
        found.append(f"{directory}: {plural(len(absent), 'tensor')} missing from the weights, {absent[0]} first")
    other = [name for name, shape in wanted.items() if name in shapes and shapes[name] != shape]
    if other:
        first = other[0]
        found.append(
            f"{directory}: the weights are not those of its config.json: {first} has {list(shapes[first])}, config.json"
            f" says {list(wanted[first])} ({plural(len(other), 'tensor')})"
        )
    return found
