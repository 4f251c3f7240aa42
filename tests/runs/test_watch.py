"""`muster watch` beside a run that trains: it sees it go on and end, and changes nothing of how it goes."""

import subprocess
import sys

from tests.conftest import ROOT, Workspace, environment, losses, muster
from tests.launch.watching.pseudo import Terminal

SECTIONS = {
    "training": {"max_steps": 60, "epochs": None, "save_steps": 20, "eval_steps": 20},
    "cluster": {"devices_per_node": 2, "device": "cpu"},
}


def test_a_run_is_watched_to_its_end(workspace: Workspace) -> None:
    spec, run = workspace.spec("watched", **SECTIONS), workspace.root / "run"
    argv = [sys.executable, "-m", "launch"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(
        [*argv, "run", str(spec), "--run-dir", str(run)], cwd=ROOT, env=environment(), **quiet
    ) as trains:  # type: ignore[call-overload]
        while not (run / "plan.json").exists():
            assert trains.poll() is None
        with Terminal([*argv, "watch", run]) as terminal:
            screen = terminal.wait_for("2 ranks", 60)
            assert screen.text()[0].startswith("watched  running")
            assert terminal.ends(120) == 0
            assert terminal.as_it_was()
            last = "\n".join(terminal.screen().text())
        assert trains.wait(60) == 0
    for part in (
        "watched  finished  attempt 1",
        "step 60 of 60",
        "100 %",
        "finished at step 60",
        "tokens/s",
        "hosts without",
    ):
        assert part in last, last
    alone = workspace.root / "alone"
    done = muster("run", workspace.spec("alone", **SECTIONS), "--run-dir", alone)
    assert done.code == 0, done.err
    assert losses(run) == losses(alone)
