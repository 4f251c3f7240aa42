"""What the documents say is what the code says."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import latency, scaling, stragglers
from benchmarks.levers import LEVERS, WITH_LIGER
from launch.errors import ExitCode
from launch.machine.hardware import CATALOGUE, gpu_topology
from launch.preflight.reference import reference as checks
from launch.spec.reference import reference
from tests.conftest import ROOT, muster


def test_the_page_of_the_checks_comes_from_their_registry() -> None:
    page = (ROOT / "docs/preflight.md").read_text()
    assert page == checks(), "run: python -m launch.preflight.reference > docs/preflight.md"


def test_the_reference_of_the_spec_comes_from_its_types() -> None:
    assert (ROOT / "docs/spec.md").read_text() == reference(), "run: python -m launch.spec.reference > docs/spec.md"


def test_the_page_of_scaling_comes_from_the_planner_s_model() -> None:
    page = (ROOT / "docs/scaling.md").read_text()
    assert page == scaling.page(), "run: python -m benchmarks.scaling > docs/scaling.md"


def test_the_simulation_of_interruptions_is_the_formula_s() -> None:
    """To first order what is lost is the rate of failures times a restart and half of the steps between two saves."""
    for count, step in ((256, 3.0), (1024, 10.0)):
        hourly = stragglers.INTERRUPTIONS * count
        lost = hourly / 3600 * (stragglers.RESTART + stragglers.SAVE_STEPS * step / 2)
        assert 1 - stragglers.goodput(count, step, days=4000) == pytest.approx(lost, rel=0.1)


def test_the_slowest_of_two_is_later_by_the_spread_over_the_root_of_pi() -> None:
    """The mean of the larger of two normal variables (Nadarajah and Kotz 2008)."""
    assert stragglers.slowest(2, 0.03, steps=200_000) - 1 == pytest.approx(0.03 / math.pi**0.5, rel=0.02)


def test_what_a_collective_waits_for_by_hand() -> None:
    """A ring enters each of 128 nodes once and passes seven GPUs in each; a tree goes up and down."""
    nodes = gpu_topology(CATALOGUE["H100-80GB"], 128, 8)
    assert latency.gathering(nodes) == pytest.approx(8.4e-6 + 896 * 3.4e-6 + 127 * 14e-6)
    assert latency.reducing(nodes) == pytest.approx(8.4e-6 + 2 * (7 * 4e-6 + 7 * 14e-6))
    two = gpu_topology(CATALOGUE["RTX4090-24GB"], 1, 2)
    assert latency.gathering(two) == pytest.approx(8.4e-6 + 5.7e-6)


def test_where_it_stops_paying_is_counted_from_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1, 2, 4 and 8 GPUs the last doubling gives nothing; 4 cost 1.2 times what 1 does, 8 twice that."""
    seconds = {1: 8.0, 2: 4.2, 4: 2.4, 8: 2.4}
    monkeypatch.setattr(scaling, "step_seconds", lambda where, count, network, sequences: seconds[count])
    assert scaling.stops(scaling.STANDS[0], scaling.NETWORKS[0], 8) == (4, 2, 4)


