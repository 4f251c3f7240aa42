"""A training run as a job of the tests' Slurm: started, disturbed at a step, and compared with an undisturbed one."""

import json
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, Workspace, read_rows
from tests.faults import before_steps
from tests.slurm.cluster import Cluster

STEPS = 22
# Between two looks of `muster status`: it takes a second of one of two cores.
STATUS_SECONDS = 3.0
# A step takes so long that a fault can be put between two of them.
SLOW = "import time; time.sleep(0.25)"
WAIT = """\
while (step, attempt) == (14, 1) and not (trainer.run_dir.root / "struck").exists():
    time.sleep(0.05)"""


@dataclass
class SlurmRun:
    """One job. `sections` are those of the spec, `fault` runs in each worker before each micro-batch (tests/faults)."""

    cluster: Cluster
    workspace: Workspace
    name: str
    nodes: int = 2
    spares: int = 0
    fault: str = "pass"
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    """Added to the environment of the job."""
    directory: Path | None = None
    waits_for_fault: bool = False
    """Whether the first attempt waits before a late step until `go_on` is called: it must not end before the fault
    has come, however slow this machine is."""
    job: str = ""

    @property
    def root(self) -> Path:
        return self.directory or self.workspace.root / self.name

    def submit(self, *arguments: str) -> "SlurmRun":
        """With the rest of muster's arguments, such as -s key=value."""
        sections = {
            "cluster": {"nodes": self.nodes, "devices_per_node": 1, "device": "cpu", "strategy": "ddp"},
            "data": {"eval": None}, "slurm": {"spares": self.spares} if self.spares else {},
            "recovery": {"hang_seconds": 60.0}, **self.sections,
        }  # fmt: skip
        sections["training"] = {"save_steps": 4, **self.sections.get("training", {})}
        spec = self.workspace.spec(self.name, **sections)
        wait = f"{WAIT}\n" if self.waits_for_fault else ""
        variables = before_steps(self.workspace.root / f"{self.name}-fault", f"{SLOW}\n{wait}{self.fault}")
        command = shlex.join(
            [sys.executable, "-m", "launch.supervisor", str(spec), "--run-dir", str(self.root), *arguments]
        )
        script = f"#!/bin/bash\nexec {command}\n"
        options = (
            f"--nodes={self.nodes + self.spares}", "--ntasks-per-node=1", "--no-kill", "--open-mode=append",
            "--requeue", "--signal=B:USR1@30", f"--chdir={ROOT}", *self.options,
        )  # fmt: skip
        self.job = self.cluster.submit(script, *options, env={**variables, **self.variables})
        return self

    # --- reading it ---

    def rows(self, name: str) -> list[dict[str, Any]]:
        path = self.root / name
        return read_rows(path) if path.exists() else []

    def events(self, *names: str) -> list[dict[str, Any]]:
        return [row for row in self.rows("events.jsonl") if row["event"] in names]

    def outcomes(self) -> list[str]:
        """The class of each attempt that ended."""
        return [json.loads(path.read_text())["class"] for path in sorted(self.root.glob("attempts/*/outcome.json"))]

    def step(self) -> int:
        path = self.root / "samples.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def ranks(self) -> dict[int, dict[str, Any]]:
        """The pulses of the newest attempt, by rank."""
        attempts = sorted(self.root.glob("attempts/*"))
        pulses = [json.loads(path.read_text()) for path in sorted(attempts[-1].glob("pulse-rank-*.json"))]
        return {pulse["rank"]: pulse for pulse in pulses}

    # --- waiting for it ---

    def until(self, done: Callable[[], bool], what: str, seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, (
                f"not {what} after {seconds:g} s\n{self.cluster.output(self.job)[-4000:]}"
            )
            time.sleep(0.05)

    def at_step(self, step: int, seconds: float = 200) -> "SlurmRun":
        """Waits until so many steps are trained."""
        self.until(lambda: self.step() >= step, f"at step {step}", seconds)
        return self

    def go_on(self) -> None:
        """The fault is there."""
        (self.root / "struck").touch()

    def ends(self, *states: str, seconds: float = 400) -> str:
        return self.cluster.wait(self.job, *states, seconds=seconds)

    def exit_code(self) -> int:
        return int(self.cluster.job(self.job)["ExitCode"].split(":")[0])

    def back_after(self, fault: float) -> float:
        """Seconds from the fault to the first step that was completed after it, in whatever attempt."""
        resumed = [row["time"] for row in self.events("resumed", "started") if row["time"] > fault]
        since = max(resumed[:2], default=fault)
        return min(row["time"] for row in self.rows("metrics.jsonl") if row.get("time", 0) > since) - fault


class Reader:
    """Reads a run directory without a pause, and asks `muster status` every few seconds, as somebody who looks at the
    worst moment does."""

    def __init__(self, run: SlurmRun):
        self.root, self.environment = run.root, run.cluster.environment()
        self.ended, self.looks = threading.Event(), 0
        self.states: list[str] = []
        """What `muster status` has said, in order."""
        self.jobs: set[str] = set()
        self.wrong: list[str] = []
        self.threads = [threading.Thread(target=look, daemon=True) for look in (self._read, self._ask)]

    def __enter__(self) -> "Reader":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def _read(self) -> None:
        while not self.ended.is_set():
            self.wrong += list(_inconsistent(self.root))
            self.looks += 1
            time.sleep(0.02)

    def _ask(self) -> None:
        """A process each time, as a person has it. Before plan.json is there it is no run directory."""
        while not self.ended.wait(STATUS_SECONDS):
            if (self.root / "plan.json").exists():
                argv = [sys.executable, "-m", "launch", "status", str(self.root), "--json"]
                done = subprocess.run(argv, cwd=ROOT, env=self.environment, capture_output=True, text=True)
                try:
                    found = json.loads(done.stdout)
                    self.states.append(found["state"])
                    self.jobs.add(found["job"])
                except (ValueError, KeyError, TypeError) as error:
                    self.wrong.append(f"muster status: {error}: {done.stdout[-500:]!r} {done.stderr[-500:]!r}")
                if done.returncode or "Traceback" in done.stderr or "warning" in done.stderr.lower():
                    self.wrong.append(f"muster status: exit code {done.returncode}: {done.stderr[-500:]!r}")


def _inconsistent(root: Path) -> Iterator[str]:
    """What is half written: JSON files, texts and lines that are not whole, checkpoints without all their files."""
    for path in [*root.glob("*.json"), *root.glob("attempts/*/*.json"), *root.glob("rendered/*.json")]:
        try:
            json.loads(path.read_text())
        except FileNotFoundError:
            continue
        except ValueError as error:
            yield f"{path}: {error}"
    for path in [root / "spec.yaml", *root.glob("rendered/*.yaml"), *root.glob("rendered/*.sbatch")]:
        try:
            if not path.read_text().endswith("\n"):
                yield f"{path}: is cut short"
        except FileNotFoundError:
            continue
    for path in root.glob("*.jsonl"):
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            continue
        for line in lines[:-1]:
            try:
                json.loads(line or b"{}")
            except ValueError as error:
                yield f"{path}: {error}: {line!r}"
    for path in root.glob("checkpoints/step-??????"):
        try:
            files = json.loads((path / "manifest.json").read_text())["files"]
            yield from (f"{path / name}: {(path / name).stat().st_size}" for name, known in files.items()
                        if (path / name).stat().st_size != known["bytes"])  # fmt: skip
        except FileNotFoundError:  # removed meanwhile: it was an old one
            if path.exists() and not (path / "manifest.json").exists():
                time.sleep(0.1)
                if path.exists():
                    yield f"{path}: has its name and no manifest"
