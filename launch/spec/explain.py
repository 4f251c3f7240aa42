"""A pydantic error in the words of a spec's author: what was given, what is allowed, the nearest name."""

import difflib
import re
from functools import cache
from typing import Any, get_origin

from launch.errors import Mistake
from launch.spec.located import Located
from launch.spec.runspec import KeyPath, RunSpec


def explain(located: Located, path: KeyPath, problem: dict[str, Any]) -> Mistake:
    """A pydantic error in the words of a spec's author."""
    dotted = ".".join(path)
    kind = problem["type"]
    if kind == "extra_forbidden":
        return Mistake(*located.at(path, key=True), f"{dotted}: {_unknown_key(path)}")
    if kind == "missing":
        return Mistake(*located.at(path[:-1]), f"{dotted}: is required: {_allowed(path).removeprefix('allowed: ')}")
    given = problem["input"]
    if problem["loc"][-1] == "[key]":  # a name that the author chose
        names = _field(path)[1].get("propertyNames", {})
        message = f"{dotted}: the name {shown(given)} is not allowed; allowed: {describe(names)}"
        return Mistake(*located.at(path), message + _did_you_mean(given, names.get("enum", [])))
    hint = _nearest_value(path, given) or _quoted(path, given)
    message = f"{dotted}: {shown(given)} is not allowed; {_allowed(path)}{hint}"
    return Mistake(*located.at(path), message)


def spec_path(loc: tuple[Any, ...]) -> KeyPath:
    """pydantic's location without the names of union members."""
    path: list[str] = []
    schema: Any = RunSpec
    for part in loc:
        fields = getattr(schema, "model_fields", None)
        named = get_origin(schema) is dict and "[key]" not in loc  # a name that the author chose
        if fields is None and not named and not isinstance(part, int):
            break
        path.append(str(part))
        schema = fields[part].annotation if fields and part in fields else None
    return tuple(path)


def _unknown_key(path: KeyPath) -> str:
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


def _section(path: KeyPath) -> Any:
    section: Any = RunSpec
    for key in path:
        info = getattr(section, "model_fields", {}).get(key)
        section = info.annotation if info else None
    return section if hasattr(section, "model_fields") else None


@cache
def _properties(section: Any) -> dict[str, Any]:
    """The JSON Schema of each key; made once, for a long list may be wrong at every place."""
    schema: dict[str, Any] = section.model_json_schema()["properties"]
    return schema


def _allowed(path: KeyPath) -> str:
    """What a field takes, told from its own type: one truth with the JSON Schema."""
    names, schema = _field(path)
    if not schema:
        return "see `muster schema`"
    info = _section(names[:-1]).model_fields[names[-1]]
    takes, description = describe(schema), _first_sentence(info.description or "")
    return f"allowed: {takes} ({description})" if description and takes else f"allowed: {takes or description}"


def _field(path: KeyPath) -> tuple[KeyPath, dict[str, Any]]:
    """The key that a path leads to or into, and the JSON Schema of what stands there: where that is a section whose
    names the author chooses, of the named value. Empty where there is no such key."""
    names = tuple(part for part in path if not part.isdigit())
    inside = _section(names[:-1]) is None
    keys = names[:-1] if inside else names
    section = _section(keys[:-1]) if keys else None
    if section is None or keys[-1] not in section.model_fields:
        return keys, {}
    schema: dict[str, Any] = _properties(section)[keys[-1]]
    if inside:
        schema = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), {})
    return keys, schema


def _first_sentence(description: str) -> str:
    """Up to the end of a sentence that ends its line, or on a later one: no sentence is cut, and few words are read."""
    lines: list[str] = []
    for line in description.split("\n"):
        lines.append(line)
        if line.rstrip().endswith("."):
            break
    return " ".join(lines).rstrip().rstrip(".")


def _quoted(path: KeyPath, given: Any) -> str:
    """How to write a number or a yes as the text that it was meant to be; empty where text is not taken either."""
    if isinstance(given, str) or not isinstance(given, int | float):
        return ""
    schema, text = _field(path)[1], shown(given)
    if path[-1].isdigit():
        schema = schema.get("items", {})
    kinds = [kind for kind in [schema, *schema.get("anyOf", [])] if kind.get("type") == "string" and "enum" not in kind]
    fitting = [kind for kind in kinds if "const" not in kind and re.search(kind.get("pattern", ""), text)]
    return f'. As text it stands in quotes: "{text}"' if fitting else ""


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
    return f"{int(value):,}" if value == int(value) and value < 1e15 else f"{value:g}"


def _nearest_value(path: KeyPath, given: Any) -> str:
    """A hint at the allowed word that the given one resembles; empty without one."""
    section = _section(path[:-1])
    if not isinstance(given, str) or section is None:
        return ""
    schema = _properties(section).get(path[-1], {})
    kinds = [schema, *schema.get("anyOf", [])]
    options = [str(value) for kind in kinds for value in kind.get("enum", [kind["const"]] if "const" in kind else [])]
    return _did_you_mean(given, options)


def _did_you_mean(given: str, options: list[str]) -> str:
    near = difflib.get_close_matches(given, options, n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
