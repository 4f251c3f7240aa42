"""YAML text -> RunSpec, with every mistake at its file:line:column, all in one go."""

import ast
import difflib
import importlib.metadata
import re
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import ValidationError

from launch.errors import ConflictError, Mistake, SpecError, UsageError
from launch.spec import DECIDED_ELSEWHERE, Path, RunSpec, contradictions


class CoreLoader(yaml.SafeLoader):
    """PyYAML with YAML 1.2's core schema: 2e-4 is a number, 12:00:00 and `no` are strings."""

    yaml_implicit_resolvers: dict[str, Any] = {}


CoreLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
CoreLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
CoreLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
CoreLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _integer(loader: CoreLoader, node: yaml.ScalarNode) -> int:
    """PyYAML reads 012 as octal and 0b1 as binary; the core schema's integers are decimal."""
    return int(str(loader.construct_scalar(node)))


def _number(loader: CoreLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


CoreLoader.add_constructor("tag:yaml.org,2002:int", _integer)
CoreLoader.add_constructor("tag:yaml.org,2002:float", _number)


@dataclass
class Located:
    """Plain values, and where each came from: path -> (origin, line, column) of its key and of its value."""

    origin: str
    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[Path, tuple[str, int, int]] = field(default_factory=dict)
    places: dict[Path, tuple[str, int, int]] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)

    def at(self, path: Path, key: bool = False) -> tuple[str, int, int]:
        """The nearest known place of a path: its own, or that of the section around it."""
        for length in range(len(path), -1, -1):
            place = (self.keys if key else self.places).get(path[:length])
            if place:
                return place
        return (self.origin, 0, 0)


