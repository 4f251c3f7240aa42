"""Sizes and SHA-256 of files, by name: what a directory's manifest.json says of it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def described(files: Iterable[Path]) -> dict[str, dict[str, str | int]]:
    """{name: {sha256, bytes}} of each file."""
    return {path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for path in sorted(files)}


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
