"""What ranks need to reach one another."""

import socket
from pathlib import Path

import pytest

from launch.machine import discover
from launch.preflight import network
from tests.launch.conftest import CPU, plan_of
from tests.launch.preflight.conftest import ON_CPU, ON_GPUS, context

TWO_NODES = context(plan_of(nodes=2))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*network.SLOW, *network.INTERFACES, "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("NCCL_P2P_DISABLE", "1", "warn"),
        ("NCCL_P2P_DISABLE", "0", "pass"),
        ("NCCL_SHM_DISABLE", "1", "warn"),
        ("NCCL_IB_DISABLE", "1", "pass"),  # on one node nobody needs it
        ("NCCL_SOCKET_IFNAME", "lo", "pass"),
        ("NCCL_SOCKET_IFNAME", "=lo", "pass"),
        ("NCCL_SOCKET_IFNAME", "^docker", "pass"),
        ("NCCL_SOCKET_IFNAME", "bond7", "fail"),
        ("GLOO_SOCKET_IFNAME", "=l", "fail"),
    ],
)
def test_variables_that_slow_down_or_lead_nowhere(
    name: str, value: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    found = network.nccl_environment(context(ON_GPUS))
    assert found.status == status
    if status != "pass":
        assert f"{name}={value}" in found.evidence
        assert name in found.fix


def test_cpu_processes_talk_through_gloo_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "bond7")
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    two = context(plan_of(CPU.model_copy(update={"devices_per_node": 2}), 1, ON_CPU.spec))
    assert network.nccl_environment(two).status == "pass"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "bond7")
    found = network.nccl_environment(two)
    assert (found.status, found.evidence.startswith("GLOO_SOCKET_IFNAME=bond7: this node has ")) == ("fail", True)
    assert network.on_ranks_that_talk(two) is None
    assert network.on_ranks_that_talk(context(ON_CPU)) == "one CPU process"


def test_infiniband_that_is_switched_off_between_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_IB_DISABLE", "1")
    assert network.nccl_environment(TWO_NODES).status == "warn"


def test_a_name_that_leads_to_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "localhost")
    found = network.interface(TWO_NODES)
    assert (found.status, "no other node can reach" in found.evidence) == ("fail", True)


def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "no-such-host.invalid")
    found = network.interface(TWO_NODES)
    assert (found.status, found.evidence.startswith("no-such-host.invalid does not resolve: ")) == ("fail", True)


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        taken = str(holder.getsockname()[1])
        monkeypatch.setenv("MASTER_PORT", taken)
        found = network.port(context(ON_GPUS))
        assert (found.status, found.evidence) == ("fail", f"MASTER_PORT {taken}: Address already in use")
    monkeypatch.delenv("MASTER_PORT")
    assert network.port(context(ON_GPUS)).status == "pass"
    monkeypatch.setenv("MASTER_PORT", "nine")
    assert network.port(context(ON_GPUS)).status == "fail"
    assert network.on_several_ranks(context(ON_CPU)) == "one process"


def ports(folder: Path, *states: tuple[str, str, str]) -> Path:
    """/sys/class/infiniband with an adapter for each (state, rate, link_layer)."""
    for number, texts in enumerate(states):
        port = folder / f"mlx5_{number}/ports/1"
        port.mkdir(parents=True)
        for name, text in zip(("state", "rate", "link_layer"), texts, strict=True):
            (port / name).write_text(text + "\n")
    return folder


ACTIVE = ("4: ACTIVE", "400 Gb/sec (4X NDR)", "InfiniBand")


@pytest.mark.parametrize(
    ("states", "status", "evidence"),
    [
        ([ACTIVE, ACTIVE], "pass", "2 InfiniBand ports active at 400 Gb/s"),
        ([ACTIVE, ("1: DOWN", "10 Gb/sec (4X SDR)", "InfiniBand")], "warn", "mlx5_1:1 is 1: DOWN"),
        ([("2: INIT", "400 Gb/sec (4X NDR)", "InfiniBand")], "fail", "mlx5_0:1 is 2: INIT"),
        ([ACTIVE, ("4: ACTIVE", "200 Gb/sec (2X NDR)", "InfiniBand")], "warn", "mlx5_1:1 runs at 200 Gb/s"),
        ([ACTIVE, ("1: DOWN", "25 Gb/sec", "Ethernet")], "pass", "1 InfiniBand port active at 400 Gb/s"),
    ],
)
def test_infiniband_ports(
    states: list[tuple[str, str, str]], status: str, evidence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discover, "INFINIBAND", ports(tmp_path, *states))
    found = network.infiniband(TWO_NODES)
    assert (found.status, found.evidence) == (status, evidence)
