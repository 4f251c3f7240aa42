"""What ranks need to reach one another: ports, names, InfiniBand, and no setting that slows NCCL down unseen."""

import ipaddress
import os
import re
import socket
from pathlib import Path

from launch.machine import discover
from launch.preflight.check import Check, on_several_nodes
from launch.preflight.node import on_infiniband
from launch.preflight.result import Context, Finding, failed, passed, warned
from launch.wording import plural

# NCCL's environment variables that switch a fast path off (NCCL User Guide, Environment Variables).
SLOW = {
    "NCCL_P2P_DISABLE": "GPUs then exchange through the host's memory",
    "NCCL_SHM_DISABLE": "GPUs then exchange through the network",
    "NCCL_IB_DISABLE": "nodes then exchange over TCP",
}
INTERFACES = "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"


def nccl_environment(context: Context) -> Finding:
    """Switches that were set once, for a fault that is long mended, and interfaces that this node does not have.

    CPU processes talk through gloo alone; all ranks of a run make a gloo group.
    """
    several = context.plan.topology.nodes > 1
    read = [name for name in (*SLOW, *INTERFACES) if context.gpus or name.startswith("GLOO_")]
    found = [
        f"{name}={value}: {why}"
        for name, why in SLOW.items()
        if name in read
        and (value := os.environ.get(name, "0")) not in ("", "0")
        and (several or name != "NCCL_IB_DISABLE")
    ]
    here = [name for _, name in socket.if_nameindex()]
    missing = [
        f"{name}={value}: this node has {', '.join(here)}"
        for name in INTERFACES
        if name in read and (value := _absent(name, here))
    ]
    if missing:
        return failed("; ".join(missing), f"unset {' '.join(INTERFACES)}, or name an interface of every node")
    if found:
        names = " ".join(line.split("=")[0] for line in found)
        return warned("; ".join(found), f"unset {names} where the fault that it was set for is gone")
    return passed("no variable of NCCL or gloo leads nowhere or switches a fast path off")


def _absent(name: str, here: list[str]) -> str:
    """The variable's value where no interface of this node matches it: prefixes, `=` exact, `^` all but these."""
    value = os.environ.get(name, "")
    if not value or value.startswith("^"):
        return ""
    exact = value.startswith("=")
    wanted = [part.split(":")[0] for part in value.lstrip("=").split(",")]
    match = any(there == part if exact else there.startswith(part) for part in wanted for there in here)
    return "" if match else value


def interface(context: Context) -> Finding:
    """This node's own name leads to an address that others can reach: c10d tells it to them (pytorch#150532)."""
    name = socket.getfqdn()
    try:
        addresses = sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None)})
    except OSError as error:
        return failed(f"{name} does not resolve: {error.strerror}", "put it into /etc/hosts or DNS, on every node")
    if all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses):
        fix = "name its real address in /etc/hosts: Debian puts 127.0.1.1 there"
        return failed(f"{name} resolves to {', '.join(addresses)}, which no other node can reach", fix)
    return passed(f"{name} is {', '.join(addresses)}", addresses=addresses)


def infiniband(context: Context) -> Finding:
    """Ports that are down or slower than the others of the node."""
    ports = {
        f"{port.parts[-3]}:{port.name}": (_read(port, "state"), _read(port, "rate")) for port in discover.infiniband()
    }
    down = [f"{name} is {state}" for name, (state, _) in ports.items() if not state.endswith("ACTIVE")]
    rates = {name: _gigabits(rate) for name, (state, rate) in ports.items() if state.endswith("ACTIVE")}
    slow = [f"{name} runs at {rate:g} Gb/s" for name, rate in rates.items() if rate < max(rates.values())]
    if down or slow:
        told = "; ".join([*down, *slow])
        fix = "see ibstat and the cable"
        return (failed if len(down) == len(ports) else warned)(told, fix, ports=ports)
    return passed(f"{plural(len(ports), 'InfiniBand port')} active at {max(rates.values()):g} Gb/s", ports=ports)


def _read(port: Path, name: str) -> str:
    """`4: ACTIVE`, `400 Gb/sec (4X NDR)`; raises OSError where it cannot be read."""
    return (port / name).read_text(encoding="utf-8").strip()


def _gigabits(rate: str) -> float:
    match = re.match(r"([\d.]+) Gb/sec", rate)
    return float(match[1]) if match else 0.0


def port(context: Context) -> Finding:
    """A port for the ranks to meet at, when this process is asked for a fixed one."""
    asked = os.environ.get("MASTER_PORT")
    try:
        with socket.socket() as probe:
            probe.bind(("", int(asked or 0)))
            return passed(f"port {probe.getsockname()[1]} is free", port=probe.getsockname()[1])
    except (OSError, ValueError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return failed(f"MASTER_PORT {asked}: {why}", "unset MASTER_PORT: a free one is chosen")


def _launched() -> bool:
    """Whether torchrun has started this process: then its address and port are taken, by its own store."""
    return "RANK" in os.environ


def on_several_ranks(context: Context) -> str | None:
    if _launched():
        return "the launcher holds the port"
    return None if context.plan.world_size > 1 else "one process"


def on_ranks_that_talk(context: Context) -> str | None:
    return None if context.gpus or context.plan.world_size > 1 else "one CPU process"


def on_nodes_to_meet(context: Context) -> str | None:
    return on_several_nodes(context) or ("the launcher has named an address" if _launched() else None)


CHECKS = (
    Check(
        "nccl-environment", "network",
        "a variable that switches a fast path of NCCL off, or names no interface to NCCL or gloo",
        "NCCL User Guide, Environment Variables", nccl_environment, on_ranks_that_talk,
    ),
    Check("port", "network", "a port that is taken", "it can be bound", port, on_several_ranks),
    Check(
        "host-name", "network", "a name of this node that others cannot reach", "not a loopback address", interface,
        on_nodes_to_meet,
    ),
    Check(
        "infiniband", "network", "an InfiniBand port that is down or slow", "all ACTIVE, at one rate", infiniband,
        on_infiniband,
    ),
)  # fmt: skip
