"""YAML text -> RunSpec, with every mistake at its file:line:column, all in one go."""

import ast
import difflib
import glob
import importlib.metadata
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launch.errors import Mistake, SpecError, UsageError
from launch.mounts import refuse_hung
from launch.spec.contradictions import contradictions
from launch.spec.explain import describe, explain, shown, spec_path
from launch.spec.extra import not_allowed, refused
from launch.spec.located import Located, locate
from launch.spec.runspec import KeyPath, RunSpec
from launch.spec.site import PATHS, read_site, site_file, with_defaults
from launch.spec.site import absolute as from_folder
from launch.spec.slurm import is_file

# Of data files, also when compressed. What ends otherwise and has the form owner/name is a data set of the hub.
DATA_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".gz", ".zst")


@dataclass
class Draft:
    """A spec file as far as it could be read: `spec` is without what is wrong, None where nothing is left."""

    located: Located
    spec: RunSpec | None
    dropped: set[KeyPath]
    mistakes: list[Mistake]
    base: str = "the spec's folder"
    """Where relative paths start, in words."""

    def placed(self, problems: list[tuple[KeyPath, str]]) -> list[Mistake]:
        """Problems with their places, but for those about a dropped value: they would be about its default."""
        hidden = {".".join(path) for path in self.dropped}
        dotted = [re.escape(name) for name in hidden if "." in name]
        names = re.compile("|".join(rf"(?<![\w.]){name}(?![\w.])" for name in dotted) or "(?!)")
        return [
            Mistake(*self.located.at(path), message)
            for path, message in problems
            if ".".join(path) not in hidden and not names.search(message)
        ]


def draft(path: str | Path, overrides: list[str]) -> Draft:
    """Reads a spec file and applies `key.path=value` overrides; below both are the defaults of the site's file.

    Relative paths in a file start at its folder, those of a pipe where the command was started. Raises UsageError when
    there is no such file, SpecError when it is no YAML mapping, PreflightError where it, or something that it names, is
    on a file system that hangs.
    """
    file = Path(path)
    refuse_hung({"the spec": file.absolute()})
    try:
        piped = file.exists() and not file.is_file()
        text = _of_pipe(file) if piped else file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = [p.name for p in sorted(file.parent.glob("*.y*ml"))] if file.parent.is_dir() else []
        hint = f"; specs in {file.parent}: {', '.join(near)}" if near else ""
        raise UsageError(f"{path}: no such spec file{hint}") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder; name the spec file in it") from None
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links; bytes that are no text
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    place = site_file()
    found = _draft(text, str(path), overrides, read_site(place) if place else None)
    if piped:
        found.base = "the working directory"
    if found.spec is not None:
        refuse_hung(_places(found.spec, folder := Path.cwd() if piped else file.resolve().parent))
        found.spec = _from_folder(found.spec, folder)
        found.mistakes += found.placed(_unusable_paths(found.spec))
    return found


@cache
def _of_pipe(file: Path) -> str:
    """A pipe gives its text once, and a command asks for its spec more than once."""
    return file.read_text(encoding="utf-8")


def _places(spec: RunSpec, folder: Path) -> dict[str, str]:
    """What the spec names, as paths if they are paths; a hub id is looked for beside the spec, where nothing is."""
    named = {
        "model.variant": spec.model.variant, "data.train": spec.data.train, "data.eval": spec.data.eval,
        "lora.adapter": spec.lora.adapter, **{f"slurm.{key}": getattr(spec.slurm, key) for key in PATHS},
        "slurm.container.image": spec.slurm.container.image,
    }  # fmt: skip
    return {key: os.path.join(folder, os.path.expanduser(value)) for key, value in named.items() if value}


def read_spec(path: str | Path, overrides: list[str] | None = None) -> RunSpec:
    """As `draft`, of a spec without mistakes. Raises SpecError with all of them."""
    return _without_mistakes(draft(path, overrides or []))


