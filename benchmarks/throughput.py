"""Training speed of muster, TRL's SFTTrainer and LLaMA-Factory: the same job, rows and machine, in one run.

    python benchmarks/throughput.py --trl PYTHON --llamafactory PYTHON [--jobs 7b-fixed,...] [--json FILE]
    python benchmarks/throughput.py --cpu --trl PYTHON       a small model, where there is no GPU

PYTHON is that of an environment with the peer beside the same torch; without one muster runs alone. Each side trains
in a process of its own, in turn, `--repeats` times, a peer in each of its ways: the one with the most tokens/s counts,
and the ratio to it is the median of the pairs' ratios. Printed are tokens/s with padding left out, seconds a step, MFU
(FLOPs that LoRA needs, launch/plan/throughput.py, over the GPU's data sheet), the peak of memory, and the share of
computed positions that are tokens. All begin with random weights of the real shapes. On a CPU each has one thread, and
tokens per second of the process's own time are told beside those by the clock: on a machine that others use as well
they are what the work takes.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import check_names, count, interpreter, json_object, need_gpu, result_file
from benchmarks.jobs import WARM_UP, Clock, Job, Measured, Row, between, peak_bytes, rows, versions

ROOT = Path(__file__).resolve().parent.parent

ON_GPU = {
    f"{size}{suffix}-{lengths}": Job(f"qwen2.5-{size}", True, quantization, lengths, accumulation=2)
    for size in ("7b", "14b")
    for suffix, quantization in (("", "none"), ("-nf4", "nf4"))
    for lengths in ("fixed", "mixture")
}
ON_CPU = {
    f"small-{lengths}": Job("small", False, "none", lengths, max_length=2048, accumulation=2, steps=6)
    for lengths in ("fixed", "mixture", "rag")
}
# Ways to run a peer. Off packing it pads to the longest of four rows of similar lengths, or takes one row at a time,
# which a CPU does not mind and which pads nothing: eight rows to an optimizer step either way.
FOUR = {"per_device_train_batch_size": 4, "train_sampling_strategy": "group_by_length"}
ONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
RECOMPUTED, SELECTIVE = "recomputed", "selective"


@dataclass(frozen=True)
class Peer:
    name: str
    ways: dict[str, dict[str, Any]]
    """Its settings by the name of the way, in its own words."""

    def usual(self, gpu: bool) -> list[str]:
        """A GPU may not hold what blocks keep, as of a 14B; memory of a CPU is not what limits a small model."""
        return [way for way in self.ways if gpu or way not in (RECOMPUTED, SELECTIVE)]


PEERS = {
    "trl": Peer(
        "TRL",
        {
            "packed": {}, "padded": {"packing": False, **FOUR}, "single": {"packing": False, **ONE},
            RECOMPUTED: {"gradient_checkpointing": True},
            SELECTIVE: {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"selective": True}},
        },
    ),
    "llamafactory": Peer(
        "LLaMA-Factory",
        {
            "packed": {"neat_packing": True}, "padded": FOUR, "single": ONE,
            RECOMPUTED: {"neat_packing": True, "disable_gradient_checkpointing": False},
        },
    ),
}  # fmt: skip


def main() -> None:
    options = _options()
    if options.one:
        print(json.dumps(asdict(muster(Job(**json.loads(Path(options.one).read_text()))))))
        return
    need_gpu(options.cpu)
    known = ON_CPU if options.cpu else ON_GPU
    names = options.jobs.split(",") if options.jobs else known
    jobs = {
        name: replace(known[name], settings=options.set, steps=options.steps or known[name].steps) for name in names
    }
    check_settings(next(iter(jobs.values())))
    result: dict[str, Any] = {**machine(options.cpu), "repeats": options.repeats, "jobs": {}}
    for name, job in jobs.items():
        result["jobs"][name] = compared(job, options)
        print(json.dumps({name: result["jobs"][name]}, indent=1), flush=True)
        if options.json:  # after each job, for a machine may be taken away
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    if failed := [name for name, found in result["jobs"].items() if "muster" not in found]:
        sys.exit(f"muster failed in {', '.join(failed)}: {result['jobs'][failed[0]]['failed']['muster']}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true")
    for key, peer in PEERS.items():
        parser.add_argument(f"--{key}", metavar="PYTHON", type=interpreter, help=f"of an environment with {peer.name}")
        parser.add_argument(f"--{key}-ways", help=f"of running it, separated by commas: {', '.join(peer.ways)}")
        parser.add_argument(
            f"--{key}-set", default={}, type=json_object, help="more of its settings, as JSON, such as an attention"
        )
    parser.add_argument("--jobs", help="names, separated by commas; all unless given")
    parser.add_argument("--set", default={}, type=json_object, help="values of muster's spec by dotted key, as JSON")
    parser.add_argument("--repeats", type=count, default=3)
    parser.add_argument("--steps", type=count)
    parser.add_argument("--json", type=result_file)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    check_names(parser, "--jobs", options.jobs, ON_CPU if options.cpu else ON_GPU)
    for key, peer in PEERS.items():
        check_names(parser, f"--{key}-ways", getattr(options, f"{key}_ways"), peer.ways)
    return options


def check_settings(job: Job) -> None:
    """Ends the process at values that are no spec. What does not fit here is told of its job: another one may."""
    from launch.errors import MusterError

    try:
        spec_of(job)
    except MusterError as error:
        sys.exit(f"--set: {error}")


def machine(cpu: bool) -> dict[str, Any]:
    """What was measured on."""
    import torch

    return {
        "device": "cpu" if cpu else torch.cuda.get_device_name(), "processor": processor(),
        "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
        **versions(),
    }  # fmt: skip


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def compared(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """The job by each side in turn, and the ratios pair by pair."""
    sides = {"muster": (job, [sys.executable, __file__, "--one"])}
    for key, peer in PEERS.items():
        if python := getattr(options, key):
            more, argv = getattr(options, f"{key}_set"), [python, f"benchmarks/peers/{key}_train.py"]
            named = getattr(options, f"{key}_ways")
            for way in named.split(",") if named else peer.usual(job.gpu):
                sides[f"{peer.name} {way}"] = (replace(job, settings=peer.ways[way] | more), argv)
    runs: dict[str, list[Measured]] = {side: [] for side in sides}
    failed: dict[str, str] = {}
    for _ in range(options.repeats):
        for side, (what, argv) in sides.items():
            try:
                runs[side].append(_in_own_process(what, argv))
            except subprocess.CalledProcessError as error:
                failed[side] = error.stderr.strip().splitlines()[-1][:300] if error.stderr else str(error)
    found: dict[str, Any] = {side: _summary(job, measured) for side, measured in runs.items() if measured}
    if failed:
        found["failed"] = failed
    for peer in PEERS.values():
        theirs = [side for side in runs if side.startswith(peer.name) and runs[side]]
        if theirs and runs["muster"]:
            best = max(theirs, key=lambda side: found[side]["tokens_per_second"])
            found.setdefault("ratio", {})[peer.name] = {"to": best, **_ratio(runs["muster"], runs[best])}
    return found


def _ratio(ours: list[Measured], theirs: list[Measured]) -> dict[str, Any]:
    pairs = list(zip(ours, theirs, strict=False))
    clock = [one.tokens_per_second / other.tokens_per_second for one, other in pairs]
    own = [one.tokens_per_cpu_second / other.tokens_per_cpu_second for one, other in pairs]
    return {
        "median": round(statistics.median(clock), 3), "all": [round(r, 3) for r in clock],
        "by_cpu_seconds": round(statistics.median(own), 3), "all_by_cpu_seconds": [round(r, 3) for r in own],
    }  # fmt: skip


def _in_own_process(job: Job, argv: list[str]) -> Measured:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asdict(job), file)
        file.flush()
        environment = os.environ | ({} if job.gpu else {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
        done = subprocess.run([*argv, file.name], capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _summary(job: Job, measured: list[Measured]) -> dict[str, Any]:
    rate = statistics.median(one.tokens_per_second for one in measured)
    steps = [seconds for one in measured for seconds in one.step_seconds]
    own = statistics.median(one.tokens_per_cpu_second for one in measured)
    return {
        "tokens_per_second": round(rate, 1), "tokens_per_cpu_second": round(own, 1),
        "step_seconds": round(statistics.median(steps), 4), "mfu": mfu(job, rate),
        "peak_bytes": max(one.peak_bytes for one in measured),
        "packing_yield": round(sum(measured[0].step_tokens) / measured[0].computed_tokens, 4),
        "first_loss": round(measured[0].first_loss, 4), "versions": measured[0].versions,
    }  # fmt: skip


def mfu(job: Job, tokens_per_second: float) -> float | None:
    """Model FLOPs utilisation, as metrics.jsonl has it; None on a device whose rate is not known."""
    from launch.machine.discover import topology
    from launch.memory import adapter_of
    from launch.plan.throughput import flops_per_token
    from launch.spec import ClusterSpec, LoraSpec

    rates = topology(ClusterSpec(device="gpu" if job.gpu else "cpu", devices_per_node=1)).rates
    if rates is None:
        return None
    lengths = [len(row.ids) for row in rows(job)]
    mean = sum(length * length for length in lengths) / sum(lengths)  # of the row that a token is in
    needed = flops_per_token(job.architecture, adapter_of(job.architecture, LoraSpec(rank=job.rank)), mean)
    return round(needed * tokens_per_second / rates.flops, 4)


def muster(job: Job) -> Measured:
    """AdapterTrainer on the job, as a worker runs it."""
    import torch

    from benchmarks.random_model import random_base
    from launch.rundir import RunDir
    from training.loop.arguments import training_arguments
    from training.loop.trainer import AdapterTrainer
    from training.model.attention import register
    from training.model.loading import DTYPES, adapt
    from training.ranks.control import Control
    from training.ranks.engine import connect, launched

    torch.manual_seed(1)
    plan = planned(job)
    connect(plan, launched())
    register()
    device = torch.device("cuda" if job.gpu else "cpu")
    base = random_base(job.architecture, job.quantization, device, DTYPES[plan.precision], plan.attention)
    with tempfile.TemporaryDirectory() as folder:
        data, run = written(Path(folder, "rows"), rows(job), job.max_length), RunDir(Path(folder))
        arguments = training_arguments(plan, run, len(data), False, None, resuming=True)
        arguments.save_strategy = "no"
        trainer = AdapterTrainer(
            plan, run, Control(0, 1, run.stop), adapt(base, plan), Padding(), arguments, data, None
        )  # fmt: skip
        clock = Clock(job.gpu)
        trainer.add_callback(_watch(clock))
        trainer.train()
        ledger = [json.loads(line)["ids"] for line in run.samples.read_text().splitlines()]
        first = json.loads(run.metrics.read_text().splitlines()[0])["loss"]
    tokens = [sum(int(name.rpartition("-")[2]) for name in ids) for ids in ledger][WARM_UP:]
    places = job.steps * job.accumulation * job.max_length
    own = between(clock.own)
    return Measured(between(clock.wall), tokens, peak_bytes(job.gpu), first, own, places, versions())


class Padding:
    """What the trainer asks of a tokenizer whose rows are tokens already."""

    pad_token_id = 0


def planned(job: Job, devices: Any = None) -> Any:
    """As muster would run it on these devices, or on those that are here."""
    from launch.machine.discover import topology
    from launch.plan import resolve

    spec = spec_of(job)
    return resolve(spec, job.architecture, devices or topology(spec.cluster))


def spec_of(job: Job) -> Any:
    """Raises SpecError for settings that no spec has."""
    from launch.spec.file import parse_spec

    values: dict[str, Any] = {
        "name": "throughput", "model": {"variant": "qwen2.5-7b", "quantization": job.quantization},
        "lora": {"rank": job.rank, "dropout": 0.0},
        "data": {"train": "rows.jsonl", "max_length": job.max_length, "packing": True},
        "training": {
            "max_steps": job.steps + WARM_UP, "micro_batch_size": 1, "gradient_accumulation_steps": job.accumulation,
            "optimizer": "adamw_torch_fused", "warmup_ratio": 0.0, "log_steps": 25 if job.gpu else 1,
        },
        "cluster": {"device": "gpu" if job.gpu else "cpu", "devices_per_node": 1, "strategy": "single"},
    }  # fmt: skip
    for key, value in job.settings.items():
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    return parse_spec(json.dumps(values), "throughput")  # JSON is YAML


def written(folder: Path, made: list[Row], max_length: int) -> Any:
    """The rows as muster keeps tokens; a sample's name ends with its length."""
    import numpy as np
    import pyarrow as pa

    from training.data.sequences.packing import pack
    from training.data.sequences.tokens import SCHEMA, Sequences, Statistics

    folder.mkdir()
    columns = [
        [f"row-{number}-{len(row.ids)}" for number, row in enumerate(made)], [row.ids for row in made],
        [[row.trained_from, len(row.ids)] for row in made],
    ]  # fmt: skip
    with pa.ipc.new_file(str(folder / "tokens.arrow"), SCHEMA) as file:
        arrays = [pa.array(column, type=kind.type) for column, kind in zip(columns, SCHEMA, strict=True)]
        file.write_batch(pa.record_batch(arrays, schema=SCHEMA))
    lengths = np.array([len(row.ids) for row in made], dtype=np.int32)
    packs = pack(lengths, max_length)
    np.save(folder / "order.npy", packs.order)
    np.save(folder / "starts.npy", packs.starts)
    trained = sum(len(row.ids) - row.trained_from for row in made)
    found = Statistics(len(made), len(made), len(packs), int(lengths.sum()), trained, 0, {})
    (folder / "statistics.json").write_text(json.dumps(asdict(found)))
    (folder / "fingerprint.json").write_text('"random"')
    return Sequences(folder)


def _watch(clock: Clock) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    return Watch()


if __name__ == "__main__":
    main()
