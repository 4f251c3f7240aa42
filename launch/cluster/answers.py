"""What Slurm's commands print, as values. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from launch.spec.slurm import seconds_of

# One node a line, of one partition: name, state, CPUs, memory in MiB, GRES, features, reason, its address.
NODE_FORMAT = "%N|%t|%c|%m|%G|%f|%E"
# States of a node that takes no new jobs; a `*` behind one means that it does not answer (man sinfo, NODE STATE CODES).
_OUT = ("down", "drain", "drng", "fail", "failg", "maint", "boot", "unk", "pow_dn", "inval", "futr", "no_resp")


# Name, type (what is no number at the end), count, and where it sits.
_GRES = re.compile(r"([\w.-]+)(?::(?!\d+[KMG]?(?:\(|$))([^:()]+))?(?::(\d+)([KMG]?))?(?:\(.*\))?")


class Gres(NamedTuple):
    """`gpu:a100:8(S:0-1)`."""

    name: str
    type: str | None
    number: int


class Node(NamedTuple):
    name: str
    state: str
    cpus: int
    mem_mib: int
    gres: tuple[Gres, ...]
    features: tuple[str, ...]
    reason: str

    @property
    def usable(self) -> bool:
        """Whether it takes jobs, now or when it is free again."""
        return not self.state.endswith("*") and self.state.rstrip("~#%$@^!+-").lower() not in _OUT

    def offered(self, name: str, kind: str | None = None) -> int:
        """How many of a GRES it has, of one type or of all."""
        return sum(gres.number for gres in self.gres if gres.name == name and kind in (None, gres.type))


class Partition(NamedTuple):
    name: str
    values: Mapping[str, str]
    """As `scontrol show partition` names them."""

    @property
    def state(self) -> str:
        return self.values.get("State", "?")

    @property
    def max_time(self) -> int | None:
        """Seconds; None without a limit."""
        return limit(self.values.get("MaxTime", "UNLIMITED"))

    @property
    def max_nodes(self) -> int | None:
        found = self.values.get("MaxNodes", "UNLIMITED")
        return int(found) if found.isdecimal() else None

    def allowed(self, what: str) -> list[str] | None:
        """Of AllowAccounts, AllowQos or AllowGroups; None where all are."""
        found = self.values.get(f"Allow{what}", "ALL")
        return None if found.upper() == "ALL" else [name for name in found.split(",") if name]


def limit(time: str) -> int | None:
    """A time limit in seconds; None where there is none."""
    try:
        return seconds_of(time)
    except ValueError:  # UNLIMITED, INFINITE, NONE, Partition_Limit
        return None


def pairs(line: str) -> dict[str, str]:
    """`Key=Value Key=Value`, as `scontrol -o` prints it. A value may hold spaces; a key begins with a capital."""
    starts = list(re.finditer(r"(?:^|\s)([A-Z][A-Za-z0-9_/:.]*)=", line))
    ends = [match.start() for match in starts[1:]] + [len(line)]
    return {match[1]: line[match.end() : end].strip() for match, end in zip(starts, ends, strict=True)}


def partitions(printed: str) -> dict[str, Partition]:
    """Of `scontrol -o --all show partition`."""
    found = [pairs(line) for line in printed.splitlines() if line.strip()]
    return {values["PartitionName"]: Partition(values["PartitionName"], values) for values in found}


def config(printed: str) -> dict[str, str]:
    """Of `scontrol show config`: `Key   = value` a line."""
    rows = (line.partition("=") for line in printed.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in rows}


def nodes(printed: str) -> list[Node]:
    """Of `sinfo -h -N -o NODE_FORMAT`."""
    found = []
    for line in printed.splitlines():
        parts = line.split("|")
        if len(parts) < 7:
            continue
        name, state, cpus, mem, gres, features = (part.strip() for part in parts[:6])
        reason = "|".join(parts[6:]).strip()
        found.append(
            Node(name, state, _number(cpus), _number(mem), tuple(gres_of(gres)), _words(features), reason)
        )  # fmt: skip
    return list({node.name: node for node in found}.values())


def gres_of(printed: str) -> Iterable[Gres]:
    """`gpu:a100:8(S:0-1),shard:16` and `gpu:2`; nothing for `(null)`."""
    for part in re.split(r",(?![^(]*\))", printed):
        match = _GRES.fullmatch(part.strip())
        if match and part.strip() not in ("", "(null)"):
            count = int(match[3] or 1) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[match[4] or ""]
            yield Gres(match[1], match[2], count)


def _words(text: str) -> tuple[str, ...]:
    return () if text == "(null)" else tuple(text.split(","))


def _number(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0
