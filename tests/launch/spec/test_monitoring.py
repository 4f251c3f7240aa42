"""What a spec's monitoring section takes."""

import pytest

from launch.errors import SpecError
from launch.spec import training_identity
from launch.spec.file import parse_spec
from launch.spec.monitoring import MonitoringSpec

HEAD = "name: demo\nmodel: {variant: qwen2.5-7b-instruct}\ndata: {train: t.jsonl}\n"


def parse(monitoring: str) -> MonitoringSpec:
    return parse_spec(f"{HEAD}monitoring: {monitoring}\n", "spec.yaml").monitoring


def mistake(monitoring: str) -> str:
    with pytest.raises(SpecError) as error:
        parse(monitoring)
    assert len(error.value.mistakes) == 1
    return str(error.value)


def test_by_default_a_sample_every_five_seconds_and_no_endpoint() -> None:
    found = parse_spec(HEAD, "spec.yaml").monitoring
    assert (found.sample_seconds, found.prometheus_port, found.prometheus_host) == (5, None, "127.0.0.1")


def test_an_endpoint_is_on_loopback_unless_asked() -> None:
    assert parse("{prometheus_port: 9400}").prometheus_host == "127.0.0.1"
    for host in ("0.0.0.0", "10.1.2.3", "::", "fe80::1", "ib0-node7.cluster.local"):
        assert parse(f"{{prometheus_port: 9400, prometheus_host: '{host}'}}").prometheus_host == host


def test_a_host_without_a_port_is_read_by_nothing() -> None:
    assert mistake("{prometheus_host: 0.0.0.0}") == (
        "spec.yaml:4:31: monitoring.prometheus_host: nothing reads this without monitoring.prometheus_port; set a port,"
        " or remove it"
    )


@pytest.mark.parametrize(
    "value",
    ["{sample_seconds: 0}", "{sample_seconds: 0.5}", "{sample_seconds: -1}", "{prometheus_port: 0}",
     "{prometheus_port: 65536}", "{prometheus_port: '9400'}", "{prometheus_port: 9400, prometheus_host: ''}",
     "{prometheus_port: 9400, prometheus_host: 'http://n1'}"],
)  # fmt: skip
def test_what_cannot_be_sampled_or_listened_on(value: str) -> None:
    mistake(value)


def test_who_is_told_does_not_make_another_training() -> None:
    told = parse_spec(f"{HEAD}training: {{report_to: [wandb]}}\nmonitoring: {{sample_seconds: 2}}\n", "spec.yaml")
    assert training_identity(told) == training_identity(parse_spec(HEAD, "spec.yaml"))
