"""A configuration file that somebody wrote: its values, and where each of them stands."""

import difflib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from launch.errors import Mistake, SpecError
from launch.spec import KeyPath
from launch.spec.located import Located, locate
from launch.wording import first_line

Kind = Literal["contradiction", "dead", "unknown", "wrong", "costly"]


class Problem(NamedTuple):
    file: str
    line: int
    column: int
    key: str
    """Dotted, such as `zero_optimization.stage`."""
    kind: Kind
    """`contradiction` with the plan or another file, `dead` where nothing reads it, `unknown` to the library, `wrong`
    by itself, `costly` where it runs and wastes memory."""
    problem: str

    @property
    def mistake(self) -> Mistake:
        return Mistake(self.file, self.line, self.column, f"{self.key}: {self.problem}")


class Given(NamedTuple):
    file: str
    kind: Literal["accelerate", "deepspeed"]
    values: dict[str, Any]
    located: Located

    def get(self, *path: str, default: Any = None) -> Any:
        """The value at a path of keys; `default` where one of them is not there."""
        found: Any = self.values
        for key in path:
            if not isinstance(found, dict) or key not in found:
                return default
            found = found[key]
        return found

    def has(self, *path: str) -> bool:
        return self.get(*path, default=self) is not self

    def says(self, path: KeyPath, kind: Kind, problem: str) -> Problem:
        """A problem with the value at a path; where it is not there, at the section around it or the file's start."""
        file, line, column = self.located.at(path, key=True)
        return Problem(file, line or 1, column or 1, ".".join(path), kind, problem)

    def leaves(self) -> Iterator[tuple[KeyPath, Any]]:
        """Every value that is no section, with its path."""
        yield from _leaves(self.values, ())


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict) and (value or not path):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    else:
        yield path, value


def nearest(key: str, known: Collection[str]) -> str:
    """The end of a message about a key that nobody knows."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def given(file: str) -> Given:
    """Raises SpecError, with the mistake's place, for a file that cannot be read or is neither kind."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if text.startswith("\ufeff"):
        raise _unreadable(file, "begins with a byte order mark, which no JSON may; save it as plain UTF-8")
    values, located = _json(text, file) if text.lstrip().startswith("{") else _yaml(text, file)
    if {"distributed_type", "compute_environment"} & values.keys():
        return Given(file, "accelerate", values, located)
    if {"zero_optimization", "train_batch_size", "train_micro_batch_size_per_gpu"} & values.keys():
        return Given(file, "deepspeed", values, located)
    raise _unreadable(
        file,
        "neither an accelerate config, which has distributed_type, nor a DeepSpeed config, which has zero_optimization"
        " or train_batch_size",
    )


def _unreadable(file: str, why: str, line: int = 0, column: int = 0) -> SpecError:
    return SpecError([Mistake(file, line, column, why)])


def _json(text: str, file: str) -> tuple[dict[str, Any], Located]:
    twice: list[str] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice.extend(name for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(pairs)

    try:
        values = json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise _unreadable(file, f"not JSON: {error.msg}", error.lineno, error.colno) from None
    except RecursionError:
        raise _unreadable(file, "not JSON that can be read: it nests without end") from None
    try:
        located = locate(text.replace("\t", " "), file, [])  # JSON is YAML, but for tabs between its values
    except SpecError:  # and for a line's end before a colon: then no place is known but the file's
        located = Located(file, places={(): (file, 1, 1)}, keys={(): (file, 1, 1)})
    if twice:
        known = [mistake for mistake in located.mistakes if "given twice" in mistake.message]
        raise SpecError(known or [Mistake(file, 0, 0, f"{name}: given twice; keep one") for name in twice])
    return values, located


def _yaml(text: str, file: str) -> tuple[dict[str, Any], Located]:
    """Values as accelerate reads them, in YAML 1.1: there `yes` is true."""
    located = _places(text, file)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise _unreadable(file, f"not YAML: {first_line(error)}") from None
    if located.mistakes:
        raise SpecError(located.mistakes)
    return _named(values), located


def _named(value: Any) -> Any:
    """With keys as text at every level: YAML reads a 1 or a yes as no text, and no library knows such a key."""
    if isinstance(value, dict):
        return {str(key): _named(item) for key, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, list) else value


def _places(text: str, file: str) -> Located:
    try:
        return locate(text, file, [])
    except SpecError as error:
        mistake = error.mistakes[0]
        why = mistake.message if mistake.message.startswith("not YAML") else "is no mapping of keys to values"
        raise _unreadable(file, why, mistake.line, mistake.column) from None
