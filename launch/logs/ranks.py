"""What the ranks of an attempt have to say to people: warnings, once each, however many ranks have them."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from launch.logs.noise import Warned, warning
from launch.rundir import Attempt
from launch.rundir.journal import document
from launch.rundir.tail import lines_of
from launch.wording import printable

# A log that grows faster than this is not read whole: what is left out of the screen is in the log.
LOOK_BYTES = 64 << 10
# Logs are looked at so often. Ranks say the same thing within moments of one another: until then a warning waits.
LOOK_SECONDS, SETTLE_SECONDS = 1.0, 3.0


class LogTail:
    """New lines of one rank's log, LOOK_BYTES at a time: its beginning, where libraries warn most, then what is new.
    What has grown by more is left out, but for its end; with `whole` it comes with the next looks."""

    def __init__(self, path: Path, whole: bool = False):
        self.path, self.whole, self.offset = path, whole, 0

    def lines(self, size: int) -> list[str]:
        """Complete lines up to `size`, which is how long the file is now."""
        if size <= self.offset:
            return []
        if self.whole or not self.offset:
            size = min(size, self.offset + LOOK_BYTES)
        begin = max(self.offset, size - LOOK_BYTES)
        with open(self.path, "rb") as file:
            file.seek(begin)
            block = file.read(size - begin)
        end = block.rfind(b"\n") + 1
        torn = block.find(b"\n") + 1 if begin > self.offset else 0
        if not end and len(block) == LOOK_BYTES:  # one line without an end
            end = len(block)
        self.offset = begin + end if end or begin > self.offset else self.offset
        return list(lines_of(block[torn:end]))


class Logs:
    """New lines of all ranks' logs of an attempt, by rank. A look costs a listing, and what has grown."""

    def __init__(self, attempt: Attempt, everything: bool = False):
        """`everything`: the launchers' logs as well, and nothing is left out."""
        self.attempt, self.everything = attempt, everything
        self.tails: dict[str, LogTail] = {}

    def look(self) -> list[tuple[str, list[str]]]:
        """(whose, lines): `rank 3`, or a launcher's name."""
        found = []
        try:
            entries = sorted(
                ((name, entry.path, entry.stat().st_size) for entry in os.scandir(self.attempt.root)
                 if (name := self._whose(entry.name))), key=lambda one: (len(one[0]), one[0]),
            )  # fmt: skip
            for name, path, size in entries:
                lines = self.tails.setdefault(name, LogTail(Path(path), self.everything)).lines(size)
                if lines:
                    found.append((name, lines))
        except OSError:  # the directory is not there yet, or the file system is away
            pass
        return found

    def _whose(self, name: str) -> str | None:
        stem, dot, _ = name.rpartition(".log")
        if not dot:
            return None
        if stem.startswith("rank-"):
            return f"rank {stem[5:]}"
        return stem if self.everything and stem.startswith("launcher") else None


@dataclass
class _Heard:
    first: Warned
    when: float
    ranks: set[str] = field(default_factory=set)
    told: bool = False


class Warnings:
    """Each warning of an attempt once, when all had the time to say it. Pure: lines in, lines out."""

    def __init__(self, world_size: int = 0) -> None:
        self.heard: dict[str, _Heard] = {}
        self.world_size = world_size
        """Of how many ranks; 0 as long as that is not known."""

    def hear(self, rank: str, lines: list[str], now: float) -> None:
        for line in lines:
            found = warning(line)
            if found is not None:
                self.heard.setdefault(found.key, _Heard(found, now)).ranks.add(rank)

    def due(self, now: float) -> list[str]:
        """Those that have not been told and have settled."""
        ripe = [one for one in self.heard.values() if not one.told and now - one.when >= SETTLE_SECONDS]
        for one in ripe:
            one.told = True
        return [self._line(one) for one in ripe]

    def _line(self, one: _Heard) -> str:
        places = [place for place in (one.first.source, self._who(one.ranks)) if place]
        return f"warning: {one.first.text}" + (f" ({', '.join(places)})" if places else "")

    def _who(self, ranks: set[str]) -> str:
        if len(ranks) >= self.world_size:
            return ""
        if len(ranks) > 4:
            return f"{len(ranks)} of {self.world_size} ranks"
        numbers = sorted((rank.removeprefix("rank ") for rank in ranks), key=lambda name: (len(name), name))
        return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(numbers)} of {self.world_size}"


class Heard:
    """New lines for the screen out of an attempt's logs: its warnings, or with `verbose` every line."""

    def __init__(self, attempt: Attempt, verbose: bool = False):
        self.logs, self.verbose = Logs(attempt, everything=verbose), verbose
        self.warnings = Warnings()
        self.looked = 0.0

    def look(self, last: bool = False) -> list[str]:
        """At the `last` look nothing waits any longer."""
        now = time.monotonic()
        if not last and now - self.looked < LOOK_SECONDS:
            return []
        self.looked = now
        if self.verbose:
            return self._everything(last)
        self.warnings.world_size = self.warnings.world_size or document(self.logs.attempt.plan).get("world_size", 0)
        for rank, new in self.logs.look():
            self.warnings.hear(rank, new, now)
        return self.warnings.due(now + (SETTLE_SECONDS if last else 0))

    def _everything(self, last: bool) -> list[str]:
        lines: list[str] = []
        while found := self.logs.look():
            lines += [printable(f"{whose}: {line}") for whose, new in found for line in new]
            if not last:
                break
        return lines
