"""A worker's process: arguments, the plan, logs, and how it ends."""

import argparse
import contextlib
import logging
import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from launch.claim import claim, finished, hold, take
from launch.diagnosis.exceptions import classify, failure
from launch.errors import ExitCode, MusterError, PreflightError, Stopped, UsageError
from launch.logs.noise import PYTHON_FORMAT
from launch.machine.devices import BY_BUS, ORDER
from launch.machine.discover import topology
from launch.plan import Plan, as_launched
from launch.plan.from_spec import planned
from launch.preflight import CHECKS, Context, accept, document, require, run_checks
from launch.processes import log_writer
from launch.redact import redact
from launch.render import complete_deepspeed
from launch.rundir import Attempt, RunDir
from launch.rundir.journal import event, write_json
from launch.spec import RunSpec
from training.imports import importing
from training.ranks.engine import Launched, check_processes, connect, launched, read_deepspeed
from training.telemetry.pulse import Heartbeat
from training.telemetry.telling import telling

# A launcher ends all its workers when the first one ends: the one that tells why must not be that one's victim.
SPEAK_SECONDS = 5.0
LOOK_SECONDS = 0.2


@dataclass
class Worker:
    """What the failure report needs, filled in as it becomes known."""

    rank: int
    console: Any
    local_rank: int = 0
    run: RunDir | None = None
    attempt: Attempt | None = None
    pulse: Heartbeat = field(init=False)
    claimed: IO[str] | None = None
    """The lock of a run directory that this process made; open until it ends."""

    def __post_init__(self) -> None:
        self.pulse = Heartbeat(self.rank)

    def say(self, text: str) -> None:
        """To rank 0's terminal. Until there is a log, the first rank of every other node speaks as well."""
        with contextlib.suppress(OSError):  # a terminal that was closed ends nobody's training
            if self.rank == 0:
                print(redact(text), file=self.console, flush=True)
            elif self.local_rank == 0 and self.attempt is None:
                print(redact(f"rank {self.rank}: {text}"), file=self.console, flush=True)

    def begin(self, attempt: Attempt) -> None:
        """From here on everything goes to the attempt's log of this rank."""
        attempt.root.mkdir(parents=True, exist_ok=True)
        self.attempt, self.console = attempt, _redirect(attempt.log(self.rank))
        self.pulse.begin(attempt)


