"""Everything that is to be measured on a GPU, in order of worth, within so many minutes.

    python benchmarks/on_gpu.py --minutes 9 --out DIR [--only throughput,memory] [--trl PYTHON]
    python benchmarks/on_gpu.py --cpu --minutes 3 --out DIR       the whole chain with small models, where there is none
    python benchmarks/on_gpu.py --list [--cpu]                    the commands alone

Each step is a process with a time limit of its own: what fails or overruns costs the others nothing. DIR gets
results.json, written anew after each step with what it found, log.txt with what all printed, and running.json, what the
step under way has found so far. The same command again goes on with what is not done; a folder has the results of one
kind of device and of the same versions. Without bitsandbytes steps of packed bases and paged optimizers are left out,
without liger-kernel that of its loss, and without --trl, the Python of an environment with TRL, the comparison with it.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import check_names, interpreter
from benchmarks.jobs import versions

ROOT = Path(__file__).resolve().parent.parent
# Without these some steps are left out.
OPTIONAL = ("bitsandbytes", "liger_kernel")
# Below this a process has hardly imported torch.
LEAST_SECONDS = 10
OURS = (
    '{"training.loss": "chunked", "model.attention": "varlen", "lora.implementation": "fused", "model.norms": "fused"}'
)
# A base of real architecture and a few rows, so that preflight has a run to check.
WORKSPACE = (
    "import sys; from pathlib import Path; from tests.conftest import make_base, write_rows; "
    "root = Path(sys.argv[1]); (root / 'base').is_dir() or make_base(root / 'base'); "
    "write_rows(root / 'train.jsonl', 42, 'train')"
)


@dataclass(frozen=True)
class Step:
    name: str
    limit: int
    """Seconds."""
    argv: tuple[str, ...]
    """Of Python. RUNNING stands for the file that its result goes into, WORK for a folder."""
    prints_result: bool = False
    """Whether its result is what it prints, and not in RUNNING."""


def script(name: str, limit: int, file: str, *options: str) -> Step:
    return Step(name, limit, (f"benchmarks/{file}.py", *options, "--json", "RUNNING"))


PREPARED = (
    Step("workspace", 60, ("-c", WORKSPACE, "WORK")),
    Step("preflight", 60, ("-m", "launch", "preflight", "WORK/spec.yaml", "--json"), prints_result=True),
    Step("preflight-text", 60, ("-m", "launch", "preflight", "WORK/spec.yaml")),
)


def on_gpu(packages: Collection[str] = OPTIONAL, trl: str | None = None) -> tuple[Step, ...]:
    """`packages`: those of OPTIONAL that are installed; `trl`: a Python that has TRL. Limits are about twice what an
    H100 should need: 7B and 14B are drawn on the GPU in seconds, and a step of 8,192 tokens takes 0.6 s of a 7B by the
    planner."""
    packs = "bitsandbytes" in packages
    memory = "7b-4096-kept-torch,7b-4096-torch,14b-4096-torch"
    if packs:
        memory = "7b-4096-kept,7b-4096-kept-ours,7b-4096,7b-4096-kept-norms,7b-4096-kept-fused,14b-4096"
    more = "7b-nf4-4096,7b-4096-half-packed,14b-2048-half,8b-qwen3-4096" if packs else "7b-2048-torch,14b-2048-torch"
    pairs = ("--lengths", "mixture", "--pairs", "5")
    ours = ("--repeats", "1", "--set", OURS)
    steps = (
        *PREPARED,
        script("throughput", 90, "throughput", "--jobs", "7b-fixed", "--repeats", "1"),
        script("memory", 180, "memory_gpu", "--cases", memory),
        script("throughput-ours", 150, "throughput", "--jobs", "7b-fixed,7b-mixture", *ours),
        script("throughput-trl", 300, "throughput", "--jobs", "7b-fixed", *ours, "--trl", trl) if trl else None,
        script("profile", 90, "profile_step", "--jobs", "7b-fixed"),
        script("profile-ours", 90, "profile_step", "--jobs", "7b-mixture", "--set", OURS),
        script("throughput-nf4", 90, "throughput", "--jobs", "7b-nf4-fixed", "--repeats", "1") if packs else None,
        script("levers", 240, "levers", "--only", "lora,norms,loss,attention,checkpointing", *pairs),
        script("levers-liger", 60, "levers", "--only", "liger", *pairs) if "liger_kernel" in packages else None,
        script("saving", 60, "saving", "--saves", "3"),
        script("memory-more", 150, "memory_gpu", "--cases", more),
        script("throughput-14b", 120, "throughput", "--jobs", "14b-fixed", "--repeats", "1"),
        script("levers-rest", 240, "levers", "--only", "optimizer,compile", *pairs),
        Step("tests", 540, ("-m", "pytest", "tests/gpu", "-v", "-p", "no:cacheprovider")),
    )
    return tuple(step for step in steps if step)


def on_cpu() -> tuple[Step, ...]:
    few = ("--cpu", "--jobs", "small-fixed")
    return (
        *PREPARED,
        script("throughput", 120, "throughput", *few, "--repeats", "1", "--steps", "1"),
        script("memory", 120, "memory_gpu", "--cpu", "--cases", "tiny-256,tiny-256-packed,tiny-256-ours"),
        script("profile", 120, "profile_step", *few),
        script("levers", 120, "levers", "--cpu", "--only", "loss", "--lengths", "fixed", "--pairs", "1"),
        script("saving", 120, "saving", "--rank", "2", "--saves", "1"),
        Step("tests", 120, ("-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider")),
    )


def main() -> None:
    options = _options()
    installed = [package for package in OPTIONAL if importlib.util.find_spec(package)]
    steps = on_cpu() if options.cpu else on_gpu(installed, options.trl)
    if options.only:
        steps = tuple(step for step in steps if step.name in ("workspace", *options.only.split(",")))
    if options.list:
        for step in steps:
            print(f"{step.limit:4} s  {shlex.join([sys.executable, *step.argv])}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is under way ends with this process
    with Session(options.out, options.minutes, options.cpu) as session:
        for step in steps:
            session.take(step)
    if session.missing(steps):
        sys.exit(f"not done: {', '.join(session.missing(steps))}; the same command goes on with them")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=Path("build/on-gpu"))
    parser.add_argument("--only", help="names of steps, separated by commas")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--trl", metavar="PYTHON", type=interpreter, help="of an environment with TRL, to compare with")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    check_names(parser, "--only", options.only, sorted({step.name for step in (*on_cpu(), *on_gpu(trl="python"))}))
    return options


class Session:
    """One folder of results. What an earlier session there has done is kept, where it was of the same kind.

    Ends the process where it was not: a rehearsal's steps would else count as a GPU's.
    """

    def __init__(self, out: Path, minutes: float, cpu: bool) -> None:
        self.out, self.cpu, self.until = out.resolve(), cpu, time.monotonic() + 60 * minutes
        self.file, self.running, self.work = self.out / "results.json", self.out / "running.json", self.out / "work"
        kind = {"cpu": cpu, "python": platform.python_version(), "cores": os.cpu_count(), **versions()}
        self.found: dict[str, Any] = {**kind, "steps": {}}
        with contextlib.suppress(FileNotFoundError, ValueError):
            earlier = json.loads(self.file.read_text())
            differ = [name for name, value in kind.items() if earlier.get(name) != value]
            if differ:
                told = ", ".join(f"{name} {earlier.get(name)}, now {kind[name]}" for name in differ)
                sys.exit(f"{self.file} has results of another kind ({told}): choose another --out")
            self.found["steps"] = earlier["steps"]

    def __enter__(self) -> "Session":
        self.work.mkdir(parents=True, exist_ok=True)
        cluster = {"devices_per_node": 1, **({"device": "cpu"} if self.cpu else {})}
        spec = {
            "name": "on-gpu", "model": {"variant": "base"}, "data": {"train": "train.jsonl", "max_length": 512},
            "training": {"epochs": 1, "micro_batch_size": 1, "global_batch_size": 4, "optimizer": "adamw_torch"},
            "cluster": cluster,
        }  # fmt: skip
        (self.work / "spec.yaml").write_text(json.dumps(spec))  # JSON is YAML
        self.log: IO[str] = (self.out / "log.txt").open("a")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.close()

    def missing(self, steps: tuple[Step, ...]) -> list[str]:
        return [step.name for step in steps if self.found["steps"].get(step.name, {}).get("outcome") != "done"]

    def take(self, step: Step) -> None:
        """Runs a step that is not done and for which there is time, and keeps what it found."""
        left = self.until - time.monotonic()
        if not self.missing((step,)):
            return
        if left < LEAST_SECONDS:
            self._keep(step, {"outcome": "left out"})
            return
        self.running.unlink(missing_ok=True)
        began, limit = time.monotonic(), min(step.limit, left)
        code = self._run(step, limit)
        outcome = {0: "done", None: f"overran {limit:.0f} s"}.get(code, "failed")
        kept: dict[str, Any] = {
            "outcome": outcome, "exit_code": code, "seconds": round(time.monotonic() - began, 1),
            "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        with contextlib.suppress(FileNotFoundError, ValueError):  # it failed before it had any
            kept["result"] = json.loads(self.running.read_text())
        self.running.unlink(missing_ok=True)
        self._keep(step, kept)

    def _run(self, step: Step, limit: float) -> int | None:
        """Its exit code; None where it was ended, with all that it had started."""
        argv = [sys.executable, *(self._filled(word) for word in step.argv)]
        self.log.write(f"\n$ {shlex.join(argv)}\n")
        self.log.flush()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # a peer may stand there
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with self.running.open("w") if step.prints_result else contextlib.nullcontext(self.log) as printed:
            process = subprocess.Popen(
                argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=printed, stderr=self.log,
                start_new_session=True,
            )  # fmt: skip
            try:
                return process.wait(limit)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _filled(self, word: str) -> str:
        return str(self.running) if word == "RUNNING" else word.replace("WORK", str(self.work))

    def _keep(self, step: Step, kept: dict[str, Any]) -> None:
        self.found["steps"][step.name] = kept
        self.file.write_text(json.dumps(self.found, indent=1) + "\n")
        print(f"{step.name:16} {kept['outcome']}, {kept.get('seconds', 0):.0f} s", flush=True)


if __name__ == "__main__":
    main()
