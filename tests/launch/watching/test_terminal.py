"""`muster watch` on a real pseudo-terminal: it opens, it closes, and the run does not notice."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.claim import hold
from launch.rundir import RunDir
from launch.rundir.journal import append, event, write_json
from tests.conftest import command, muster
from tests.launch.watching.pseudo import Terminal

WATCH = [sys.executable, "-m", "launch", "watch"]
# Notes what a process does to the world: it is imported before everything else.
AUDIT = """\
import os, sys
noted = os.open({notes!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
CALLS = ("fcntl.flock", "fcntl.lockf", "os.kill", "os.killpg", "os.remove", "os.rename", "os.mkdir", "os.rmdir",
         "os.utime", "os.chmod", "os.truncate", "os.link", "os.symlink", "os.fork", "subprocess.Popen")
def hook(name, args):
    writes = name == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if name in CALLS or (writes and str(args[0]).startswith({run!r})):
        os.write(noted, (name + " " + repr(args) + "\\n").encode())
    elif name == "open" and str(args[0]).startswith({run!r}):
        os.write(noted, b"read\\n")
sys.addaudithook(hook)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """One that has trained three steps of its second attempt."""
    place = RunDir(tmp_path / "demo")
    for number in (1, 2):
        place.attempt(number).root.mkdir(parents=True)
        write_json(place.attempt(number).plan, {"world_size": 2})
        for rank in (0, 1):
            place.attempt(number).log(rank).write_text("WARNING:root:both say so\nLoading weights:  0%|  | 0/27\n")
            pulse = {"rank": rank, "node": "n0", "pid": 1, "phase": "training", "step": 3, "marks": 9}
            write_json(place.attempt(number).pulse(rank), {**pulse, "time": time.time()})
    write_json(place.attempt(1).outcome, {"exit_code": 8, "class": "communication", "reason": "lost rank 1", "step": 2})
    write_json(place.plan, {"name": "demo"})
    event(place.events, "started", attempt=2, steps=40)
    for step in (1, 2, 3):
        append(place.samples, {"step": step, "epoch": 0, "ids": ["a"]})
        trained(place, step)
    return place


def trained(run: RunDir, step: int) -> None:
    row = {"step": step, "loss": 4.0 - step / 10, "step_seconds": 2.0, "tokens_per_second": 1000.0 + step}
    append(run.metrics, {**row, "time": round(time.time(), 3)})


@pytest.fixture
def running(run: RunDir) -> Iterator[RunDir]:
    """The same with somebody who trains it: we."""
    with hold(run, run.claimed):
        yield run


def files(run: RunDir) -> dict[str, tuple[int, int, bytes]]:
    found = [path for path in run.root.rglob("*") if path.is_file()]
    folders = [path for path in [run.root, *run.root.rglob("*")] if path.is_dir()]
    stats = {str(path): (path.stat().st_mtime_ns, path.stat().st_mode, b"") for path in folders}
    return stats | {str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes()) for path in found}


def fail(run: RunDir) -> None:
    write_json(run.attempt(2).outcome, {"exit_code": 10, "class": "worker", "reason": "rank 1 was killed"})


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (200, 60), (40, 10), (12, 3)])
def test_it_fills_the_terminal_and_q_leaves_it_as_it_was(running: RunDir, width: int, height: int) -> None:
    with Terminal([*WATCH, running.root], width, height) as terminal:
        screen = terminal.wait_for(lambda screen: screen.in_alternate and screen.text()[0].startswith("demo"))
        assert not screen.cursor
        terminal.press("q")
        assert terminal.ends() == 0
        assert terminal.as_it_was()


def test_what_a_person_sees(running: RunDir) -> None:
    with Terminal([*WATCH, running.root]) as terminal:
        text = "\n".join(terminal.wait_for("warning: both say so (root)").text())
        for part in (
            "demo  running  attempt 2", "step 3 of 40", "74 s left", "2 ranks training",
            "earlier attempts: 1 ended as communication at step 2: lost rank 1", "loss 3.700", "tokens/s 1,003",
        ):  # fmt: skip
            assert part in text, text
        assert text.count("both say so") == 1
        assert "Loading weights" not in text
        trained(running, 4)
        terminal.wait_for("loss 3.600")


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_signal_leaves_the_terminal_as_it_was(running: RunDir, sent: signal.Signals, code: int) -> None:
    with Terminal([*WATCH, running.root]) as terminal:
        terminal.wait_for("running")
        terminal.process.send_signal(sent)
        assert terminal.ends() == code
        assert terminal.as_it_was()
        assert "Traceback" not in "\n".join(terminal.screen().text())


