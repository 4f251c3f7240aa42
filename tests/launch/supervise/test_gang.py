"""What the nodes of a job say of themselves, judged and put together."""

import json
import subprocess
import sys
from typing import Any

from launch.preflight.fleet import NodeReport
from launch.preflight.probe import Probe
from launch.preflight.result import Result
from launch.spec import PreflightSpec
from launch.supervise.gang import Gathered, chosen, together, told, unfit
from tests.conftest import environment

ALIKE = {"torch": "2.13.0", "kernel": "6.1", "GPUs": "8 x NVIDIA H100"}


def result(node: str, name: str = "gpu-memory", status: Any = "pass") -> Result:
    return Result(name=name, family="gpu", status=status, evidence=f"as {status}", threshold="", node=node)


def probe(node: str, *results: Result, **report: Any) -> Probe:
    values = {"node": node, "fingerprint": ALIKE, "clock": 0.0, "sees_directory": True, **report}
    return Probe(report=NodeReport.model_validate(values), results=list(results) or [result(node)], port=20000)


def gathered(*probes: Probe, **silent: str) -> Gathered:
    return Gathered({one.report.node: one for one in probes}, silent)


def judged(found: Gathered, *accepted: str) -> dict[str, str]:
    return unfit(found, PreflightSpec(), accepted)


def test_nodes_that_are_fit() -> None:
    assert judged(gathered(probe("n0"), probe("n1"))) == {}


def test_a_silent_node() -> None:
    assert judged(gathered(probe("n0"), n1="does not answer: down")) == {"n1": "does not answer: down"}


def test_a_failed_check_unless_it_is_accepted() -> None:
    found = gathered(probe("n0"), probe("n1", result("n1", status="fail")))
    assert judged(found) == {"n1": "gpu-memory: as fail"}
    assert judged(found, "gpu-memory") == {}


def test_a_node_that_differs() -> None:
    odd = probe("n2", fingerprint={**ALIKE, "torch": "2.12.0", "kernel": "5.4"})
    found = gathered(probe("n0"), probe("n1"), odd)
    assert judged(found) == {"n2": "differs from the others: torch 2.12.0 (others 2.13.0)"}
    assert judged(found, "fleet-alike") == {}


def test_another_kernel_keeps_no_node_out() -> None:
    assert judged(gathered(probe("n0"), probe("n1"), probe("n2", fingerprint={**ALIKE, "kernel": "5.4"}))) == {}


def test_a_clock_that_is_off_and_a_directory_that_is_not_seen() -> None:
    found = gathered(probe("n0"), probe("n1"), probe("n2", clock=40.0), probe("n3", sees_directory=False))
    out = judged(found)
    assert out["n2"] == "its clock is +40.0 s off: start chrony or ntpd there"
    assert out["n3"].startswith("does not see the run directory")
    assert list(judged(found, "fleet-clock", "fleet-directory")) == []


def test_a_node_that_is_out_does_not_decide_what_is_usual() -> None:
    other = {**ALIKE, "torch": "2.12.0"}
    found = gathered(
        probe("n0", result("n0", status="fail"), fingerprint=other),
        probe("n1", result("n1", status="fail"), fingerprint=other),
        probe("n2", fingerprint=other), probe("n3"), probe("n4"),
    )  # fmt: skip
    assert list(judged(found)) == ["n0", "n1", "n2"]


def test_the_best_nodes_are_chosen_in_slurms_order() -> None:
    found = gathered(probe("n0", result("n0", status="warn")), probe("n1"), probe("n2"), probe("n3"))
    assert chosen(found, {}, 3) == ["n1", "n2", "n3"]
    assert chosen(found, {"n2": "out"}, 3) == ["n0", "n1", "n3"]
    assert chosen(found, {}, 3, blamed=["n1"]) == ["n0", "n2", "n3"]
    assert chosen(found, {"n2": "out"}, 4) == ["n0", "n1", "n3"]


