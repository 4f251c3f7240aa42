"""MonitoringSpec: what a run tells of itself and its machines while it trains."""

from typing import Annotated

from pydantic import Field

from launch.spec.section import LONGEST, Section

# An address or a name of one of the node's interfaces.
Host = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:_-]*$", json_schema_extra={"takes": "an address or a host name"})
]


class MonitoringSpec(Section):
    """Sampling of GPUs and nodes, and where others can read it."""

    sample_seconds: Annotated[float, Field(ge=1, le=LONGEST)] = 5
    """Seconds from one row of resources.jsonl to the next, for each GPU; at least 1."""
    prometheus_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Each node serves its GPUs, and the first one the run's last step, at http://HOST:PORT/metrics; by default none
    does."""
    prometheus_host: Host = "127.0.0.1"
    """The address that it listens on: by default only programs of the node itself reach it; `0.0.0.0` opens it to
    everybody who reaches the node, without a password."""


def conflicts(monitoring: MonitoringSpec) -> list[tuple[tuple[str, ...], str]]:
    """Values of this section that nothing reads."""
    if monitoring.prometheus_port is None and "prometheus_host" in monitoring.model_fields_set:
        message = "nothing reads this without monitoring.prometheus_port; set a port, or remove it"
        return [(("monitoring", "prometheus_host"), message)]
    return []
