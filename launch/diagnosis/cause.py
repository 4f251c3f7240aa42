"""Which of the failures that logs tell of is the one that the others follow from. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from launch.diagnosis.hits import Hit
from launch.diagnosis.known import BY_NAME, KNOWN, STANDINGS
from launch.diagnosis.known.software import HIDES
from launch.errors import ExitCode
from launch.wording import plural

# How many lines are shown of the cause itself.
MOST_EVIDENCE = 4
# The kernel's and Slurm's own records say why; what they explain shows in a log up to so many seconds before or after.
SAME_MOMENT = 120.0
RECORDS = {"xid", "oom-killed", "node-failure"}


@dataclass(frozen=True)
class Evidence:
    file: str
    line: int
    text: str
    rank: int | None = None
    node: str | None = None
    time: float | None = None


@dataclass(frozen=True)
class Cause:
    """Why an attempt ended."""

    name: str
    """Of the table of known failures; `reported` where only a class and a message are known."""
    exit_code: ExitCode
    rank: int | None
    node: str | None
    summary: str
    evidence: tuple[Evidence, ...]
    fix: str
    phase: str | None
    """What the failing process was doing, as its traceback shows; else its last pulse (rundir.Phase)."""
    certain: bool
    """Whether this explains the end by itself. What may be the end of another rank's connection does not."""
    another_try: bool
    """Whether the same run may succeed when it is started again as it is."""
    time: float | None = None
    """Seconds since 1970, corrected by the clock of its node where that is known."""
    step: int | None = None
    """The step that the message names, of numbers that went wrong; else the last that the failing rank began."""
    echoes: tuple[Evidence, ...] = ()
    """What the other ranks said of it, one line each."""


def first_of(
    hits: Sequence[Hit], ranks: Collection[int] = (), offsets: Mapping[str, float] | None = None
) -> Cause | None:
    """The first cause. `ranks` are those that took part; `offsets` are the seconds by which nodes' clocks are ahead."""
    corrected = [_corrected(hit, offsets or {}) for hit in hits]
    candidates = [hit for stream in _streams(corrected).values() for hit in _told_by(stream)]
    if not candidates:
        return None
    first = _first(candidates)
    rank, told = (first.rank, None) if first.known.name != "nccl-time-out" else _behind(candidates, ranks)
    others = [hit for hit in candidates if (hit.rank, hit.file) != (first.rank, first.file) and not _same(hit, first)]
    return _cause(replace(first, rank=rank), told, _of_same(corrected, first), others)


def _corrected(hit: Hit, offsets: Mapping[str, float]) -> Hit:
    if hit.time is None or hit.node is None:
        return hit
    return replace(hit, time=hit.time - offsets.get(hit.node, 0.0))


def _streams(hits: Iterable[Hit]) -> dict[tuple[str, int | None], list[Hit]]:
    """By log and rank, in the order they were written."""
    found: dict[tuple[str, int | None], list[Hit]] = defaultdict(list)
    for hit in sorted(hits, key=lambda hit: (hit.file, hit.line)):
        found[hit.file, hit.rank].append(hit)
    return found


def _told_by(stream: Sequence[Hit]) -> list[Hit]:
    """What one process tells of its end: of exceptions that came of one another the most specific one.

    An exception that no table knows counts only where nothing else is told, and then the last one.
    """
    chains: list[list[Hit]] = [[]]
    for hit in stream:
        chains[-1].append(hit)
        if not hit.chained:
            chains.append([])
    told = [_of_chain(chain) for chain in chains if chain]
    known = [hit for hit in told if hit.known.name != "exception"]
    if any(hit.known.standing == "cause" for hit in known):
        return known
    return [*known, *[hit for hit in told if hit.known.name == "exception"][-1:]]


def _of_chain(chain: Sequence[Hit]) -> Hit:
    """The most specific one, the first of equals; of exceptions that no table knows the last, which says the most.

    One that hides another has no say beside it.
    """
    chain = [hit for hit in chain if HIDES not in hit.text] or chain
    told = min(chain, key=_specific)
    return chain[-1] if told.known.name == "exception" else told


def _specific(hit: Hit) -> int:
    return KNOWN.index(BY_NAME.get(hit.known.name, KNOWN[-1]))


