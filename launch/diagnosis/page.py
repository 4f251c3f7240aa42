"""A diagnosis as one page of plain text, and as JSON. Pure."""

import textwrap
from collections.abc import Iterable
from typing import Any

from launch.diagnosis.cause import Cause, Evidence
from launch.diagnosis.known import BY_NAME
from launch.diagnosis.report import Diagnosis, Tried
from launch.wording import local, plural, printable, span

WIDTH, MARGIN = 80, 11
# Lines of a log may be any length; the page shows the part that says it.
MOST_TEXT, MOST_ECHOES, MOST_TRIED = 300, 6, 8


def page(found: Diagnosis) -> str:
    last = found.tried[-1].number if found.tried else 0
    which = f", attempt {found.attempt} of {last}" if found.attempt else ""
    parts = [_row("run", f"{found.name}{which}: {found.status}"), _row("", str(found.run))]
    if found.cause is None:
        parts.append(_row("why" if found.status != "done" else "", found.why))
    else:
        parts += _cause(found.cause, found.why)
    if len(found.tried) > 1 or any(one.then for one in found.tried):
        parts.append(_attempts(found.tried))
    if found.cause is not None:
        parts += _fix(found.cause)
    parts += [_row("not read" if not index else "", told) for index, told in enumerate(found.unread)]
    return "\n".join(filter(None, parts))


def document(found: Diagnosis) -> dict[str, Any]:
    """What `muster diagnose --json` prints; docs/diagnose.md lists its keys."""
    return {
        "run": str(found.run), "name": found.name, "attempt": found.attempt, "status": found.status, "why": found.why,
        "cause": None if found.cause is None else _cause_document(found.cause),
        "attempts": [
            {
                "attempt": one.number, "exit_code": None if one.exit_code is None else int(one.exit_code),
                "class": None if one.exit_code is None else one.exit_code.name.lower(), "reason": one.reason,
                "step": one.step, "seconds": one.seconds, "then": list(one.then),
            }
            for one in found.tried
        ],
        "unread": list(found.unread),
    }  # fmt: skip


def _cause_document(cause: Cause) -> dict[str, Any]:
    known = BY_NAME.get(cause.name)
    return {
        "name": cause.name, "class": cause.exit_code.name.lower(), "exit_code": int(cause.exit_code),
        "rank": cause.rank, "node": cause.node, "time": cause.time, "phase": cause.phase, "step": cause.step,
        "summary": cause.summary, "certain": cause.certain, "another_try": cause.another_try, "fix": cause.fix,
        "source": known.source if known else "muster", "evidence": [_line_document(line) for line in cause.evidence],
        "echoes": [_line_document(line) for line in cause.echoes],
    }  # fmt: skip


def _line_document(line: Evidence) -> dict[str, Any]:
    return {
        "file": line.file, "line": line.line, "text": line.text, "rank": line.rank, "node": line.node,
        "time": line.time,
    }  # fmt: skip


def _cause(cause: Cause, why: str) -> list[str]:
    sure = "" if cause.certain else " (probably: no log tells of anything that came before)"
    known = BY_NAME.get(cause.name)
    kind = f"{cause.exit_code.name.lower()}, exit code {int(cause.exit_code)}; {cause.name}"
    parts = [_row("cause", f"{why}{sure}"), _row("class", kind)]
    if known is not None:
        parts.append(_row("said by", known.source))
    parts.append(_row("when", _when(cause)))
    parts.append(_lines("evidence", cause.evidence))
    if cause.echoes:
        more = len(cause.echoes) - MOST_ECHOES
        parts.append(_lines("echoes", cause.echoes[:MOST_ECHOES], short=True))
        parts += [_row("", f"and {plural(more, 'more line')}")] if more > 0 else []
    return parts


def _when(cause: Cause) -> str:
    at = local("%Y-%m-%d %H:%M:%S", cause.time) if cause.time is not None else ""
    doing = f"in {cause.phase}" if cause.phase in ("forward", "backward") else cause.phase or ""
    return ", ".join(filter(None, (at, doing, f"step {cause.step}" if cause.step is not None else "")))


def _lines(title: str, found: Iterable[Evidence], short: bool = False) -> str:
    parts = []
    for index, line in enumerate(found):
        who = f" (rank {line.rank})" if line.rank is not None and short else ""
        parts.append(_row(title if not index else "", f"{line.file}:{line.line}{who}"))
        text = printable(line.text)
        most = WIDTH - MARGIN - 2 if short else MOST_TEXT
        parts.append(_row("", text if len(text) <= most else f"{text[: most - 3]}...", indent=2))
    return "\n".join(parts)


def _attempts(tried: tuple[Tried, ...]) -> str:
    parts = []
    for index, one in enumerate(tried[-MOST_TRIED:]):
        kind = one.exit_code.name.lower() if one.exit_code is not None else "no outcome"
        facts = [kind, f"step {one.step}" if one.step is not None else "", span(one.seconds) if one.seconds else ""]
        parts.append(_row("tried" if not index else "", f"{one.number}: {', '.join(filter(None, facts))}"))
        parts += [_row("", told, indent=3) for told in one.then]
    return "\n".join(parts)


def _fix(cause: Cause) -> list[str]:
    again = "" if cause.another_try else "the same again would end the same way"
    return [_row("fix", cause.fix), _row("" if cause.fix else "fix", again)]


def _row(title: str, text: str, indent: int = 0) -> str:
    """A title in the margin and the text beside it. Paths and commands are never broken in two."""
    if not text:
        return ""
    rest = " " * (MARGIN + indent)
    return "\n".join(
        textwrap.wrap(
            text, WIDTH, initial_indent=f"{title:<{MARGIN}}" + " " * indent, subsequent_indent=rest,
            break_long_words=False, break_on_hyphens=False,
        )
    )  # fmt: skip
