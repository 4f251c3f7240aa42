"""What a run tells others while it trains: the trackers of training.report_to, and the port of its endpoint."""

import contextlib
import importlib.util
import netrc
import os
import socket
from urllib.parse import urlparse

from launch.preflight.check import Check
from launch.preflight.result import Context, Finding, failed, passed, warned

# Where W&B looks for who it is, beside ~/.netrc (wandb/sdk/lib/auth).
WANDB_LOGINS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
WANDB_AT_HOME = ("offline", "dryrun", "disabled")


def trackers(context: Context) -> Finding:
    """Packages by their place alone: importing them takes seconds. Each is a name that pip takes."""
    reports = context.plan.spec.training.report_to
    missing = [name for name in reports if importlib.util.find_spec(name) is None]
    if missing:
        told = f"not installed, and training.report_to names it: {', '.join(missing)}"
        return failed(told, f"pip install {' '.join(missing)}, or take it out of training.report_to", missing=missing)
    if "wandb" in reports and not _knows_wandb():
        fix = "export WANDB_API_KEY=..., wandb login, or WANDB_MODE=offline to sync it later"
        return warned("W&B does not know who reports: no key in the environment or in ~/.netrc", fix)
    return passed(f"installed: {', '.join(reports)}")


def _knows_wandb() -> bool:
    if os.environ.get("WANDB_MODE") in WANDB_AT_HOME or any(os.environ.get(name) for name in WANDB_LOGINS):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return False


def without_trackers(context: Context) -> str | None:
    if not context.plan.spec.training.report_to:
        return "training.report_to names no tracker"
    if context.batch is not None and context.plan.spec.slurm.venv is not None:
        return "looked at on the job's own nodes, in slurm.venv"
    return None


def port(context: Context) -> Finding:
    """As the endpoint will: what is left of a connection that was closed does not hold it."""
    monitoring = context.plan.spec.monitoring
    place = f"{monitoring.prometheus_host}:{monitoring.prometheus_port}"
    try:
        kind, _, _, _, address = socket.getaddrinfo(
            monitoring.prometheus_host, monitoring.prometheus_port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        told = f"{place} cannot be listened on ({error.strerror or error}): the run would have no endpoint here"
        return warned(
            told, "set monitoring.prometheus_port to a free port, and prometheus_host to an address of the node"
        )
    return passed(f"{place} is free")


def without_endpoint(context: Context) -> str | None:
    return None if context.plan.spec.monitoring.prometheus_port else "monitoring.prometheus_port asks for no endpoint"


CHECKS = (
    Check("trackers", "plan", "a tracker that is not installed, or W&B without a login", "training.report_to", trackers,
          without_trackers),
    Check("monitoring-port", "node", "a Prometheus port that is taken", "monitoring.prometheus_port", port,
          without_endpoint),
)  # fmt: skip