def _first(candidates: Sequence[Hit]) -> Hit:
    standing = min(STANDINGS.index(hit.known.standing) for hit in candidates)
    equal = [hit for hit in candidates if STANDINGS.index(hit.known.standing) == standing]
    first = min(equal, key=_when)
    records = [hit for hit in equal if hit.known.name in RECORDS and _near(hit, first)]
    return min(records, key=lambda hit: (_specific(hit), *_when(hit))) if records else first


def _when(hit: Hit) -> tuple[float, int, str, int]:
    return (hit.time if hit.time is not None else float("inf")), _specific(hit), hit.file, hit.line


def _near(hit: Hit, other: Hit) -> bool:
    """Whether both may tell of one moment. What is only known to be no later may well be earlier."""
    if hit.time is None or other.time is None:
        return True
    apart = hit.time - other.time
    return (apart <= SAME_MOMENT or hit.latest) and (-apart <= SAME_MOMENT or other.latest)


def _behind(candidates: Sequence[Hit], ranks: Collection[int]) -> tuple[int | None, str | None]:
    """Of a collective that timed out: the rank that the others waited for, and how that shows."""
    waited: dict[int, int | None] = {}
    for hit in candidates:
        if hit.known.name == "nccl-time-out" and hit.rank is not None:
            waited[hit.rank] = waited.get(hit.rank) or hit.completed
    absent = sorted(set(ranks) - waited.keys())
    if absent and waited:
        who = plural(len(absent) - 1, "rank").partition(" ")[2]
        names = ", ".join(map(str, absent[1:]))
        also = f" (nor did {who} {names})" if len(absent) > 1 else ""
        return absent[0], f"it did not come to a collective operation that others waited for{also}"
    done = {rank: count for rank, count in waited.items() if count is not None}
    if len(set(done.values())) > 1:
        rank = min(done, key=lambda each: (done[each], each))
        return rank, f"it is behind: it completed {done[rank]} collective operations, others {max(done.values())}"
    return min(waited, default=None), None


def _same(hit: Hit, first: Hit) -> bool:
    """Whether a line tells of the same failure without saying of which rank, or only that some worker ended."""
    return hit.rank is None and (hit.known == first.known or hit.known.standing == "echo")


def _of_same(hits: Sequence[Hit], first: Hit) -> list[Hit]:
    """Lines that tell of the same failure of the same process, the chosen one first."""
    more = [hit for hit in hits if hit.known == first.known and hit.rank == first.rank and hit != first]
    return [first, *sorted(more, key=lambda hit: (hit.file != first.file, hit.file, hit.line))]


def _cause(first: Hit, told: str | None, same: Sequence[Hit], others: Sequence[Hit]) -> Cause:
    known = first.known
    words = first.text if known.name == "exception" else f"{known.cause}{_where(first)}"
    shown: dict[str, Hit] = {hit.text: hit for hit in reversed(same)}
    evidence = sorted(shown.values(), key=list(same).index)[:MOST_EVIDENCE]
    echoes: dict[tuple[int | None, str], Hit] = {}
    for hit in sorted(others, key=_when):
        echoes.setdefault((hit.rank, hit.file), hit)
    return Cause(
        name=known.name, exit_code=known.code, rank=first.rank,
        node=next((hit.node for hit in same if hit.node), None), summary=told or words,
        evidence=tuple(map(_evidence, evidence)), fix=known.fix_for(first.doing), phase=first.doing,
        certain=known.standing == "cause", another_try=known.another_try, time=first.time,
        echoes=tuple(map(_evidence, echoes.values())),
    )  # fmt: skip


def _where(first: Hit) -> str:
    """Where a GPU's memory ran out: it decides what helps."""
    if first.known.code != ExitCode.GPU_MEMORY or first.doing is None:
        return ""
    if first.doing in ("loading", "saving"):
        return f" while {first.doing}"
    return f" in {'the ' if first.doing == 'optimizer step' else ''}{first.doing}"


def _evidence(hit: Hit) -> Evidence:
    return Evidence(hit.file, hit.line, hit.text.strip(), hit.rank, hit.node, hit.time)