def test_one_row_a_check_with_the_nodes_that_have_it() -> None:
    probes = [
        probe(f"n{number}", result(f"n{number}", status="fail" if number in (3, 7) else "pass")) for number in range(9)
    ]
    (row,) = together({one.report.node: one for one in probes}, PreflightSpec())
    assert (row.status, row.node) == ("fail", "n3, n7")


def test_each_node_says_what_it_has_found_itself() -> None:
    """Not the first one's evidence in the name of all."""
    found = {"n1": "GPU 2: 1 uncorrected memory error", "n3": "GPU 7: 4 uncorrected memory errors"}
    probes = [
        probe(node, result(node, status="fail" if node in found else "pass").model_copy(
            update={"evidence": found.get(node, "none")}
        )) for node in ("n0", "n1", "n2", "n3")
    ]  # fmt: skip
    (row,) = together({one.report.node: one for one in probes}, PreflightSpec())
    assert (row.node, row.evidence) == (
        "n1, n3",
        "n1: GPU 2: 1 uncorrected memory error; n3: GPU 7: 4 uncorrected memory errors",
    )


def test_many_nodes_are_told_in_a_line() -> None:
    out = {f"n{number:03}": f"gpu-memory: {number % 7} GiB free" for number in range(700)}
    line = told(out)
    assert line.startswith("node n000, n007, n014, n021, n028 and 95 more: gpu-memory: 0 GiB free; node n001, ")
    assert line.endswith("; and 200 more")
    assert told({"n1": "does not answer\nsee there"}) == "node n1: does not answer"


THOUSAND = """
import io, json, pathlib, re, sys, time
from rich.console import Console
from launch.preflight.page import page
from launch.preflight.probe import Probe
from launch.preflight.result import document
from launch.preflight.screen import checks_view
from launch.spec import PreflightSpec
from launch.supervise.gang import Gathered, chosen, together, unfit
lines, taken = sys.stdin.readlines(), []
for _ in range(3):  # the least of three: other processes share the cores
    began = time.process_time()
    probes = [Probe.model_validate_json(line) for line in lines]
    found = Gathered({one.report.node: one for one in probes}, {})
    rows = together(found.probes, PreflightSpec())
    chosen(found, unfit(found, PreflightSpec(), []), len(probes) - 1)
    told = io.StringIO()
    Console(file=told, width=100).print(checks_view(rows, "8,000 GPUs on 1,000 nodes"))
    written = json.dumps(document(rows, "8,000 GPUs on 1,000 nodes")) + page(rows, "8,000 GPUs on 1,000 nodes")
    taken.append(time.process_time() - began)
seconds = min(taken)
# Not getrusage: its ru_maxrss counts what was this process before exec, a fork of the tests.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
lines = told.getvalue().splitlines()
print(json.dumps([seconds, peak, len(rows), rows[0].node, len(lines), lines[-1]]))
"""


def test_a_thousand_nodes_in_two_seconds_and_500_mb() -> None:
    """Of eight GPUs each, with as many checks as there are: read, judged, put together and shown; every 97th
    node has something of its own to say."""
    names, lines = [f"check-{number}" for number in range(60)], []
    for number in range(1000):
        node = f"n{number}"
        kind = {"evidence": f"GPU {number % 8}: {number} errors", "values": {"gpus": dict.fromkeys("01234567", 16)}}
        results = [result(node, name, "warn" if number % 97 == 0 else "pass").model_copy(update=kind) for name in names]
        lines.append(probe(node, *results, fingerprint={**ALIKE, "VBIOS": f"96.00.{number % 2}"}).model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", THOUSAND], input="\n".join(lines), capture_output=True, text=True, env=environment()
    )
    seconds, kilobytes, rows, node, shown, last = json.loads(done.stdout)
    assert seconds < 2
    assert kilobytes < 500_000
    assert (rows, node) == (len(names), "n0, n194, n291, n388, n485 and 6 more")
    assert (shown < 100, last) == (True, "Ready: 8,000 GPUs on 1,000 nodes, 60 warnings")