def test_ctrl_c_leaves(running: RunDir) -> None:
    with Terminal([*WATCH, running.root]) as terminal:
        terminal.wait_for("running")
        terminal.press("\x03")
        assert terminal.ends() == 0
        assert terminal.as_it_was()
        assert not running.stop.exists()


def test_other_keys_do_nothing(running: RunDir) -> None:
    with Terminal([*WATCH, running.root]) as terminal:
        terminal.wait_for("running")
        terminal.press("\x1b[Ax \n")
        time.sleep(0.5)
        assert terminal.process.poll() is None


def test_a_crash_leaves_the_terminal_as_it_was(running: RunDir, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from launch.watching.reading import Reader\n"
        "look = Reader.look\n"
        "def broken(self):\n"
        "    view = look(self)\n"
        "    if view.status.loss < 3.65:\n"
        "        raise RuntimeError('a bug')\n"
        "    return view\n"
        "Reader.look = broken\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    with Terminal([*WATCH, running.root], 120, 40, PYTHONPATH=paths) as terminal:
        terminal.wait_for("running")
        trained(running, 4)
        assert terminal.ends() == 1
        assert terminal.as_it_was()
        assert "RuntimeError: a bug" in "\n".join(terminal.screen().text())


def test_ctrl_z_gives_the_terminal_back_for_a_while(running: RunDir) -> None:
    shell = f"set -m; {' '.join(WATCH)} {running.root}; echo it rests; read; fg >/dev/null; echo it left: $?"
    with Terminal(["bash", "-c", shell]) as terminal:
        terminal.wait_for("demo  running")
        terminal.press("\x1a")
        terminal.wait_for("it rests")
        assert terminal.as_it_was()
        terminal.press("\n")
        terminal.wait_for(lambda screen: screen.in_alternate)
        terminal.press("q")
        terminal.wait_for("it left: 0")


def test_another_size_is_drawn_anew(running: RunDir) -> None:
    with Terminal([*WATCH, running.root], 120, 40) as terminal:
        terminal.wait_for("q leaves")  # the last line of a page: nothing of it is still to come
        terminal.sent.clear()
        terminal.resize(80, 24)
        screen = terminal.wait_for("q leaves")
        assert screen.text()[0].startswith("demo  running")
        assert screen.text()[23].startswith("q leaves")


def test_it_ends_by_itself_when_the_run_is_over(run: RunDir) -> None:
    lock = hold(run, run.claimed)
    with Terminal([*WATCH, run.root]) as terminal:
        terminal.wait_for("running")
        lock.truncate(0)
        lock.close()
        fail(run)
        old = time.time() - 60
        for path in run.attempt(2).pulses():
            os.utime(path, (old, old))
        assert terminal.ends() == 0
        assert terminal.as_it_was()
        text = "\n".join(terminal.screen().text())
        assert "demo  failed: rank 1 was killed  attempt 2" in text
        assert "loss 3.700" in text


def test_one_that_is_over_is_shown_and_left(run: RunDir) -> None:
    run.adapter.mkdir()
    with Terminal([*WATCH, run.root]) as terminal:
        assert terminal.ends() == 0
        assert "demo  finished  attempt 2" in "\n".join(terminal.screen().text())


def test_one_that_nobody_has_started_is_waited_for(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "demo")
    run.root.mkdir()
    write_json(run.plan, {"name": "demo"})
    with Terminal([*WATCH, run.root]) as terminal:
        terminal.wait_for("nothing has started it")
        with hold(run, run.claimed):
            terminal.wait_for("demo  running")


def test_no_color_is_honoured(running: RunDir) -> None:
    colours = {str(number) for number in [*range(30, 38), *range(40, 48), *range(90, 98), 38, 48]}
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with Terminal([*WATCH, running.root], **variables) as terminal:
            styles = terminal.wait_for("running").styles
            assert bool(styles & colours) is coloured


@pytest.mark.parametrize("variables", [{}, {"TERM": "dumb"}])
def test_a_line_for_each_thing_where_there_is_no_terminal(run: RunDir, variables: dict[str, str]) -> None:
    fail(run)
    done = muster("watch", run.root, **variables)
    assert (done.code, done.err) == (0, "")
    assert done.out == "demo: failed: rank 1 was killed, attempt 2, step 3/40, loss 3.700\n"


def test_a_dumb_terminal_gets_lines(run: RunDir) -> None:
    run.adapter.mkdir()
    with Terminal([*WATCH, run.root], TERM="dumb") as terminal:
        assert terminal.ends() == 0
        assert terminal.screen().text()[0] == "demo: finished, attempt 2, step 3/40, loss 3.700"


def test_once_is_one_picture(running: RunDir) -> None:
    done = muster("watch", running.root, "--once", COLUMNS="100")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("demo  running  attempt 2")
    assert "loss 3.700" in done.out
    assert "\x1b" not in done.out
    assert all(len(line) <= 100 for line in done.out.splitlines())


def test_once_in_plain_characters(running: RunDir) -> None:
    done = muster("watch", running.root, "--once", PYTHONIOENCODING="ascii")
    assert done.code == 0
    assert done.out.isascii()
    assert "step 3 of 40" in done.out


def test_a_run_that_is_not_there_is_2(tmp_path: Path) -> None:
    done = muster("watch", tmp_path / "none")
    assert (done.code, done.out) == (2, "")
    assert "no run directory" in done.err


@pytest.mark.parametrize("mode", ["terminal", "lines", "once"])
def test_nothing_of_the_run_is_touched(run: RunDir, tmp_path: Path, mode: str) -> None:
    """No file is written, made, removed or renamed, no lock is taken, no signal sent, no process started."""
    notes = tmp_path / "notes"
    (tmp_path / "sitecustomize.py").write_text(AUDIT.format(notes=str(notes), run=str(run.root)))
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    run.claimed.write_text(f"process {os.getpid()} on {os.uname().nodename}")
    if mode == "lines":
        fail(run)
        run.claimed.unlink()
        old = time.time() - 60
        for path in run.attempt(2).pulses():
            os.utime(path, (old, old))
    before = files(run)
    if mode == "terminal":
        with Terminal([*WATCH, run.root], PYTHONPATH=paths) as terminal:
            terminal.wait_for("both say so")
            time.sleep(3)
            terminal.press("q")
            assert terminal.ends() == 0
    else:
        done = command("-m", "launch", "watch", run.root, *(["--once"] if mode == "once" else []), PYTHONPATH=paths)
        assert done.code == 0, done.err
    assert files(run) == before
    lines = notes.read_text().splitlines()
    assert lines.count("read") > 5  # the hook sees what is done here
    assert [line for line in lines if line != "read"] == []


def test_plain_lines_of_a_run_as_it_goes_on(run: RunDir) -> None:
    import subprocess

    from tests.conftest import ROOT, environment

    for path in run.attempt(2).pulses():  # which nobody writes anew: after some seconds it would say so
        path.unlink()
    lock = hold(run, run.claimed)
    argv = [*WATCH, str(run.root)]
    with subprocess.Popen(argv, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        trained(run, 4)
        event(run.events, "warning", kind="loss_flat", step=4, message="the loss is flat", advice="raise it")
        second = [process.stdout.readline() for _ in range(3)]
        lock.truncate(0)
        lock.close()
        run.adapter.mkdir()
        rest = process.stdout.read()
        assert process.wait(timeout=60) == 0
    assert first == "demo: running, attempt 2, step 3/40, loss 3.700, 74 s left\n"
    assert sorted(second) == [
        "step 4/40: loss 3.600  1,004 tokens/s\n",
        "step 4: warning: the loss is flat; raise it\n",
        "warning: both say so (root)\n",
    ]
    assert rest == "demo: finished, attempt 2, step 3/40, loss 3.600\n"
    assert json.loads(run.metrics.read_text().splitlines()[-1])["step"] == 4
