"""YAML text -> plain values, and where in the text each of them stands."""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from launch.errors import Mistake, SpecError, UsageError
from launch.spec.runspec import KeyPath
from launch.wording import first_line

# (origin, line, column) as in errors.Mistake: line and column count from 1, and 0 means that the place is not known.
Place = tuple[str, int, int]


# What yaml raises of a value that is not of its tag: `!!int x`, `!!bool x`, `!!timestamp x`.
UNREADABLE = (yaml.YAMLError, ValueError, KeyError, AttributeError)


class CoreLoader(yaml.SafeLoader):
    """PyYAML with YAML 1.2's core schema: 2e-4 is a number, 12:00:00 and `no` are strings."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - typeshed declares it so, and ClassVar contradicts it


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


# A spec is a page or two. PyYAML takes 12 s for a million characters, and aliases of aliases stand for any number of
# values: each is counted as often as it stands somewhere.
MOST_TEXT, MOST_VALUES = 128 * 1024, 10_000


@dataclass
class Located:
    """Plain values, the place of each one's key and of the value itself, and what could not be read."""

    origin: str
    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    unreadable: list[KeyPath] = field(default_factory=list)

    def at(self, path: KeyPath, key: bool = False) -> Place:
        """The nearest known place of a path: its own, or that of the section around it."""
        for length in range(len(path), -1, -1):
            place = (self.keys if key else self.places).get(path[:length])
            if place:
                return place
        return (self.origin, 0, 0)


def locate(text: str, origin: str, overrides: list[str]) -> Located:
    """Values and places of a spec's text with its overrides.

    Raises SpecError for text that is no mapping, UsageError for an override that is none.
    """
    located = Located(origin)
    values = _walk(located, _compose(text, origin), ())
    assert isinstance(values, dict)
    located.values = values
    located.places[()] = (origin, 1, 1)
    for override in overrides:
        _override(located, override)
    return located


def _compose(text: str, origin: str) -> yaml.MappingNode:
    if len(text) > MOST_TEXT:
        raise _too_large(origin, f"{len(text):,} characters", f"{MOST_TEXT:,}")
    try:
        root = yaml.compose(text, Loader=CoreLoader)
    except yaml.YAMLError as error:
        raise SpecError([_not_yaml(error, origin)]) from None
    except RecursionError:
        raise SpecError([Mistake(origin, 1, 1, "not YAML that can be read: it nests without end")]) from None
    if root is None:
        raise SpecError([Mistake(origin, 1, 1, "is empty; a spec needs name, model.variant and data.train")])
    if not isinstance(root, yaml.MappingNode):
        raise SpecError([Mistake(origin, 1, 1, "is not a mapping; a spec is `key: value` lines, see `muster schema`")])
    return root


def _too_large(origin: str, what: str, most: str) -> SpecError:
    return SpecError([Mistake(origin, 1, 1, f"{what}: at most {most} are read; is this the right file?")])


def _not_yaml(error: yaml.YAMLError, origin: str) -> Mistake:
    mark = getattr(error, "problem_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    # "but found another document" is half a sentence; "while parsing a flow sequence" adds nothing.
    parts = parts if str(parts[1]).startswith("but ") else parts[1:]
    problem = ", ".join(part for part in parts if part) or first_line(error)
    return Mistake(origin, line, column, f"not YAML: {problem}")


def _walk(located: Located, node: yaml.Node, path: KeyPath, above: tuple[int, ...] = ()) -> Any:
    """A node's plain value. `above` identifies the nodes around it: through an alias one can contain itself."""
    located.places[path] = _start(located, node)
    if len(located.places) > MOST_VALUES:
        raise _too_large(located.origin, "too many values, with aliases (*) wherever they stand", f"{MOST_VALUES:,}")
    if id(node) in above:
        _unreadable(located, path, "contains itself")
        return None
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        return _walk_mapping(located, node, path, above)
    if isinstance(node, yaml.SequenceNode):
        return [_walk(located, item, (*path, str(index)), above) for index, item in enumerate(node.value)]
    loader = CoreLoader("")
    try:
        return loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
    except UNREADABLE:
        _unreadable(located, path, f"{node.value!r} cannot be read as {node.tag}")
        return None


def _walk_mapping(located: Located, node: yaml.MappingNode, path: KeyPath, above: tuple[int, ...]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        place = _start(located, key_node)
        if key in mapping:
            located.mistakes.append(Mistake(*place, f"{'.'.join((*path, key))}: given twice; keep one"))
        located.keys[(*path, key)] = place
        mapping[key] = _walk(located, value_node, (*path, key), above)
    return mapping


def _start(located: Located, node: yaml.Node) -> Place:
    return (located.origin, node.start_mark.line + 1, node.start_mark.column + 1)


def _unreadable(located: Located, path: KeyPath, why: str) -> None:
    located.mistakes.append(Mistake(*located.places[path], f"{'.'.join(path)}: {why}"))
    located.unreadable.append(path)


def _override(located: Located, override: str) -> None:
    name, equals, text = override.partition("=")
    origin = f"-s {override}"
    path = tuple(name.strip().split("."))
    if not equals or not all(path):
        raise UsageError(f"{origin}: an override is key.path=value, for example -s training.epochs=1")
    if len(text) > MOST_TEXT:
        raise UsageError(f"-s {name}: {len(text):,} characters: at most {MOST_TEXT:,} are read")
    try:
        value = yaml.load(text, Loader=CoreLoader)  # noqa: S506 - CoreLoader is a SafeLoader
    except RecursionError:
        raise UsageError(f"-s {name}: not YAML that can be read: it nests without end") from None
    except yaml.YAMLError:
        value = text
    except UNREADABLE:
        raise UsageError(f"{origin}: {text} cannot be read; leave the tag (!!) away") from None
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
