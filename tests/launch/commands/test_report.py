"""`muster report`: what it writes, prints and refuses."""

import fcntl
import json
import os
import re
import resource
import stat
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from launch.memory import Measured
from launch.rundir import RunDir
from launch.rundir.journal import append, write_json
from tests.conftest import environment, muster
from tests.launch.conftest import CPU
from tests.launch.report.written import SPIKE, START, metric_rows, plan_of, spec, write_run

MOST_BYTES, MOST_SECONDS = 6_000_000, 3.0


class Page(HTMLParser):
    """What a page shows, and every address that it names."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.addresses, self.tags, self._open = "", list[str](), list[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "poster")]

    def handle_data(self, data: str) -> None:
        if self._open not in ("script", "style"):
            self.text += data


def reported(*runs: RunDir, out: Path | None = None) -> dict[str, Any]:
    done = muster("report", *(run.root for run in runs), *(["--out", out] if out else []), "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def page(run: RunDir) -> Page:
    return Page(run.report.read_text(encoding="utf-8"))


def test_the_summary_is_on_stdout_and_where_the_page_is_on_stderr(tmp_path: Path) -> None:
    run = write_run(tmp_path / "night")
    done = muster("report", run.root)
    assert done.code == 0
    assert done.err == f"report: {run.report}\n"
    lines = {line[:23].strip(): " ".join(line[23:].split()) for line in done.out.splitlines()}
    assert lines["run"] == "night"
    assert lines["verdict"].startswith("finished: step 120 of 120; evaluation loss 2.31")
    assert lines["Step"] == "120 (of 120)"
    assert lines["Steps left out"] == "1 (by the stability guard)"


def test_a_page_needs_nothing_else(tmp_path: Path) -> None:
    run = write_run(tmp_path / "night")
    reported(run)
    found = page(run)
    assert all(address.startswith("#") for address in found.addresses), found.addresses
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    for told in (
        "Plan and measurement",
        "5,100",
        "Rows left out",
        "torch 2.13.0",
        "LoRA rank 8",
        "2 H100-80GB",
        "seed",
    ):
        assert told in found.text


def test_the_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    run = write_run(tmp_path / "night")
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    found = reported(run)
    assert found["report"] == str(run.report)
    numbers = found["runs"][0]["numbers"]
    evaluated = [row["eval_loss"] for row in rows if "eval_loss" in row]
    logged = [row for row in rows if "loss" in row]
    assert (numbers["eval_loss_base"], numbers["eval_loss"]) == (evaluated[0], evaluated[-1])
    assert numbers["eval_loss_best"] == min(evaluated[1:])
    assert numbers["loss"] == logged[-1]["loss"]
    assert numbers["memory_peak_bytes"] == logged[-1]["gpu_memory_peak_bytes"]
    assert (numbers["step"], numbers["steps"], numbers["attempts"], numbers["skipped_steps"]) == (120, 120, 1, 1)
    assert numbers["seconds"] == pytest.approx(max(row["time"] for row in rows) - START, abs=0.05)
    assert (numbers["epoch"], numbers["tokens"]) == (logged[-1]["epoch"], logged[-1]["tokens"])
    assert [one["event"] for one in found["runs"][0]["events"]] == ["skipped", "warning"]
    assert found["runs"][0]["events"][0]["step"] == SPIKE


def test_a_run_that_failed_says_why_and_what_to_do(tmp_path: Path) -> None:
    run = write_run(tmp_path / "night", steps=40, finished=False)
    reason = "rank 0: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\nUse a smaller micro-batch"
    write_json(run.attempt(1).outcome, {"exit_code": 6, "class": "gpu_memory", "reason": reason, "step": 40,
                                        "seconds": 104.0, "nodes": [], "checks": []})  # fmt: skip
    append(run.events, {"event": "oom", "time": START + 105, "reason": "micro-batch 4 -> 2"})
    found = reported(run)["runs"][0]
    assert found["verdict"]["word"] == "failed"
    assert "CUDA out of memory" in found["verdict"]["sentence"]
    assert found["verdict"]["fix"]
    assert found["attempts"][0]["exit_code"] == 6
    text = page(run).text
    assert "gpu memory" in text
    assert "micro-batch 4 -> 2" in text


@pytest.mark.parametrize("missing", [("metrics",), ("metrics", "resources", "events", "preflight", "spec", "samples")])
def test_a_run_without_what_it_has_not_written_yet(tmp_path: Path, missing: tuple[str, ...]) -> None:
    run = write_run(tmp_path / "night", finished=False)
    for name in missing:
        getattr(run, name).unlink()
    found = reported(run)["runs"][0]
    assert found["verdict"]["word"] == "interrupted"
    assert found["numbers"]["loss"] is None
    assert "night" in page(run).text


def test_a_run_that_trains_now_says_how_far_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "night", steps=60, finished=False)
    run.events.write_text(run.events.read_text().replace('"steps": 60', '"steps": 120'))
    with open(run.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = reported(run)["runs"][0]
    assert found["verdict"]["word"] == "running"
    assert "step 60 of 120" in found["verdict"]["sentence"]
    assert "done in about 2.1 min" in found["verdict"]["sentence"]
    assert "running" in page(run).text


def test_a_run_that_is_only_planned(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.plan.write_text(plan_of("8xH100-80GB", spec=spec()).model_dump_json())
    found = reported(run)["runs"][0]
    assert (found["verdict"]["word"], found["verdict"]["tone"]) == ("prepared", "calm")
    assert "Nothing has been logged yet." in page(run).text


def test_on_a_cpu_the_memory_of_the_process_is_beside_its_forecast(tmp_path: Path) -> None:
    run = write_run(tmp_path / "night", steps=5)
    measured = Measured(length=191, seconds=0.1, peak_bytes=None, reserved_bytes=None, process_bytes=600_000_000,
                        forecast_bytes=612_000_000)  # fmt: skip
    plan = plan_of(CPU, spec=spec(data={"max_length": 1024}))
    run.plan.write_text(plan.model_copy(update={"measured": measured}).model_dump_json())
    told = [row for row in reported(run)["runs"][0]["plan"] if row["name"].startswith("Memory")]
    assert told == [{"name": "Memory of the largest batch (191 tokens)", "planned": "583.6 MiB",
                     "measured": "572.2 MiB", "off": "+2.0 %"}]  # fmt: skip
    assert "resident: from 6.0 GiB to 6.0 GiB, lowest 6.0 GiB, highest 6.0 GiB. forecast: 583.6 MiB." in page(run).text


def test_a_plan_of_another_version_costs_its_tables_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "night")
    run.plan.write_text('{"name": "night", "strategy": "telepathy"}')
    assert reported(run)["runs"][0]["numbers"]["step"] == 120
    assert "plan.json cannot be read by this version" in page(run).text


def test_several_runs_are_compared(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a/night")
    two = write_run(tmp_path / "b/night", steps=80, training={"learning_rate": 5e-5})
    out = tmp_path / "both.html"
    done = muster("report", one.root, two.root, "--out", out)
    assert done.code == 0
    assert "a/night" in done.out.splitlines()[0]
    assert "training.learning_rate" in done.out
    assert "The lowest evaluation loss is that of a/night: 2.01; b/night 2.11." in " ".join(done.out.split())
    assert "training.learning_rate" in Page(out.read_text()).text
    assert not one.report.exists()


def test_a_comparison_needs_a_place(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, steps=3) for name in ("one", "two")]
    done = muster("report", *(run.root for run in runs))
    assert (done.code, done.out) == (2, "")
    assert "such as --out runs.html" in done.err


def test_a_place_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "night", steps=3)
    done = muster("report", run.root, "--out", tmp_path)
    assert done.code == 2
    assert f"--out {tmp_path}: is a folder" in done.err


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    done = muster("report", tmp_path)
    assert done.code == 2
    assert "no run directory" in done.err


def test_secrets_do_not_get_into_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "night", steps=3)
    append(run.events, {"event": "warning", "time": START, "message": "token"})
    run.events.write_text(run.events.read_text().replace('"message": "token"', '"message": "it is hunter2-hunter2"'))
    done = muster("report", run.root, "--json", API_TOKEN="hunter2-hunter2")
    assert done.code == 0
    assert "hunter2" not in done.out + run.report.read_text()
    assert "it is [secret]" in page(run).text


def test_a_hundred_thousand_steps_make_a_small_page_in_three_seconds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "long")
    rows = metric_rows(plan_of("2xH100-80GB", spec=spec("long")), 100_000, 1000)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = [sys.executable, "-m", "launch", "report", str(run.root)]
    # Of the processor, whose caches others may be using, too.
    assert any(cpu_seconds(argv) < MOST_SECONDS for _ in range(6))
    assert run.report.stat().st_size < MOST_BYTES / 2


def cpu_seconds(argv: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, env=environment(), capture_output=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_many_gpus_keep_it_small(tmp_path: Path) -> None:
    run = write_run(tmp_path / "wide", gpus=8)
    with open(run.resources, "a") as file:
        for second in range(0, 3600, 30):
            for gpu in range(256):
                row = {"node": f"n{gpu // 8:03d}", "gpu": gpu % 8, "time": START + second, "utilization": second % 97,
                       "memory_used_bytes": 10**10 + second, "power_watts": 300.5 + gpu, "temperature": 50}  # fmt: skip
                file.write(json.dumps(row) + "\n")
    began = time.monotonic()
    reported(run)
    assert time.monotonic() - began < 60
    assert run.report.stat().st_size < MOST_BYTES


def test_what_is_no_file_of_its_own_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    place, pipe, linked = write_run(tmp_path / "night", steps=8), tmp_path / "pipe", tmp_path / "linked.html"
    os.mkfifo(pipe)
    linked.symlink_to(tmp_path / "page.html")
    copy = tmp_path / "copy.html"
    with copy.open("wb") as file, subprocess.Popen(["cat", pipe], stdout=file) as reader:
        assert muster("report", place.root, "--out", pipe).code == 0
        reader.wait(timeout=30)
    assert copy.read_bytes().rstrip().endswith(b"</html>")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert muster("report", place.root, "--out", linked).code == 0
    assert linked.is_symlink()
    assert (tmp_path / "page.html").read_text().rstrip().endswith("</html>")


def test_a_place_that_takes_nothing_is_named(tmp_path: Path) -> None:
    place = write_run(tmp_path / "night", steps=8)
    done = muster("report", place.root, "--out", place.plan / "page.html")
    assert done.code == 9
    assert "page.html: the report cannot be written there (File exists); say where, such as --out" in done.err


@pytest.mark.parametrize("number", ['"x"', "null", "NaN", "1" + 400 * "0", "[1]"])
def test_numbers_that_are_none_end_no_reader(number: str, tmp_path: Path) -> None:
    """As a damaged file has them, or another version's."""
    place = write_run(tmp_path / "night", steps=8)
    keys = ("loss", "step_seconds", "eval_loss", "steps", "counts", "tokens", "seconds", "time")
    for path in (place.metrics, place.events, place.resources, place.attempt(1).outcome):
        text = path.read_text()
        broken = [re.sub(rf'"{key}": [^,}}]+', f'"{key}": {number}', text) for key in keys]
        path.write_text("".join([text, *broken]) if path.suffix == ".jsonl" else broken[keys.index("seconds")])
    for reader in ("report", "diagnose", "watch", "status"):
        done = muster(reader, place.root, *(["--once"] if reader == "watch" else []))
        assert done.code == 0, (reader, done.err)