def parse_spec(text: str, origin: str, overrides: list[str] | None = None) -> RunSpec:
    """YAML text and overrides to a RunSpec. Paths in it are left as they stand. Raises SpecError."""
    return _without_mistakes(_draft(text, origin, overrides or []))


def _draft(text: str, origin: str, overrides: list[str], site: Located | None = None) -> Draft:
    located = locate(text, origin, overrides)
    if site is not None:
        with_defaults(located, site)
    found = Draft(located, *_validate(located))
    if found.spec is not None:
        found.mistakes += _contradictions(found)
        found.mistakes += _wrong_extra(located, found.spec)
    found.mistakes = _one_a_path(found.mistakes)
    return found


def _without_mistakes(found: Draft) -> RunSpec:
    if found.mistakes:
        raise SpecError(found.mistakes)
    assert found.spec is not None
    return found.spec


def missing_data(found: Draft, spec: RunSpec) -> list[Mistake]:
    """The data files that a spec names and that are not there, each at its place in the spec."""
    problems: list[tuple[KeyPath, str]] = []
    for key in ("train", "eval"):
        source = getattr(spec.data, key)
        if source and not _is_there(source):
            message = f"data.{key}: {source}: no such data file; a relative path starts at {found.base}"
            problems.append((("data", key), message))
    return found.placed(problems)


def _is_there(source: str) -> bool:
    return os.path.exists(source) or is_hub_data(source) or bool(glob.glob(source, recursive=True))


def is_hub_data(source: str) -> bool:
    """Whether a data source names a data set of the hub: `owner/name` or `owner/name:split`, and no file."""
    name = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(?::[\w.-]+)?", source)
    return bool(name) and not source.lower().endswith(DATA_ENDINGS) and not os.path.exists(source)


def _validate(located: Located) -> tuple[RunSpec | None, set[KeyPath], list[Mistake]]:
    """The spec without the values that are wrong, the paths of these, and the mistakes in them.

    Judged again without what was wrong, so that one mistake does not hide a contradiction elsewhere. None where what is
    wrong cannot be left out.
    """
    values, dropped, mistakes = located.values, set(located.unreadable), list(located.mistakes)
    while True:
        try:
            return RunSpec.model_validate(values), dropped, mistakes
        except ValidationError as error:
            problems = [(spec_path(problem["loc"]), dict(problem)) for problem in error.errors()]
        mistakes += [explain(located, path, problem) for path, problem in problems if path not in dropped]
        paths = {path for path, _ in problems}
        if paths <= dropped:
            return None, dropped, mistakes
        dropped |= paths
        values = _with_stand_ins(_without(values, dropped), dropped)


def _contradictions(found: Draft) -> list[Mistake]:
    """What cannot both hold."""
    assert found.spec is not None
    return found.placed([(path, f"{'.'.join(path)}: {message}") for path, message in contradictions(found.spec)])


def _unusable_paths(spec: RunSpec) -> list[tuple[KeyPath, str]]:
    """Names that no file can have; later they would break whatever looks for them."""
    given = {
        ("data", "train"): spec.data.train,
        ("data", "eval"): spec.data.eval or "",
        ("model", "variant"): spec.model.variant,
    }
    found: list[tuple[KeyPath, str]] = []
    for keys, value in given.items():
        try:
            Path(value).stat()
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
                reason = getattr(error, "strerror", None) or error
                found.append((keys, f"{'.'.join(keys)}: no file can be called so: {reason}"))
    return found


def _one_a_path(mistakes: list[Mistake]) -> list[Mistake]:
    """One mistake for each key: a union's members would each tell theirs."""
    first: dict[tuple[str, int, int, str], Mistake] = {}
    for mistake in mistakes:
        first.setdefault((mistake.origin, mistake.line, mistake.column, mistake.message.split(": ")[0]), mistake)
    return list(first.values())


