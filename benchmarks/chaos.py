"""What each fault costs a run on a real Slurm, and whether it ends as the undisturbed one: docs/reliability.md.

python -m benchmarks.chaos [NAME ...]     # all of them take half an hour; root, and slurm-wlm, munge, iproute2
"""

import datetime
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.conftest import Workspace, make_base, write_rows
from tests.slurm.chaos import SCENARIOS, Scenario, assert_the_same, disturbed, heal
from tests.slurm.cluster import Cluster
from tests.slurm.runs import Reader, SlurmRun

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/chaos.json"
PAGE = ROOT / "docs/reliability.md"


def workspace() -> Workspace:
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    make_base(root / "base")
    write_rows(root / "train.jsonl", 42, "train")
    write_rows(root / "eval.jsonl", 5, "eval", first=100)
    return Workspace(root)


def measured(scenario: Scenario, cluster: Cluster, place: Workspace, undisturbed: SlurmRun) -> dict[str, Any]:
    """Raises AssertionError where the run does not end as it must."""
    run = disturbed(scenario, cluster, place)
    with Reader(run) as reader:
        struck = scenario.strike(run)
        run.go_on()
        state = run.ends()
    assert state == "COMPLETED", cluster.output(run.job)
    assert not reader.wrong, reader.wrong[:3]
    assert_the_same(run, undisturbed, scenario.tolerance)
    scenario.check(run)
    return {
        "name": scenario.name, "fault": scenario.does, "nodes": scenario.nodes, "spares": scenario.spares,
        "attempts": len(list(run.root.glob("attempts/*"))), "seconds_to_next_step": round(run.back_after(struck), 1),
        "tolerance": scenario.tolerance, "looks": reader.looks,
        "asked": len(reader.states),
    }  # fmt: skip


def machine() -> dict[str, Any]:
    packages = ("torch", "transformers", "accelerate", "peft")
    return {
        "date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "load": "beside other work on the same cores",
    }  # fmt: skip


def page(found: dict[str, Any]) -> str:
    """docs/reliability.md from the results."""
    rows = []
    for row in found["faults"]:
        equal = "to the last bit" if row["tolerance"] == 0 else f"within {row['tolerance']:g}"
        rows.append(f"| {row['fault']} | {row['attempts']} | {row['seconds_to_next_step']:g} | {equal} |")
    where = found["machine"]
    return TEXT.format(
        rows="\n".join(rows), date=where["date"], cores=where["cores"], python=where["python"],
        torch=where["packages"]["torch"], load=where["load"],
    )  # fmt: skip


TEXT = """\
# Reliability

Each fault below is put into a run of 22 steps on a real Slurm of three nodes in network namespaces (`tests/slurm`).
Afterwards the run is done, its ledger has each sample once an epoch, and losses and adapter are those of an undisturbed
run: the same to the last bit on as many devices, within 1e-5 otherwise. All the while a reader looks at every file of
the run directory, some forty times a second, and `muster status --json` is asked every 3 s: no file was ever half
written, and status never failed, nor called a run failed that went on.

| fault | attempts | seconds to the next step | equal to the undisturbed run |
| --- | --- | --- | --- |
{rows}

Seconds are from the fault to the first step that is completed after it, in whatever attempt. Some seven of them are the
import of torch, transformers and DeepSpeed on these cores. The tests' Slurm calls a node lost after 10 s of silence
(300 s by default), and where a silence has to be noticed `recovery.hang_seconds` is 15 (180 by default). Measured on
{date} with {cores} cores, Python {python}, torch {torch}, {load}.
`python -m benchmarks.chaos` makes this page anew; `make chaos` asserts all that it says but what is measured.

The head node whose link is cut still reaches the storage: its supervisor lets go of the other nodes, and one of them
gives the job back to Slurm, which by itself would leave it running until its time limit (`--no-kill`). The clock that
jumps is the one that the run's own Python processes on a node see: the tests' nodes share the machine's.

A supervisor that is killed is not the batch script's own process but its child: another one goes on in the same
allocation. The process of the batch script is small, and where it is killed itself Slurm ends the job as FAILED;
`muster status` says so, and `muster submit` goes on (`tests/slurm/test_in_job.py`).

Ends that are meant to be ends, each with its code and without a requeue (`tests/slurm/test_endings.py`): a disk that
fills up while a checkpoint is written (9; with space again `muster submit` goes on, and ends as undisturbed to the last
bit), a weight that is not finite with `stability.actions: []` (7), a row that cannot be used (5), memory that no
smaller micro-batch spares (6), restarts that bring no further step (10). A clock that is set back by an hour on the
batch script's node changes neither a stop (75) nor what follows it.

Not timed, but tried as well (`tests/slurm/test_in_job.py`, `test_salloc.py`, `test_container.py`): a supervisor that
hangs, on the nodes and outside of containers; nodes that are too few for the global batch, which the job is then kept
off; a site that starts no job again; one element of a sweep put back alone; a port that is held; Ctrl-C once and twice.

Not tried: real GPUs.
"""


def main(names: list[str]) -> None:
    chosen = [one for one in SCENARIOS if not names or one.name in names]
    before = json.loads(RESULTS.read_text())["faults"] if RESULTS.exists() else []
    rows = {row["name"]: row for row in before}
    place = workspace()
    with Cluster(nodes=3) as cluster:
        undisturbed = SlurmRun(cluster, place, "undisturbed").submit()
        undisturbed.ends("COMPLETED")
        for scenario in chosen:
            rows[scenario.name] = measured(scenario, cluster, place, undisturbed)
            print(json.dumps(rows[scenario.name]), flush=True)
            heal(cluster)
            in_order = [rows[one.name] for one in SCENARIOS if one.name in rows]
            found = {"machine": machine(), "faults": in_order}
            RESULTS.write_text(json.dumps(found, indent=2) + "\n")
            PAGE.write_text(page(found))


if __name__ == "__main__":
    main(sys.argv[1:])
