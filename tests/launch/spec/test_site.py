"""A site's file gives Slurm's defaults: -s comes before the spec, the spec before the site, the site before muster."""

from pathlib import Path

import pytest

from launch.errors import SpecError, UsageError
from launch.spec import RunSpec
from launch.spec.file import read_spec
from launch.spec.site import site_file

SPEC = "name: demo\nmodel: {variant: qwen2.5-7b-instruct}\ndata: {train: t.jsonl}\n"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def reader(site: str, spec: str = "", overrides: list[str] | None = None) -> RunSpec:
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site/site.yaml").write_text(site)
        (tmp_path / "spec.yaml").write_text(SPEC + spec)
        monkeypatch.setenv("MUSTER_SITE", str(tmp_path / "site/site.yaml"))
        return read_spec(tmp_path / "spec.yaml", overrides)

    return reader


def test_each_value_comes_from_the_nearest_that_says_it(read) -> None:
    site = "slurm: {partition: a100, account: lab, qos: long, time: '1:00:00'}"
    slurm = read(site, "slurm: {account: mine, qos: short}", ["slurm.qos=now"]).slurm
    assert (slurm.partition, slurm.account, slurm.qos, slurm.time, slurm.grace_seconds) == (
        "a100", "mine", "now", "1:00:00", 180,
    )  # fmt: skip


def test_variables_are_put_together_and_lists_are_not(read) -> None:
    site = "slurm: {environment: {A: site, B: site}, modules: [cuda/12.4]}"
    slurm = read(site, "slurm: {environment: {B: spec}, modules: [gcc]}").slurm
    assert slurm.environment == {"A": "site", "B": "spec"}
    assert slurm.modules == ["gcc"]


def test_a_run_s_own_spec_holds_what_the_site_said(read) -> None:
    given = read("slurm: {partition: a100}").model_dump(exclude_unset=True)
    assert given["slurm"] == {"partition": "a100"}


@pytest.mark.parametrize("site", ["", "\n", "# slurm:\n#   partition: a100\n", "slurm: {}\n"])
def test_a_file_that_says_nothing_changes_nothing(read, site: str) -> None:
    assert read(site).slurm.partition == "gpu"


def test_a_path_starts_at_the_folder_of_the_file_that_says_it(read, tmp_path: Path) -> None:
    slurm = read("slurm: {venv: env}", "slurm: {output: logs/%j}").slurm
    assert (slurm.venv, slurm.output) == (str(tmp_path / "site/env"), str(tmp_path / "logs/%j"))


def test_mistakes_are_told_at_their_places_in_both_files(read, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        read("slurm:\n  time: banana\n  spares: 1\n  partion: x\nqueue: y\n", "slurm: {qos: 'a b'}")
    told = "\n".join(str(each).removeprefix(f"{tmp_path}/") for each in error.value.mistakes)
    assert "site/site.yaml:2:9: slurm.time: 'banana' is not allowed" in told
    assert "site/site.yaml:3:3: slurm.spares: is a run's own and stands in its spec; remove it here" in told
    assert "site/site.yaml:4:3: slurm.partion: unknown key. Did you mean 'partition'?" in told
    assert "site/site.yaml:5:1: queue: unknown key of a site file. Allowed: slurm" in told
    assert "spec.yaml:4:14: slurm.qos: 'a b' is not allowed" in told
    assert len(error.value.mistakes) == 5


def test_where_the_file_is_looked_for(tmp_path: Path) -> None:
    assert site_file({"XDG_CONFIG_HOME": str(tmp_path)}) is None
    place = tmp_path / "muster/site.yaml"
    place.parent.mkdir()
    place.touch()
    assert site_file({"XDG_CONFIG_HOME": str(tmp_path)}) == place
    assert site_file({"XDG_CONFIG_HOME": str(tmp_path), "MUSTER_SITE": ""}) is None
    other = tmp_path / "other.yaml"
    other.touch()
    assert site_file({"XDG_CONFIG_HOME": str(tmp_path), "MUSTER_SITE": str(other)}) == other


def test_a_file_that_was_named_and_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"MUSTER_SITE=/no/such\.yaml: no such file"):
        site_file({"MUSTER_SITE": "/no/such.yaml"})
