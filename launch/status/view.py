"""What runs are doing, for people."""

import time
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from launch.errors import ExitCode
from launch.status.following import Status
from launch.wording import local, printable, span

STYLES = {"running": "green", "finished": "green", "failed": "red", "interrupted": "red", "waiting": "yellow"}


def status_view(found: Status) -> RenderableType:
    """One run, a fact a row."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(found).items():
        style = STYLES.get(found.state, "") if name == "state" else ""
        table.add_row(name, Text(printable(value), style=style))
    return table


def _facts(found: Status) -> dict[str, str]:
    facts = {"run": found.run, "state": f"{found.state}: {found.why}" if found.why else found.state}
    if found.job is not None:
        facts["job"] = _job(found)
    if found.attempt:
        facts["attempt"] = str(found.attempt)
    if found.step is not None:
        facts["step"] = _step(found)
    if found.loss is not None:
        facts["loss"] = f"{found.loss:.4f}"
    if found.eta_seconds is not None:
        facts["done in"] = f"about {span(found.eta_seconds)}"
    if found.time_left_seconds is not None:
        facts["time left"] = f"{span(found.time_left_seconds)} of the job"
    if found.checkpoint is not None:
        facts["checkpoint"] = f"step {found.checkpoint.step}, {span(max(time.time() - found.checkpoint.time, 0))} ago"
    if found.holder is not None:
        facts["held by"] = found.holder
    return facts


def _job(found: Status) -> str:
    slurm = found.slurm
    if slurm is None:
        return f"{found.job}, of which Slurm knows nothing any more" if not found.slurm_silence else str(found.job)
    # Slurm calls every exit code but 0 a failure, 75 too: stopped on purpose.
    ended_well = slurm["exit_code"] == ExitCode.STOPPED and slurm["state"] == "FAILED"
    parts = [f"{found.job} {'stopped' if ended_well else slurm['state'].lower()}"]
    if slurm["nodes"]:
        parts.append(f"on {slurm['nodes']}")
    if found.state == "waiting" and slurm["start"]:
        parts.append(f"expected to start {local('%Y-%m-%d %H:%M', slurm['start'])}")
    if slurm["restarts"]:
        parts.append(f"requeued {slurm['restarts']} times" if slurm["restarts"] > 1 else "requeued once")
    if slurm["exit_code"] or (slurm["exit_code"] == 0 and slurm["state"] != "CANCELLED"):
        parts.append(f"exit code {slurm['exit_code']}")
    return ", ".join(parts)


def _step(found: Status) -> str:
    return f"{found.step} of {found.steps}" if found.steps else str(found.step)


def status_list(found: Sequence[Status]) -> RenderableType:
    """A run a row."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run", style="bold", no_wrap=True)
    for column in ("state", "job", "step", "loss", "done in", "checkpoint"):
        table.add_column(column, overflow="fold")
    for each in found:
        folder = each.run.split("/")
        name = "/".join(folder[-2:]) if folder[-1].isdecimal() else folder[-1]
        job = f"{each.job} {each.slurm['state'].lower()}" if each.job and each.slurm else each.job or ""
        table.add_row(
            printable(name), Text(printable(f"{each.state}: {each.why}" if each.why else each.state),
                                  style=STYLES.get(each.state, "")),
            job, _step(each) if each.step is not None else "", f"{each.loss:.4f}" if each.loss is not None else "",
            span(each.eta_seconds) if each.eta_seconds is not None else "",
            f"step {each.checkpoint.step}" if each.checkpoint else "",
        )  # fmt: skip
    return table
