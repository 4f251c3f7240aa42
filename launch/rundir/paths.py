"""The name of every file in a run directory. One truth: nothing else spells them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Written into a checkpoint last: a directory without it is none.
MANIFEST = "manifest.json"
# A checkpoint's step, and what it was trained on.
PROGRESS = "progress.json"
# What a rank is doing. `starting` takes as long as reading data and a model takes; the others go on from mark to mark.
# What a rank does. One that has `ended` did all that it had to: its process may go on for a moment.
Phase = Literal["starting", "meeting", "rehearsing", "training", "evaluating", "saving", "ended"]
# What `muster stop` writes into the stop file: a person's wish outranks a scheduler's.
BY_A_PERSON = "muster stop\n"
# What a node writes there that has heard a scheduler's warning which was not meant for it (--signal without B:).
BY_A_WARNING = "a scheduler's warning\n"
# A rank, and whoever supervises it, shows so often that it lives.
BEAT_SECONDS = 1.0
# An adapter in PEFT's own format.
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class RunDir:
    root: Path

    @property
    def spec(self) -> Path:
        return self.root / "spec.yaml"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def rendered(self) -> Path:
        return self.root / "rendered"

    @property
    def accelerate(self) -> Path:
        return self.rendered / "accelerate.yaml"

    @property
    def deepspeed(self) -> Path:
        return self.rendered / "deepspeed.json"

    @property
    def job_script(self) -> Path:
        """What `muster submit` gave to sbatch."""
        return self.rendered / "job.sbatch"

    @property
    def job(self) -> Path:
        """{id, cluster, partition, script, submitted}: the batch job that was submitted last."""
        return self.root / "job.json"

    @property
    def sweep(self) -> Path:
        """[{element, run, changes}]: in the folder of a sweep, whose runs are folders inside it."""
        return self.root / "sweep.json"

    @property
    def preflight(self) -> Path:
        return self.root / "preflight.json"

    @property
    def metrics(self) -> Path:
        """A row per logged optimizer step and per evaluation."""
        return self.root / "metrics.jsonl"

    @property
    def resources(self) -> Path:
        """Samples of every GPU, or of the host where there is none."""
        return self.root / "resources.jsonl"

    @property
    def events(self) -> Path:
        """{event, time, ...}: a row for each thing that happened.

        submitted, started, checkpoint_refused, resumed, verified, rehearsed, forecast_off, saved, best_loaded, skipped,
        rolled_back, learning_rate_lowered, warning, stopped, finished, failed; of whoever supervises the run: oom,
        job_started, supervisor_killed, restarted, node_excluded, paired, giving_back, requeued, kept, grace_short.
        """
        return self.root / "events.jsonl"

    @property
    def samples(self) -> Path:
        """{step, epoch, ids}: the samples each optimizer step trained on, all ranks together. A step whose update the
        stability guard left out has no ids but left_out, those of its global batch."""
        return self.root / "samples.jsonl"

    @property
    def stability(self) -> Path:
        """What the stability guard has learnt: batches that are left out, and smaller learning rates. Only where there
        was trouble."""
        return self.root / "stability.json"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def evaluations(self) -> Path:
        return self.root / "evaluations"

    @property
    def answers(self) -> Path:
        """What the model answered at each evaluation, where training.eval_samples asks for it."""
        return self.root / "answers.jsonl"

    @property
    def report(self) -> Path:
        """The page that `muster report` writes."""
        return self.root / "report.html"

    @property
    def tokens(self) -> Path:
        """Tokenised rows, one folder a fingerprint."""
        return self.root / "tokens"

    @property
    def tensorboard(self) -> Path:
        """Event files, where training.report_to names it."""
        return self.root / "tensorboard"

    @property
    def mlflow(self) -> Path:
        """MLflow's store, where training.report_to names it and the environment names no other."""
        return self.root / "mlflow.db"

    @property
    def trackers(self) -> Path:
        """By which environment variables MLflow and W&B find their run of this one again."""
        return self.root / "trackers.json"

    @property
    def lock(self) -> Path:
        """Held by the process that trains in this directory."""
        return self.root / "lock"

    @property
    def claimed(self) -> Path:
        """Held by the process that prepared this directory, until its attempt has ended."""
        return self.root / "claimed"

    @property
    def stop(self) -> Path:
        """Exists while somebody asks the run to save and stop."""
        return self.root / "stop"

    def attempt(self, number: int) -> "Attempt":
        return Attempt(self.attempts / f"{number:03d}")

    def last_attempt(self) -> int:
        """The highest attempt number, 0 without any."""
        numbers = [int(path.name) for path in self.attempts.glob("[0-9]*") if path.name.isdigit()]
        return max(numbers, default=0)

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"

    def complete_checkpoints(self) -> list[Path]:
        """Checkpoint directories, newest first. One with this name was written whole."""
        found = [path for path in self.checkpoints.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
        return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


@dataclass(frozen=True)
class RankFiles:
    """What each process leaves behind, of an attempt and of an evaluation alike."""

    root: Path

    def log(self, rank: int) -> Path:
        return self.root / f"rank-{rank}.log"

    def failure(self, rank: int) -> Path:
        return self.root / f"failure-rank-{rank}.json"

    def failures(self) -> list[Path]:
        return sorted(self.root.glob("failure-rank-*.json"))


class Attempt(RankFiles):
    @property
    def number(self) -> int:
        return int(self.root.name)

    @property
    def plan(self) -> Path:
        """What this attempt ran; another attempt of the same run may use other hardware."""
        return self.root / "plan.json"

    @property
    def outcome(self) -> Path:
        return self.root / "outcome.json"

    @property
    def launcher_log(self) -> Path:
        return self.root / "launcher.log"

    def launcher_log_of(self, node: str) -> Path:
        """Where several nodes have a launcher each."""
        return self.root / f"launcher-{node}.log"

    def pulse(self, rank: int) -> Path:
        """{rank, node, pid, phase, step, marks, time} of a rank, written anew every BEAT_SECONDS."""
        return self.root / f"pulse-rank-{rank}.json"

    def pulses(self) -> list[Path]:
        return sorted(self.root.glob("pulse-rank-*.json"))

    def stacks(self, rank: int) -> Path:
        """Stacks of all threads of a rank, by faulthandler; empty unless somebody asked for them."""
        return self.root / f"stacks-rank-{rank}.txt"

    def flight(self, rank: int) -> Path:
        """The last collectives of a rank that hung, by torch's flight recorder: `torchfrtrace --prefix flight-rank-`
        compares those of all ranks. Only where torch has kept any."""
        return self.root / f"flight-rank-{rank}"

    @property
    def stacks_wanted(self) -> Path:
        """Exists once somebody asks every rank for its stacks and its collectives."""
        return self.root / "stacks-wanted"

    @property
    def supervisor(self) -> Path:
        """{node, pid, time} of whoever supervises this attempt, written anew every BEAT_SECONDS."""
        return self.root / "supervisor.json"

    def ended_on(self, node: str) -> Path:
        """Exists once nothing of this attempt runs on one of several nodes any more, and not all of it ended well."""
        return self.root / f"ended-{node}"

    def ended_somewhere(self) -> bool:
        return any(self.root.glob("ended-*"))

    @property
    def over(self) -> Path:
        """Exists once this attempt has to end: every node kills what it still runs of it."""
        return self.root / "over"
