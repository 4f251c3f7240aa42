"""What a person sees of a run on the screen: a line a logged step, and each warning once, however it was started."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Finished, Workspace, accelerate_launch, after_import, command, muster
from tests.launch.watching.pseudo import Terminal

STEPS = {"training": {"max_steps": 4, "epochs": None, "save_steps": 2}}
TWO = {**STEPS, "cluster": {"devices_per_node": 2, "device": "cpu"}}
STEP = re.compile(r"step \d/4: loss \d\.\d{3}  [\d,]+ tokens/s")
# What ranks' logs are full of, and what a library says to another one.
NOISE = ("Loading weights", "it/s]", "FutureWarning", "Setting accelerator", "OMP_NUM_THREADS", "warnings.warn")

# One rank may be seconds behind the other; what both say, they say at one moment.
MEET = """
import os, pathlib, time
def meet():
    if "RANK" in os.environ:
        folder = pathlib.Path({folder!r})
        (folder / os.environ["RANK"]).touch()
        while len(list(folder.iterdir())) < int(os.environ["WORLD_SIZE"]):
            time.sleep(0.01)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PYTHONPATH with which every rank warns of one thing and rank 1 of another, and a library of its future."""
    change = (
        "import logging, os, warnings; meet(); warnings.warn('the moon is full');"
        " logging.getLogger('a.library').warning('step %s of [3]', os.environ.get('RANK'));"
        " os.environ.get('RANK') == '1' and warnings.warn('only here')\n"
    )
    place = tmp_path / "hook"
    (place / "met").mkdir(parents=True)
    hook = after_import("training.evaluation.while_training", change)
    (place / "sitecustomize.py").write_text(hook + MEET.format(folder=str(place / "met")))
    return os.pathsep.join([str(place), str(ROOT)])


def steps(done: Finished) -> list[str]:
    return STEP.findall(done.err)


def test_one_process_by_hand(workspace: Workspace) -> None:
    done = command("-m", "training", workspace.spec("one", **STEPS), "--run-dir", workspace.root / "run")
    assert (done.code, done.out) == (0, "")
    lines = done.err.splitlines()
    assert lines[0].startswith("training one with single on 1 CPU process")
    assert lines[1].startswith("data: 42 rows")
    assert lines[-1].startswith("done: ")
    assert [line.partition(":")[0] for line in lines if STEP.fullmatch(line)] == [f"step {n}/4" for n in (1, 2, 3, 4)]
    assert "step 0: eval_loss" in done.err
    assert not any(noise in done.err for noise in NOISE)


def test_two_ranks_by_hand_and_what_verbose_brings_back(workspace: Workspace) -> None:
    done = accelerate_launch("ddp", 2, workspace.spec("two", **TWO), "--run-dir", workspace.root / "run")
    assert done.code == 0, done.err
    assert len(steps(done)) == 4
    assert not any(
        noise in done.err.replace("torch/distributed/run.py", "") for noise in NOISE if noise != "OMP_NUM_THREADS"
    )
    verbose = accelerate_launch(
        "ddp", 2, workspace.spec("two", **TWO), "--run-dir", workspace.root / "again", MUSTER_VERBOSE="1"
    )
    assert len(steps(verbose)) == 4
    assert {f"rank {rank}: Loading weights: 100%" for rank in (0, 1)} <= {
        line.partition("|")[0] for line in verbose.err.splitlines()
    }


def test_a_warning_of_all_ranks_is_one_line(workspace: Workspace, path: str) -> None:
    done = muster("run", workspace.spec("two", **TWO), "--run-dir", workspace.root / "run", PYTHONPATH=path)
    assert done.code == 0, done.err
    assert len(steps(done)) == 4
    only, numbered, same = sorted(line for line in done.err.splitlines() if line.startswith("warning: "))
    assert only == "warning: only here (sitecustomize.py:11, rank 1 of 2)"
    # Of lines that differ in a number alone, the one that came first.
    assert re.fullmatch(r"warning: step [01] of \[3\] \(a\.library\)", numbered)
    assert same == "warning: the moon is full (sitecustomize.py:11)"
    assert not any(noise in done.err for noise in NOISE)
    logs = [(workspace.root / f"run/attempts/001/rank-{rank}.log").read_text() for rank in (0, 1)]
    assert all("the moon is full" in log and "Loading weights" in log for log in logs)


def test_verbose_shows_every_line_of_every_rank(workspace: Workspace, path: str) -> None:
    run = workspace.root / "run"
    done = muster("run", workspace.spec("two", **TWO), "--run-dir", run, "--verbose", PYTHONPATH=path)
    assert done.code == 0, done.err
    assert len(steps(done)) == 4
    for rank in (0, 1):
        for line in filter(str.strip, (run / f"attempts/001/rank-{rank}.log").read_text().splitlines()):
            assert f"rank {rank}: {line.rstrip()}" in done.err


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_on_a_terminal_each_step_is_a_line_above_the_bar(workspace: Workspace, variables: dict[str, str]) -> None:
    argv = [sys.executable, "-m", "launch", "run", workspace.spec("one", **STEPS), "--run-dir", workspace.root / "run"]
    with Terminal(argv, 100, 40, **variables) as terminal:
        assert terminal.ends(120) == 0
        text = bytes(terminal.sent).decode()
    coloured = re.compile(r"\x1b\[[\d;]*\b(?:3[0-8]|4[0-8]|9[0-7])[\d;]*m")
    assert len(set(STEP.findall(text))) == 4
    assert "━" in text
    assert bool(coloured.search(text)) is not bool(variables)