def main() -> NoReturn:
    arguments = _arguments()
    worker = Worker(int(os.environ.get("RANK", "0")), sys.stderr, int(os.environ.get("LOCAL_RANK", "0")))
    os.environ.setdefault(ORDER, BY_BUS)  # before CUDA starts: rank 0's GPU is the one that was looked at
    code, reason = ExitCode.DONE, "done"
    try:
        _work(worker, arguments, launched())
    except BaseException as error:  # noqa: BLE001 - whatever ends a worker has to be reported
        code, reason = _failed(worker, error)
    if worker.rank == 0 and worker.attempt is not None and arguments.attempt is None:
        with contextlib.suppress(OSError):
            write_json(worker.attempt.outcome, {"exit_code": int(code), "class": code.name.lower(), "reason": reason})
    if code in (ExitCode.DONE, ExitCode.STOPPED):
        worker.pulse.end()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a communicator that waits for a dead rank would hold the interpreter's shutdown for minutes.
    os._exit(code)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train what a spec asks for, as one worker of however many were launched.",
    )
    parser.add_argument("target", help="a spec, or a run directory that holds plan.json")
    parser.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="override one value of the spec"
    )
    parser.add_argument("--run-dir", help="where the run directory goes (default runs/NAME)")
    parser.add_argument("--resume", default="auto", help="auto, never, or a checkpoint directory")
    parser.add_argument(
        "--verbose", action="store_true", default=os.environ.get("MUSTER_VERBOSE", "0") not in ("", "0"),
        help="show every line that the ranks print, too (or MUSTER_VERBOSE=1)",
    )  # fmt: skip
    parser.add_argument("--attempt", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _work(worker: Worker, arguments: argparse.Namespace, place: Launched) -> None:
    plan, run = _plan(worker, arguments, place)
    worker.run = run
    deepspeed = _deepspeed(plan, place)
    if arguments.attempt is not None:
        worker.begin(run.attempt(arguments.attempt))
    # A library that has set nothing up prints its warnings by this: without a level nobody could tell them apart.
    assert logging.lastResort is not None
    logging.lastResort.setFormatter(logging.Formatter(PYTHON_FORMAT))
    # Says at import, on every run, that a kernel for inference is not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with importing(plan.unused):
        from training.train import load_data, train

    # `never` is for another run: rank 0 moves the finished one aside, perhaps a moment after we look.
    done = arguments.resume != "never" and finished(run)
    _lock = hold(run, run.lock) if place.rank == 0 else None  # kept until this process ends
    # Before the process group: while rank 0 tokenises, the others wait on the file system, where nothing times out.
    data = None if done else load_data(plan, run, place.rank == 0, worker.say)
    connect(plan, place)
    from transformers.utils.logging import enable_explicit_format

    enable_explicit_format()  # likewise
    from training.ranks.control import Control

    control = Control(place.rank, place.world_size, run.stop, worker.pulse)
    control.listen()
    number = control.share(arguments.attempt or run.last_attempt() + 1 if place.rank == 0 else None)
    attempt = run.attempt(number)
    if worker.attempt is None:
        worker.begin(attempt)
    if plan.topology.nodes > 1:
        from training.ranks.fleet import meet

        meet(plan, run, control, place)
    if place.rank == 0 and arguments.attempt is None:
        write_json(attempt.plan, plan.model_dump(mode="json"))
    if data is None:
        worker.say(f"this run is finished; its adapter is in {run.adapter}. To train it again: --resume never")
        return
    if arguments.attempt is None:  # `muster run` has done so before it started us; a stop since then is meant for us
        run.stop.unlink(missing_ok=True)
    worker.say(
        f"training {plan.name} with {plan.strategy} on {plan.world_size} {plan.topology.device_name}; run"
        f" directory {run.root}"
    )
    by_hand = place.rank == 0 and arguments.attempt is None  # else whoever started us tells what is written
    with telling(run, number, worker.say, arguments.verbose) if by_hand else contextlib.nullcontext():
        train(plan, run, control, data, number, arguments.resume, deepspeed)
    worker.say(f"done: {run.adapter}")


def _plan(worker: Worker, arguments: argparse.Namespace, place: Launched) -> tuple[Plan, RunDir]:
    """The plan of a run directory, or that of a spec for what was launched."""
    target = Path(arguments.target)
    if target.is_dir():
        run = RunDir(target.resolve())
        return _made_plan(run, arguments), run
    nodes = max(1, place.world_size // place.local_world_size)
    warnings: list[str] = []

    def adjust(spec: RunSpec) -> RunSpec:
        launched_spec, differing = as_launched(spec, place.strategy, nodes, place.local_world_size, place.by_hand)
        warnings.extend(differing)
        return launched_spec

    plan = planned(target, arguments.set, topology, adjust)
    if not place.by_hand and place.world_size == 1:
        check_processes(1)
    for warning in [*warnings, *plan.warnings]:
        worker.say(f"warning: {warning}")
    run = RunDir(Path(arguments.run_dir or f"runs/{plan.name}").resolve())
    if place.rank == 0:
        claim(run, plan, arguments.resume)
        context = Context(plan=plan, run=run)
        results = accept(run_checks(context, CHECKS), plan.spec.preflight.accept, [check.name for check in CHECKS])
        require(results)
        worker.claimed = take(run, plan, arguments.resume)
        write_json(run.preflight, document(results, context.place))
    elif nodes > 1:
        _see(run.plan, 2 * plan.spec.preflight.allreduce_seconds)
    return plan, run


def _see(plan: Path, limit: float) -> None:
    """Waits for what rank 0 writes once its checks have passed: from then on all meet through the run directory."""
    deadline = time.monotonic() + limit
    while not plan.exists():
        if time.monotonic() > deadline:
            raise PreflightError(
                f"fleet-directory: {os.uname().nodename} does not see {plan}, which rank 0 writes when its checks have"
                " passed: choose a --run-dir on storage that every node mounts, or see rank 0's own messages"
            )
        time.sleep(LOOK_SECONDS)


def _made_plan(run: RunDir, arguments: argparse.Namespace) -> Plan:
    """The plan of a run directory, which nothing on the command line can change any more."""
    if not run.plan.exists():
        raise UsageError(
            f"{arguments.target}: no plan.json in this directory; give a spec, or a run directory that `muster run` has"
            " made"
        )
    if arguments.set or arguments.run_dir:
        raise UsageError(
            f"{arguments.target}: its plan is made, and nothing would read -s or --run-dir; give the spec instead"
        )
    try:
        return Plan.model_validate_json(run.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = f"{run.plan}: cannot be read ({type(error).__name__})"
        raise UsageError(f"{reason}; start from the spec, with --resume never to move this run aside") from None


def _deepspeed(plan: Plan, place: Launched) -> dict[str, Any] | None:
    """The DeepSpeed file that this worker was launched with, completed from the plan."""
    if not plan.zero_stage:
        return None
    if place.deepspeed_file is None:
        raise UsageError(
            f"the plan is {plan.strategy}, but this worker was not launched with DeepSpeed; use"
            f" accelerate_configs/{plan.strategy}.yaml"
        )
    completed, contradictions = complete_deepspeed(read_deepspeed(place.deepspeed_file), plan)
    if contradictions:
        lines = [f"{place.deepspeed_file}: {'.'.join(path)}: {problem}" for path, problem in contradictions]
        raise UsageError("\n".join(lines))
    return completed


def _redirect(log: Path) -> Any:
    """Sends everything this process prints, C libraries included, to its log; returns the terminal."""
    console = os.fdopen(os.dup(2), "w", errors="backslashreplace")
    # Whoever reads what we print there, as the launcher's log does, knows by its end that this log is complete, too.
    writer = log_writer(log, kept=[console.fileno()])
    assert writer.stdin is not None
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(writer.stdin.fileno(), 1)
    os.dup2(writer.stdin.fileno(), 2)
    writer.stdin.close()
    return console


def _failed(worker: Worker, error: BaseException) -> tuple[ExitCode, str]:
    """Says what happened, where others will look for it, and returns the exit code with the reason."""
    code, message = classify(error)
    worker.say(f"{'stopped' if isinstance(error, Stopped) else 'error'}: {message}")
    if worker.attempt is None and worker.local_rank:
        time.sleep(SPEAK_SECONDS)
    if not isinstance(error, MusterError):
        traceback.print_exc()
    attempt = worker.attempt
    # Once the attempt is over its ranks are being ended, and the last of them fail for want of the others.
    if attempt is None or not attempt.root.is_dir() or attempt.over.exists() or isinstance(error, Stopped):
        return code, message
    told = failure(worker.rank, error)
    try:
        write_json(attempt.failure(worker.rank), told)
        if worker.run is not None and worker.rank == 0:
            event(worker.run.events, "failed", **{"class": told["class"], "message": message})
    except OSError as full:
        worker.say(f"the failure could not be written to {attempt.root}: {full}")
    return code, message