def read_spec(path: str | FilePath, overrides: list[str] | None = None) -> RunSpec:
    """Reads a spec file and applies `key.path=value` overrides.

    Raises SpecError with every mistake, or UsageError when there is no such file.
    """
    file = FilePath(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = [p.name for p in sorted(file.parent.glob("*.y*ml"))] if file.parent.is_dir() else []
        hint = f"; specs in {file.parent}: {', '.join(near)}" if near else ""
        raise UsageError(f"{path}: no such spec file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    spec = parse_spec(text, str(path), overrides or [])
    return _from_folder(spec, file.resolve().parent)


def parse_spec(text: str, origin: str, overrides: list[str] | None = None) -> RunSpec:
    """YAML text and overrides to a RunSpec. Paths in it are left as they stand. Raises SpecError."""
    located = locate(text, origin, overrides or [])
    mistakes = list(located.mistakes)
    values, dropped = located.values, set(located.unreadable)
    spec = None
    while spec is None:
        try:
            spec = RunSpec.model_validate(values)
        except ValidationError as error:
            problems: list[dict[str, Any]] = [dict(problem) for problem in error.errors()]
            mistakes += [
                _explain(located, problem) for problem in problems if _spec_path(problem["loc"]) not in dropped
            ]
            paths = {_spec_path(problem["loc"]) for problem in problems}
            if paths <= dropped:
                break
            # Judged again without what was wrong, so that one mistake does not hide a contradiction elsewhere.
            dropped |= paths
            values = _without(values, dropped)
    if spec is not None:
        hidden = {".".join(path) for path in dropped}
        conflicts = [
            (path, message) for path, message in contradictions(spec) if not any(name in message for name in hidden)
        ]
        mistakes += [Mistake(*located.at(path), f"{'.'.join(path)}: {message}") for path, message in conflicts]
        mistakes += _unknown_extra(located, spec)
    if mistakes:
        raise SpecError(_one_a_path(mistakes))
    assert spec is not None
    return spec


def place(error: ConflictError, path: str | FilePath, overrides: list[str]) -> SpecError:
    """A conflict that planning found, told at its places in the spec."""
    located = locate(FilePath(path).read_text(encoding="utf-8"), str(path), overrides)
    return SpecError([Mistake(*located.at(keys), message) for keys, message in error.problems])


def _one_a_path(mistakes: list[Mistake]) -> list[Mistake]:
    """One mistake for each key: a union's members would each tell theirs."""
    first: dict[tuple[str, int, int, str], Mistake] = {}
    for mistake in mistakes:
        first.setdefault((mistake.origin, mistake.line, mistake.column, mistake.message.split(": ")[0]), mistake)
    return list(first.values())


def _without(values: Any, dropped: set[Path], path: Path = ()) -> Any:
    if isinstance(values, dict):
        kept = {
            key: _without(value, dropped, (*path, key)) for key, value in values.items() if (*path, key) not in dropped
        }
        return kept
    return values


def _from_folder(spec: RunSpec, folder: FilePath) -> RunSpec:
    """Relative paths start at the spec's folder, so that a spec means the same wherever it is run from."""

    def absolute(value: str) -> str:
        return str((folder / FilePath(value).expanduser()).resolve())

    data = spec.data.model_copy(
        update={"train": absolute(spec.data.train), "eval": absolute(spec.data.eval) if spec.data.eval else None}
    )
    model = spec.model
    if looks_like_path(model.variant) or (folder / model.variant).is_dir():
        model = model.model_copy(update={"variant": absolute(model.variant)})
    return spec.model_copy(update={"data": data, "model": model})


def looks_like_path(variant: str) -> bool:
    """Whether a variant can only be a directory. A hub id is `owner/name`, without a leading dot or slash."""
    return variant.startswith((".", "/", "~")) or variant.count("/") > 1


def locate(text: str, origin: str, overrides: list[str]) -> Located:
    """Values and places of a spec's text with its overrides. Raises SpecError for text that is no mapping."""
    located = _locate(text, origin)
    for override in overrides:
        _override(located, override)
    return located


def _locate(text: str, origin: str) -> Located:
    located = Located(origin)
    try:
        root = yaml.compose(text, Loader=CoreLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        parts = [getattr(error, "context", None), getattr(error, "problem", None)]
        # "but found another document" is half a sentence; "while parsing a flow sequence" adds nothing.
        parts = parts if str(parts[1]).startswith("but ") else parts[1:]
        problem = ", ".join(part for part in parts if part) or str(error).splitlines()[0]
        line, column = place
        raise SpecError([Mistake(origin, line, column, f"not YAML: {problem}")]) from None
    if root is None:
        raise SpecError([Mistake(origin, 1, 1, "is empty; a spec needs name, model.variant and data.train")])
    if not isinstance(root, yaml.MappingNode):
        raise SpecError([Mistake(origin, 1, 1, "is not a mapping; a spec is `key: value` lines, see `muster schema`")])
    values = _walk(located, root, ())
    located.places[()] = (origin, 1, 1)
    assert isinstance(values, dict)
    located.values = values
    return located


def _walk(located: Located, node: yaml.Node, path: Path, above: tuple[int, ...] = ()) -> Any:
    located.places[path] = (located.origin, node.start_mark.line + 1, node.start_mark.column + 1)
    if id(node) in above:
        _unreadable(located, path, "contains itself")
        return None
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            place = (located.origin, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key in mapping:
                located.mistakes.append(Mistake(*place, f"{'.'.join((*path, key))}: given twice; keep one"))
            located.keys[(*path, key)] = place
            mapping[key] = _walk(located, value_node, (*path, key), above)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_walk(located, item, (*path, str(index)), above) for index, item in enumerate(node.value)]
    loader = CoreLoader("")
    try:
        return loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError):
        _unreadable(located, path, f"{node.value!r} cannot be read as {node.tag}")
        return None


def _unreadable(located: Located, path: Path, why: str) -> None:
    located.mistakes.append(Mistake(*located.places[path], f"{'.'.join(path)}: {why}"))
    located.unreadable.append(path)


def _override(located: Located, override: str) -> None:
    name, equals, text = override.partition("=")
    origin = f"-s {override}"
    path = tuple(name.strip().split("."))
    if not equals or not all(path):
        raise UsageError(f"{origin}: an override is key.path=value, for example -s training.epochs=1")
    try:
        value = yaml.load(text, Loader=CoreLoader)  # noqa: S506 - CoreLoader is a SafeLoader
    except yaml.YAMLError:
        value = text
    target = located.values
    for key in path[:-1]:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{origin}: {key} is a value, not a section")
        target = inner
    target[path[-1]] = value
    for length in range(1, len(path) + 1):
        if length == len(path) or path[:length] not in located.keys:
            located.keys[path[:length]] = located.places[path[:length]] = (origin, 0, 0)


def _explain(located: Located, problem: dict[str, Any]) -> Mistake:
    """A pydantic error in the words of a spec's author."""
    path = _spec_path(problem["loc"])
    dotted = ".".join(path)
    kind = problem["type"]
    if kind == "extra_forbidden":
        return Mistake(*located.at(path, key=True), f"{dotted}: {_unknown_key(path)}")
    if kind == "missing":
        return Mistake(*located.at(path[:-1]), f"{dotted}: is required: {_allowed(path).removeprefix('allowed: ')}")
    given = problem["input"]
    return Mistake(
        *located.at(path), f"{dotted}: {_shown(given)} is not allowed; {_allowed(path)}{_nearest_value(path, given)}"
    )


def _spec_path(loc: tuple[Any, ...]) -> Path:
    """pydantic's location without the names of union members."""
    path: list[str] = []
    schema: Any = RunSpec
    for part in loc:
        fields = getattr(schema, "model_fields", None)
        if fields is None and not isinstance(part, int):
            break
        path.append(str(part))
        schema = fields[part].annotation if fields and part in fields else None
    return tuple(path)


def _unknown_key(path: Path) -> str:
    if path[-1] == "trust_remote_code":
        return (
            "refused: muster never runs code that comes with a checkpoint. Use a variant of the native architecture"
            " (qwen1.5, qwen2.5, qwen3) and remove this key"
        )
    section = _section(path[:-1])
    allowed = list(section.model_fields) if section else []
    near = difflib.get_close_matches(path[-1], allowed, n=1, cutoff=0.5)
    elsewhere = [
        f"{name}.{path[-1]}"
        for name, info in RunSpec.model_fields.items()
        if path[-1] in getattr(info.annotation, "model_fields", {})
    ]
    hint = f" Did you mean {near[0]!r}?" if near else f" Did you mean {elsewhere[0]}?" if elsewhere else ""
    return f"unknown key.{hint} Allowed: {', '.join(allowed)}"


def _section(path: Path) -> Any:
    section: Any = RunSpec
    for key in path:
        info = getattr(section, "model_fields", {}).get(key)
        section = info.annotation if info else None
    return section if hasattr(section, "model_fields") else None


def _allowed(path: Path) -> str:
    """What a field takes, told from its own type: one truth with the JSON Schema."""
    names = tuple(part for part in path if not part.isdigit())
    section = _section(names[:-1])
    info = section.model_fields.get(names[-1]) if section else None
    if info is None:
        return "see `muster schema`"
    schema = section.model_json_schema()["properties"][names[-1]]
    description = (info.description or "").split("\n")[0].rstrip(".")
    takes = _describe(schema)
    return f"allowed: {takes} ({description})" if description and takes else f"allowed: {takes or description}"


def _describe(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(filter(None, (_describe(option) for option in schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    limits = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
    bounds = " and ".join(f"{word} {schema[key]:g}" for key, word in limits.items() if key in schema)
    names = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "boolean": "true or false",
        "array": "a list",
        "object": "a section",
        "null": "null",
    }
    if "$ref" in schema:
        return "a section"
    if "pattern" in schema:
        return f"text like {schema['pattern']}"
    return " ".join(filter(None, (names.get(str(schema.get("type")), ""), bounds)))


def _nearest_value(path: Path, given: Any) -> str:
    section = _section(path[:-1])
    if not isinstance(given, str) or section is None:
        return ""
    schema = section.model_json_schema()["properties"].get(path[-1], {})
    options = [
        value
        for part in [schema, *schema.get("anyOf", [])]
        for value in part.get("enum", [part["const"]] if "const" in part else [])
    ]
    near = difflib.get_close_matches(given, [str(option) for option in options], n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown_extra(located: Located, spec: RunSpec) -> list[Mistake]:
    names = [key for key in spec.training.extra if key not in DECIDED_ELSEWHERE]
    if not names:
        return []
    known = training_arguments()
    mistakes = []
    for name in names:
        if name not in known:
            path = ("training", "extra", name)
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            version = importlib.metadata.version("transformers")
            mistakes.append(
                Mistake(
                    *located.at(path, key=True),
                    f"{'.'.join(path)}: not a field of TrainingArguments in transformers {version}.{hint}",
                )
            )
    return mistakes


def training_arguments() -> list[str]:
    """Field names of the installed transformers.TrainingArguments, read from its source: importing it takes seconds."""
    source = importlib.metadata.distribution("transformers").locate_file("transformers/training_args.py")
    tree = ast.parse(FilePath(str(source)).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments":
            fields = [
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
            return [name for name in fields if not name.startswith("_")]
    raise UsageError("the installed transformers has no TrainingArguments class")
