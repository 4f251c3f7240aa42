"""A pydantic error in the words of a spec's author: what was given, what is allowed, the nearest name."""

import difflib
from typing import Any

from launch.errors import Mistake
from launch.located import Located
from launch.spec import Path, RunSpec


def explain(located: Located, path: Path, problem: dict[str, Any]) -> Mistake:
    """A pydantic error in the words of a spec's author."""
    dotted = ".".join(path)
    kind = problem["type"]
    if kind == "extra_forbidden":
        return Mistake(*located.at(path, key=True), f"{dotted}: {_unknown_key(path)}")
    if kind == "missing":
        return Mistake(*located.at(path[:-1]), f"{dotted}: is required: {_allowed(path).removeprefix('allowed: ')}")
    given = problem["input"]
    message = f"{dotted}: {shown(given)} is not allowed; {_allowed(path)}{_nearest_value(path, given)}"
    return Mistake(*located.at(path), message)


def spec_path(loc: tuple[Any, ...]) -> Path:
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
    takes = describe(schema)
    return f"allowed: {takes} ({description})" if description and takes else f"allowed: {takes or description}"


# JSON Schema's words, and those of somebody who writes YAML.
_TYPES = {
    "integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false",
    "array": "a list", "object": "a section", "null": "null",
}  # fmt: skip
_LIMITS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}


def describe(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(filter(None, (describe(option) for option in schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "$ref" in schema:
        return "a section"
    if "takes" in schema:
        return str(schema["takes"])
    if schema.get("type") == "array" and "takes" in schema.get("items", {}):
        return f"a list, each {schema['items']['takes']}"
    if "pattern" in schema:
        return f"text like {schema['pattern']}"
    bounds = " and ".join(f"{word} {_number(schema[key])}" for key, word in _LIMITS.items() if key in schema)
    return " ".join(filter(None, (_TYPES.get(str(schema.get("type")), ""), bounds)))


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _nearest_value(path: Path, given: Any) -> str:
    """A hint at the allowed word that the given one resembles; empty without one."""
    section = _section(path[:-1])
    if not isinstance(given, str) or section is None:
        return ""
    schema = section.model_json_schema()["properties"].get(path[-1], {})
    kinds = [schema, *schema.get("anyOf", [])]
    options = [str(value) for kind in kinds for value in kind.get("enum", [kind["const"]] if "const" in kind else [])]
    near = difflib.get_close_matches(given, options, n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
