"""docs/spec.md from the spec's own types: `python -m launch.spec.reference > docs/spec.md`."""

import inspect
from typing import Any

from launch.spec.runspec import RunSpec

INTRODUCTION = """# The spec

One YAML file says what a run is. Every key with its default; unknown keys, values of the wrong type, contradictions and
values that nothing would read are errors, all told at once with file:line:column. `-s key.path=value` overrides one
value on the command line; `muster schema` prints the JSON Schema for editors. Relative paths in a file start
at its folder; of a spec that comes through a pipe (`muster plan /dev/stdin`) where the command is started.

Written by `python -m launch.spec.reference`.
"""


def reference() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION]
    top = {name: info for name, info in RunSpec.model_fields.items() if not hasattr(info.annotation, "model_fields")}
    parts.append(_table("", top))
    for name, info in RunSpec.model_fields.items():
        fields = getattr(info.annotation, "model_fields", None)
        if fields:
            parts.append(f"## {name}\n\n{inspect.getdoc(info.annotation) or ''}\n")
            parts.append(_table(f"{name}.", fields))
    return "\n".join(parts)


def _table(prefix: str, fields: dict[str, Any]) -> str:
    lines = ["| key | default | what |", "| --- | --- | --- |"]
    for name, info in _flat(fields).items():
        default = "required" if info.is_required() else f"`{_shown(info)}`"
        description = " ".join((info.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {default} | {description} |")
    return "\n".join(lines) + "\n"


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A section inside a section key by key."""
    found: dict[str, Any] = {}
    for name, info in fields.items():
        inner = getattr(info.annotation, "model_fields", None)
        found |= _flat(inner, f"{prefix}{name}.") if inner else {f"{prefix}{name}": info}
    return found


def _shown(info: Any) -> str:
    value = info.get_default(call_default_factory=True)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(reference(), end="")
