"""The batch script: to the letter, clean, and inert whatever a spec holds."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from launch.cluster.job import batch_job
from launch.errors import UsageError
from launch.plan import Plan
from launch.render.sbatch import BatchJob, options, quoted, run_script, shipped, sweep_script
from launch.rundir import RunDir
from launch.spec.slurm import SlurmSpec
from tests.conftest import ROOT, SHELLCHECK, stand_in_venv
from tests.launch.conftest import plan_of, spec_of

GOLDEN = ROOT / "tests/golden/slurm"
RUN = RunDir(Path("/runs/demo"))
LARGE = {
    "partition": "a100", "account": "lab", "qos": "long", "reservation": "spring", "constraint": "a100&ib", "spares": 1,
    "exclude": ["n7", "n[10-12]"], "gpu_type": "a100", "mem": "400G", "modules": ["cuda/12.4", "gcc"],
    "environment": {"NCCL_SOCKET_IFNAME": "ib0", "NOTE": "it's $HOME"}, "extra": ["--mail-type=END"], "requeue": False,
}  # fmt: skip


def job_of(plan: Plan, run: RunDir = RUN, elements: int | None = None) -> BatchJob:
    return batch_job(plan, run, [], elements)


def scripts() -> dict[str, str]:
    small = plan_of("1xA100-80GB")
    large = plan_of("8xA100-80GB", 2, spec_of(cluster={"nodes": 2}, slurm=LARGE))
    cpu = plan_of("8xA100-80GB").model_copy(update={"topology": small.topology.model_copy(update={"device": "cpu"})})
    image = {"partition": "a100", "modules": ["apptainer"], "container": {"image": "/images/it's 1.sif"}}
    boxed = plan_of("8xA100-80GB", 2, spec_of(cluster={"nodes": 2}, slurm=image))
    file, venv, spec = str(RUN.job_script), "/shared/venv", str(RUN.spec)
    words = ["--accept", "slurm-shared"]
    return {
        "one-gpu": run_script(job_of(small), file, venv, spec, str(RUN.root)),
        "two-nodes": run_script(job_of(large), file, venv, spec, str(RUN.root), words),
        "container": run_script(job_of(boxed), file, venv, spec, str(RUN.root)),
        "cpu": run_script(job_of(cpu), file, venv, spec, str(RUN.root)),
        "sweep": sweep_script(job_of(small, elements=4), file, venv, str(RUN.root), words),
    }


@pytest.mark.parametrize("name", scripts())
def test_a_rendered_script_to_the_letter(name: str) -> None:
    assert scripts()[name] == (GOLDEN / f"{name}.sbatch").read_text()


@pytest.mark.parametrize("name", [*scripts(), *shipped()])
def test_shellcheck_finds_nothing(name: str) -> None:
    text = {**scripts(), **shipped()}[name]
    done = subprocess.run([SHELLCHECK, "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", shipped())
def test_the_first_comment_of_a_shipped_script_uses_it(name: str) -> None:
    first = shipped()[name].splitlines()[1]
    assert first.startswith("# sbatch ")
    assert name in first.split()


def test_a_shipped_script_has_the_lines_of_a_rendered_one() -> None:
    """One renderer: what differs is what the spec says."""
    shell = [line for line in shipped()["slurm/single_gpu.sbatch"].splitlines() if not line.startswith("#")]
    ours = [line for line in scripts()["one-gpu"].splitlines() if not line.startswith("#")]
    assert [a for a, b in zip(shell, ours, strict=True) if a != b] == [
        'venv=$(realpath -ms -- "${MUSTER_VENV:-.venv}")',
        'exec "$venv/bin/python" -m launch.supervisor "$@"',
    ]


@pytest.mark.parametrize(
    ("value", "line"),
    [("plain/%j.log", "plain/%j.log"), ("a b", '"a b"'), ("a\"b'c", '"a\\"b\'c"'), ("a#b", '"a#b"'), ("é", '"é"')],
)
def test_a_value_as_sbatch_reads_it(value: str, line: str) -> None:
    assert quoted(value) == line


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\u2028b", "a\x1b[2J"])
def test_a_value_that_no_line_can_hold(value: str) -> None:
    with pytest.raises(ValueError, match="does not fit on a line"):
        quoted(value)


@pytest.mark.parametrize("name", ["a\nb", "a\\b"])
def test_a_run_directory_that_slurm_cannot_write_into(name: str) -> None:
    with pytest.raises(UsageError, match="Slurm cannot write a job's output into a folder of that name"):
        job_of(plan_of("1xA100-80GB"), RunDir(Path("/runs") / name))


def test_a_percent_sign_in_the_run_directory_is_no_pattern() -> None:
    job = job_of(plan_of("1xA100-80GB"), RunDir(Path("/runs/100%j")))
    assert job.output == "/runs/100%%j/job-%j.log"


# Whatever a spec holds

LINE = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp"), blacklist_characters="\x85"), min_size=1)
NASTY = st.sampled_from(
    ["$(touch pwned)", "`touch pwned`", "'; touch pwned; '", '"; touch pwned; "', "\\", "#SBATCH --uid=0"]
)
ANY = st.one_of(NASTY, st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0")))
WORD = st.from_regex(r"\A[^\s#'\"\\\x00-\x1f\x7f\x85\u2028\u2029]{1,20}\Z").filter(str.isprintable)
NAMED = st.one_of(NASTY, LINE).filter(
    lambda text: not {"\\", "/"} & set(text) and text.isprintable() and len(text) < 60
)
STUB = """#!/bin/bash
printf '%s\\0' "$@" > "$RECORD/argv"
env -0 > "$RECORD/environment"
"""


@given(
    folder=NAMED.filter(lambda text: text not in (".", "..")), words=st.lists(ANY, max_size=3),
    environment=st.dictionaries(st.from_regex(r"\AX[A-Z_]{1,8}\Z"), ANY, max_size=3), account=WORD, constraint=WORD,
    extra=st.lists(LINE.map(lambda text: f"--comment={text}"), max_size=2),
)  # fmt: skip
@example(folder="a:b", words=[], environment={}, account="a", constraint="b", extra=[])  # no folder of PATH
def test_every_text_of_a_spec_is_inert(
    tmp_path_factory: pytest.TempPathFactory, folder: str, words: list[str], environment: dict[str, str], account: str,
    constraint: str, extra: list[str],
) -> None:  # fmt: skip
    root = tmp_path_factory.mktemp("inert")
    venv, run = stand_in_venv(root / f"venv {folder}", STUB), RunDir(root / folder)
    slurm = SlurmSpec(account=account, constraint=constraint, environment=environment, extra=extra)
    plan = plan_of("1xA100-80GB").model_copy(update={"spec": spec_of().model_copy(update={"slurm": slurm})})
    job = job_of(plan, run)
    text = run_script(job, str(run.job_script), str(venv), str(run.spec), str(run.root), words)
    lines = text.split("\n")
    body = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [line for line in lines[:body] if line.startswith("#SBATCH")]
    assert directives == [line for line in options(job) if line.startswith("#SBATCH")]
    (root / "job").write_text(text)
    kept = {"PATH": os.environ["PATH"], "RECORD": str(root)}
    done = subprocess.run(["bash", root / "job"], cwd=root, env=kept, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    argv = (root / "argv").read_bytes().decode().split("\0")[:-1]
    assert argv == ["-m", "launch.supervisor", str(run.spec), "--run-dir", str(run.root), *words]
    found = dict(pair.split("=", 1) for pair in (root / "environment").read_bytes().decode().split("\0") if "=" in pair)
    assert {name: found[name] for name in environment} == environment
    assert sorted(path.name for path in root.iterdir()) == sorted(["argv", "environment", "job", venv.name])


def test_a_missing_environment_is_3_and_says_on_which_machine(tmp_path: Path) -> None:
    text = run_script(job_of(plan_of("1xA100-80GB")), "job", str(tmp_path / "none"), "spec.yaml", "run")
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == (
        f"error: {os.uname().nodename}: no {tmp_path}/none/bin/python: name a Python environment that all nodes see\n"
    )