def _without(values: Any, dropped: set[KeyPath], path: KeyPath = ()) -> Any:
    if not isinstance(values, dict):
        return values
    kept = {key: value for key, value in values.items() if (*path, key) not in dropped}
    return {key: _without(value, dropped, (*path, key)) for key, value in kept.items()}


# For what a spec must give: judged with these in their places, one that is missing hides no other mistake.
_STAND_INS: dict[KeyPath, str] = {
    ("name",): "unnamed",
    ("model", "variant"): "qwen2.5-7b-instruct",
    ("data", "train"): "train.jsonl",
}


def _with_stand_ins(values: Any, dropped: set[KeyPath]) -> Any:
    """The values, complete; `dropped` then names what was put in, so that nobody is told about it."""
    if not isinstance(values, dict):
        return values
    filled = dict(values)
    for path, value in _STAND_INS.items():
        if path in dropped or path[:1] in dropped:
            dropped.add(path)
            if len(path) == 1:
                filled[path[0]] = value
            else:
                filled[path[0]] = {**(filled.get(path[0]) or {}), path[1]: value}
    return filled


def _from_folder(spec: RunSpec, folder: Path) -> RunSpec:
    """Relative paths start at the spec's folder, so that a spec means the same wherever it is run from."""

    def absolute(value: str) -> str:
        return os.path.normpath(os.path.join(folder, os.path.expanduser(value)))

    def source(value: str) -> str:
        there = os.path.exists(folder / value) or os.path.isdir((folder / value).parent)  # mistyped is no hub id
        return absolute(value) if there or not is_hub_data(value) else value

    data = spec.data.model_copy(
        update={"train": source(spec.data.train), "eval": source(spec.data.eval) if spec.data.eval else None}
    )
    model = spec.model
    lora = spec.lora
    if lora.adapter is not None:
        lora = lora.model_copy(update={"adapter": absolute(lora.adapter)})
    if looks_like_path(model.variant) or os.path.isdir(folder / model.variant):
        model = model.model_copy(update={"variant": absolute(model.variant)})
    paths = {key: getattr(spec.slurm, key) for key in PATHS}
    slurm: dict[str, Any] = {key: from_folder(value, folder) for key, value in paths.items() if value is not None}
    container = spec.slurm.container
    if container.image is not None and is_file(container.image):
        slurm["container"] = container.model_copy(update={"image": absolute(container.image)})
    changed = {"data": data, "model": model, "lora": lora, "slurm": spec.slurm.model_copy(update=slurm)}
    return spec.model_copy(update=changed)


def looks_like_path(variant: str) -> bool:
    """Whether a variant can only be a directory. A hub id is `owner/name`, without a leading dot or slash."""
    return variant.startswith((".", "/", "~")) or variant.count("/") > 1


def _wrong_extra(located: Located, spec: RunSpec) -> list[Mistake]:
    """Fields of training.extra that the installed transformers does not know, or whose value it could not use."""
    given = {key: value for key, value in spec.training.extra.items() if not refused(key)}
    if not given:
        return []
    known, version = training_arguments(), importlib.metadata.version("transformers")
    mistakes = []
    for name, value in given.items():
        path = ("training", "extra", name)
        dotted = ".".join(path)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            message = f"{dotted}: not a field of TrainingArguments in transformers {version}.{hint}"
            mistakes.append(Mistake(*located.at(path, key=True), message))
        elif allowed := not_allowed(name, value):
            message = f"{dotted}: {shown(value)} is not allowed; allowed: {describe(allowed)}"
            mistakes.append(Mistake(*located.at(path), message))
    return mistakes


def training_arguments() -> list[str]:
    """Field names of the installed transformers.TrainingArguments, read from its source: importing it takes seconds."""
    source = importlib.metadata.distribution("transformers").locate_file("transformers/training_args.py")
    tree = ast.parse(Path(str(source)).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments":
            targets = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            return [name for name in names if not name.startswith("_")]
    raise UsageError("the installed transformers has no TrainingArguments class")
