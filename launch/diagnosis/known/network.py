"""Failures between ranks: meeting, talking, and losing one another."""

from launch.diagnosis.known.failure import Known, raised
from launch.errors import ExitCode

PEER = "Another rank ended or cannot be reached; its own log says why"

MEETING = (
    Known(
        name="port-in-use",
        code=ExitCode.COMMUNICATION,
        patterns=(r"EADDRINUSE", r"failed to bind to .*Address already in use", r"\[Errno 98\] Address already in use",
                  raised("RuntimeError", "OSError", "DistNetworkError", saying="[Aa]ddress already in use"),
                  r"Tried to launch distributed communication on port `\d+`, but another process is utilizing it"),
        cause="the port that the ranks were to meet at is taken by another process",
        fix="start again (muster run takes a free port), or give --main_process_port another one; ss -ltnp shows whose",
        source="torch, c10d/socket.cpp",
        another_try=True,
    ),
    Known(
        name="name-not-resolved",
        code=ExitCode.COMMUNICATION,
        patterns=(r"^(?:socket\.)?gaierror: .*", r"The (?:IPv4 )?network addresses of .* cannot be retrieved",
                  raised("DistNetworkError", "OSError", saying=r"(?:name resolution|Name or service not known)")),
        cause="the name of a node could not be turned into an address",
        fix="getent hosts NAME on every node; use the address instead of the name, or mend /etc/hosts or DNS",
        source="the resolver, through torch's c10d/socket.cpp",
    ),
    Known(
        name="rendezvous-time-out",
        code=ExitCode.COMMUNICATION,
        patterns=(raised("RendezvousTimeoutError", "RendezvousClosedError", "RendezvousConnectionError"),
                  r"Timed out after \d+ seconds waiting for (?:clients|workers)",
                  r"The client socket has timed out after \d+m?s while trying to connect",
                  raised("DistNetworkError", saying="client socket has failed to connect to any network address")),
        cause="not all nodes or ranks came to the meeting point in time",
        fix=(
            "see whether every node has started (its own launcher's log), has the same number of nodes and the same"
            " address and port of the first one, and can reach it: nc -vz HEAD PORT"
        ),
        source="torch, distributed/elastic/rendezvous; c10d/TCPStore",
        another_try=True,
    ),
)  # fmt: skip

TALKING = (
    Known(
        name="nccl-system-error",
        code=ExitCode.COMMUNICATION,
        patterns=(r"NCCL error.*unhandled system error", r"^ncclSystemError:",
                  r"NCCL WARN socketStartConnect: .*failed"),
        cause="a system call of NCCL failed: an interface that the nodes do not share, or a full /dev/shm",
        fix=(
            "name the interface that all nodes share (NCCL_SOCKET_IFNAME), see /dev/shm (df -h), and run muster"
            " preflight; NCCL_DEBUG=INFO names the call"
        ),
        source="NCCL, through torch's ProcessGroupNCCL",
        standing="doubt",
        another_try=True,
    ),
    Known(
        name="nccl-time-out",
        code=ExitCode.COMMUNICATION,
        patterns=(r"\[Rank (?P<rank>\d+)\] Watchdog caught collective operation timeout",
                  r"Watchdog caught collective operation timeout", r"due to ProcessGroupNCCL watchdog hang",
                  r"is setting up NCCL communicator and ret\w+ing ncclUniqueId .*(?:[Tt]imeout)"),
        cause="a collective operation did not end in time: a rank did not come to it, or the network stands still",
        fix=(
            "look at the rank that is behind or silent, not at those that waited; TORCH_NCCL_DUMP_ON_TIMEOUT=1 keeps"
            " what each was doing"
        ),
        source="torch, ProcessGroupNCCL.cpp",
        standing="doubt",
        another_try=True,
    ),
    Known(
        name="nccl-other",
        code=ExitCode.COMMUNICATION,
        patterns=(r"ProcessGroupNCCL's watchdog got stuck for \d+", r"^ncclInternalError:", r"^ncclInvalidUsage:",
                  r"^ncclUnhandledCudaError:",
                  r"NCCL error.*(?:internal error|invalid usage|unhandled cuda error)"),
        cause="NCCL could not carry out a collective operation",
        fix="NCCL_DEBUG=INFO names the call; see that all nodes have one NCCL (muster preflight compares them)",
        source="NCCL, through torch's ProcessGroupNCCL",
        standing="doubt",
        another_try=True,
    ),
)  # fmt: skip

LOST = (
    Known(
        name="nccl-peer-lost",
        code=ExitCode.COMMUNICATION,
        patterns=(r"^ncclRemoteError:", r"NCCL error.*remote process exited"),
        cause="NCCL lost the connection to another rank",
        fix=PEER,
        source="NCCL, through torch's ProcessGroupNCCL",
        standing="echo",
        another_try=True,
    ),
    Known(
        name="gloo-peer-lost",
        code=ExitCode.COMMUNICATION,
        patterns=(r"gloo/.*(?:Connection closed by peer|Connection reset by peer|Read timeout|Timed out waiting)",
                  raised("RuntimeError", saying=r"(?i:gloo|connectfullmesh)")),
        cause="gloo lost the connection to another rank",
        fix=PEER,
        source="gloo, through torch's ProcessGroupGloo",
        standing="echo",
        another_try=True,
    ),
    Known(
        name="peer-lost",
        code=ExitCode.COMMUNICATION,
        patterns=(
            raised("DistBackendError", "DistNetworkError", "DistStoreError", "DistError", "RendezvousError",
                   "ConnectionResetError", "BrokenPipeError", "CommunicationError"),
            raised("RuntimeError", saying=r"(?i:nccl error|connection closed by peer|connection reset by peer"
                   r"|timed out waiting|broken pipe|watchdog caught collective operation timeout)"),
            r"TCPStore.*(?:Broken pipe|Connection reset by peer|failed to recv)",
        ),
        cause="the connection to another rank was lost",
        fix=PEER,
        source="torch.distributed; Python's sockets",
        standing="echo",
        another_try=True,
    ),
)  # fmt: skip