@pytest.mark.parametrize(
    ("page", "command"),
    [
        ("docs/throughput.md", "plan examples/qwen-14b-8gpu.yaml --gpus 8xA100-80GB"),
        ("docs/models.md", "model show qwen2.5-7b-instruct"),
    ],
)
def test_a_page_shows_what_the_command_prints(page: str, command: str, tmp_path: Path) -> None:
    """Each line that it shows, by its words: `...` stands for what is left out."""
    block = re.search(rf"^( *)\$ muster {command}\n((?:\1(?!```).+\n|\n)+)", (ROOT / page).read_text(), re.MULTILINE)
    assert block
    done = muster(*command.split(), COLUMNS="140", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    printed = [line.split() for line in done.out.splitlines()]
    shown = [line.split() for line in block[2].splitlines() if line.strip() not in ("", "...")]
    assert len(shown) > 5
    assert [line for line in shown if line not in printed] == []


def test_the_readme_shows_the_error_that_the_command_prints() -> None:
    command = "plan examples/qwen-14b-8gpu.yaml --gpus 8xRTX4090-24GB"
    block = re.search(rf"\$ muster {command}\n((?:    .+\n)+)", (ROOT / "README.md").read_text())
    assert block
    assert block[1].split() == muster(*command.split()).err.split()


def test_the_page_of_throughput_has_the_errors_of_the_forecast_of_published_runs() -> None:
    script, page = ROOT / "benchmarks/published_throughput.py", (ROOT / "docs/throughput.md").read_text()
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    errors: dict[str, list[str]] = {}
    for name, error in re.findall(r"A100 Qwen-(.+) \d+ +[\d.]+ s +[\d.]+ s +([+-][\d.]+%)", printed):
        errors.setdefault(name, []).append(error)
    assert len(errors) == 7
    assert [name for name, several in errors.items() if f"| {name} | {' | '.join(several)} |" not in page] == []


def recorded(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def test_the_page_of_performance_has_what_the_levers_were_measured_to_give() -> None:
    page = (ROOT / "docs/performance.md").read_text().partition("## Where a step's time goes")[0]
    ratios = recorded("levers-cpu")["levers"] | recorded("levers-cpu-norms")["levers"]
    told = {
        name: tuple(f"{ratios[f'{name}, {lengths}']['ratio_median']:.2f} x" for lengths in ("mixture", "rag"))
        for name in LEVERS
        if name not in WITH_LIGER
    }
    assert re.findall(r"\| ([\d.]+ x) \| ([\d.]+ x) \|", page) == list(told.values())
    save, collated = recorded("saving-cpu"), recorded("collate-cpu")["median_ms"]
    assert f"the training waits {1000 * save['wait_seconds']:.1f} ms, while the files take" in page
    assert f"take {save['files_seconds']:.1f} s" in page
    assert f"collated in {collated:.1f} ms" in page


JOBS = ("small-mixture", "small-rag", "small-fixed")
PEERS = {"throughput-cpu": "TRL", "throughput-cpu-llamafactory": "LLaMA-Factory"}
WAYS = {"packed": "packed", "padded": "padded", "single": "one row at a time"}
DISTURBED = " (disturbed)"


def test_the_page_of_performance_has_what_muster_and_its_peers_were_measured_to_do() -> None:
    """Tokens a second by the clock and of a process's own seconds, the ratios of both, and the peaks of memory."""
    section = (ROOT / "docs/performance.md").read_text().partition("## Against TRL and LLaMA-Factory")[2]
    table = section.partition("| tokens/s by the clock")[2].partition("\n\n")[0].replace(DISTURBED, "")
    peaks: dict[str, list[str]] = {job: [] for job in JOBS}
    for file, peer in PEERS.items():
        jobs = recorded(file)["jobs"]
        sides = {"muster": "muster" if peer == "TRL" else f"muster, beside {peer}"}
        sides |= {f"{peer} {way}": f"{peer}, {name}" for way, name in WAYS.items()}
        for side, name in sides.items():
            rates = [
                tuple(f"{jobs[job][side][key]:,.0f}" for key in ("tokens_per_second", "tokens_per_cpu_second"))
                for job in JOBS
            ]
            assert f"| {name} | {' | '.join(', '.join(pair) for pair in rates)} |" in table
        ratios = {job: jobs[job]["ratio"][peer] for job in JOBS}
        if peer == "LLaMA-Factory":  # of three pairs: the one of the table was disturbed
            fixed = recorded("throughput-cpu-fixed-llamafactory")["jobs"]["small-fixed"]["ratio"]
            ratios["small-fixed"] = fixed[peer]
            assert f"{min(fixed[peer]['all']):.2f} to {max(fixed[peer]['all']):.2f})" in section
        told = [f"**{ratios[job]['median']:.2f}**, {ratios[job]['by_cpu_seconds']:.2f}" for job in JOBS]
        assert f"| **ratio to {peer}'s fastest way** | {' | '.join(told)} |" in table
        for job in JOBS:
            peaks[job] += [f"{jobs[job][side]['peak_bytes'] / 1e9:.2f}" for side in ("muster", ratios[job]["to"])]
    row = [f"{ours}, {trl}, {factory} GB" for ours, trl, _, factory in peaks.values()]
    assert f"TRL's and LLaMA-Factory's fastest | {' | '.join(row)} |" in table


def test_the_page_of_performance_has_the_steps_on_paper() -> None:
    page = (ROOT / "docs/performance.md").read_text()
    table = page.partition("| tokens/s (MFU), estimated |")[2].partition("\n\n")[0]
    rows = []
    for small, large in zip(recorded("roofline-h100")["ways"], recorded("roofline-h200")["ways"], strict=True):
        assert small["settings"] == large["settings"]
        rates = [f"{way['tokens_per_second']:,} ({100 * way['mfu']:.0f} %)" for way in (small, large)]
        families = small["families"]
        moved = families["elementwise"] + families["copies and casts"] + families["reductions"]
        shares = [families["matrix products"], moved, families["attention"]]
        rows.append([*rates, *(f"{100 * share:.0f} %" for share in shares)])
    assert [line.strip("| ").split(" | ")[1:] for line in table.splitlines()[2:]] == rows


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs/runs.md").read_text()
    for code in ExitCode:
        assert f"| {int(code)} | " in page


COMMANDS = (
    "plan", "preflight", "run", "submit", "status", "watch", "logs", "stop", "diagnose", "report", "schema", "model",
    "data",
    "evaluate", "export",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"muster {command}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("spec", "gpus", "strategy", "global_batch"),
    [
        ("qwen-7b-chat-24gb.yaml", "RTX4090-24GB", "single", 16),
        ("qwen-14b-8gpu.yaml", "8xA100-80GB", "ddp", 128),
        ("qwen-14b-2x8gpu-slurm.yaml", "8xA100-80GB", "ddp", 128),
    ],
)
def test_each_example_is_valid_and_fits_its_hardware(spec: str, gpus: str, strategy: str, global_batch: int) -> None:
    import json

    done = muster("plan", Path("examples", spec), "--gpus", gpus, "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert (plan["strategy"], plan["global_batch_size"]) == (strategy, global_batch)
    assert plan["memory"]["process_bytes"] < 0.8 * plan["topology"]["memory_bytes"]
