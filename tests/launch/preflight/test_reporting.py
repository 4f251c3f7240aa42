"""Trackers that are not there, and a port that is taken."""

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest

from launch.plan import Plan
from launch.preflight import reporting
from tests.launch.conftest import plan_of, spec_of
from tests.launch.preflight.conftest import ON_GPUS, context


def reports(*names: str) -> Plan:
    return plan_of("2xA100-80GB", 1, spec_of(data={"max_length": 512}, training={"report_to": list(names)}))


def listens(**monitoring: Any) -> Plan:
    return plan_of("2xA100-80GB", 1, spec_of(data={"max_length": 512}, monitoring=monitoring))


def test_no_tracker_and_no_endpoint_are_nothing_to_check() -> None:
    assert reporting.without_trackers(context(ON_GPUS)) == "training.report_to names no tracker"
    assert reporting.without_endpoint(context(ON_GPUS)) == "monitoring.prometheus_port asks for no endpoint"
    assert reporting.without_trackers(context(reports("mlflow"))) is None
    assert reporting.without_endpoint(context(listens(prometheus_port=9400))) is None


def test_a_tracker_that_is_not_installed_fails_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else there(name))
    found = reporting.trackers(context(reports("tensorboard", "mlflow")))
    assert (found.status, found.evidence, found.fix) == (
        "fail", "not installed, and training.report_to names it: mlflow",
        "pip install mlflow, or take it out of training.report_to",
    )  # fmt: skip
    assert reporting.trackers(context(reports("tensorboard"))).status == "pass"


@pytest.mark.parametrize(
    ("variables", "status"),
    [({}, "warn"), ({"WANDB_API_KEY": "k"}, "pass"), ({"WANDB_MODE": "offline"}, "pass"),
     ({"WANDB_MODE": "online"}, "warn"), ({"WANDB_BASE_URL": "https://wandb.example:8080"}, "pass")],
)  # fmt: skip
def test_wandb_without_a_login_warns(
    variables: dict[str, str], status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine wandb.example login user password key\n")
    netrc.chmod(0o600)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"NETRC": str(netrc), **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert reporting.trackers(context(reports("wandb"))).status == status


def test_a_port_that_is_taken_warns() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = reporting.port(context(listens(prometheus_port=port)))
    assert (found.status, found.evidence) == (
        "warn", f"127.0.0.1:{port} cannot be listened on (Address already in use): the run would have no endpoint here",
    )  # fmt: skip
    assert "monitoring.prometheus_port" in found.fix
    assert reporting.port(context(listens(prometheus_port=port))).status == "pass"


def test_an_address_that_is_not_this_node_s_warns() -> None:
    assert reporting.port(context(listens(prometheus_port=9400, prometheus_host="192.0.2.1"))).status == "warn"
