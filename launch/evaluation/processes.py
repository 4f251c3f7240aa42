"""The processes of an evaluation on this machine: started, followed, and what they found put together."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from launch.diagnosis.ending import first_cause, read_failures
from launch.errors import ExitCode, ProcessFailed
from launch.evaluation.asked import MODELS, Job, answered, report
from launch.evaluation.directory import Evaluation
from launch.logs.happened import data_line
from launch.machine.workers import environment
from launch.processes import die_with_parent, log_writer
from launch.rundir.journal import rows, write_json, write_text
from launch.rundir.tail import Tail

LOOK_SECONDS = 0.2


def evaluate_job(job: Job, place: Evaluation, console: Console) -> dict[str, Any]:
    """Runs the job's processes and returns the report; both it and the answers are in `place`.

    Raises ProcessFailed with the first cause when one of them fails; the others are ended then.
    """
    began = time.monotonic()
    write_text(place.job, job.model_dump_json(indent=2) + "\n")
    try:
        _run(job, place, console)
        found = [row for rank in range(job.processes) for row in rows(place.found(rank))]
        made = report(job, found, time.monotonic() - began)
        write_text(place.answers, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answered(found)))
        write_json(place.report, made)
    finally:
        _keep_quarantine(place)
    for rank in range(job.processes):  # all of it has gone into report and answers
        place.found(rank).unlink()
    return made


def _run(job: Job, place: Evaluation, console: Console) -> None:
    with ExitStack() as ending:
        workers = [_start(place, rank, ending) for rank in range(job.processes)]
        with _Progress(job, place, console) as progress:
            while any(worker.poll() is None for worker in workers):
                progress.look()
                if any(worker.returncode for worker in workers):
                    break
                time.sleep(LOOK_SECONDS)
        # Before the others are ended: their return codes are then ours.
        bad = [(rank, worker.returncode) for rank, worker in enumerate(workers) if worker.returncode]
    if bad:
        raise _failed(place, *bad[0])


def _start(place: Evaluation, rank: int, ending: ExitStack) -> "subprocess.Popen[bytes]":
    variables = environment(os.environ)
    writer = log_writer(place.log(rank), variables)
    worker = subprocess.Popen(
        [sys.executable, "-m", "training.evaluation", str(place.root), str(rank)],
        stdin=subprocess.DEVNULL, stdout=writer.stdin, stderr=writer.stdin, env=variables, start_new_session=True,
        preexec_fn=partial(die_with_parent, os.getpid()),
    )  # fmt: skip
    assert writer.stdin is not None
    writer.stdin.close()

    def end() -> None:
        worker.kill()
        worker.wait()
        writer.wait()

    ending.callback(end)
    return worker


def _failed(place: Evaluation, rank: int, returncode: int) -> ProcessFailed:
    cause = first_cause(read_failures(place))
    if cause is not None:
        return ProcessFailed(ExitCode(cause["exit_code"]), cause["message"])
    code = ExitCode(returncode) if returncode in set(ExitCode) - {ExitCode.INTERNAL} else ExitCode.WORKER
    how = f"was killed by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"
    return ProcessFailed(code, f"process {rank} of the evaluation {how} and left no reason; its log: {place.log(rank)}")


def _keep_quarantine(place: Evaluation) -> None:
    """Tokens can be made again; rows that were left out are looked for."""
    for file in place.tokens.glob("*/quarantine.jsonl"):
        if file.stat().st_size:
            shutil.copyfile(file, place.quarantine)
    shutil.rmtree(place.tokens, ignore_errors=True)


class _Progress:
    """A bar over the answers of base and adapter; without a terminal nothing."""

    def __init__(self, job: Job, place: Evaluation, console: Console):
        self.console = console
        self.measured: Counter[str] = Counter()
        self.tails = [Tail(place.found(rank)) for rank in range(job.processes)]
        self.bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("loading", total=None)

    def __enter__(self) -> "_Progress":
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.look()
        self.bar.__exit__(None, None, None)

    def look(self) -> None:
        with suppress(OSError):  # a terminal that was closed
            for row in (row for tail in self.tails for row in tail.rows()):
                self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        match row["kind"]:
            case "data":
                total = len(MODELS) * row["questions"]
                self.bar.update(self.task, total=total or None, description="held-out loss")
                where = "quarantine.jsonl of the results"
                self.console.print(data_line("evaluation", row["statistics"], where))
            case "loss":
                self.bar.update(self.task, description=f"answers of the {row['model']}")
                self.measured[row["model"]] += 1
                if self.measured[row["model"]] == len(self.tails) and not self.console.is_terminal:
                    self.console.print(f"loss of the {row['model']}: measured")
            case "answer":
                self.bar.advance(self.task)
