"""A real Slurm of a few nodes on one machine, made to be broken. See README.md.

python -m tests.slurm.cluster --nodes 3 --shell      # start one by hand; a shell with SLURM_CONF set; exit ends it

with Cluster(nodes=2, gpus_per_node=2) as cluster:
    job = cluster.submit("#!/bin/sh\\nsrun hostname\\n", "--nodes=2")
    cluster.wait(job, "COMPLETED")
"""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.slurm.machine import Machine, run
from tests.slurm.settings import gres_conf, slurm_conf
from tests.slurm.slot import Slot, take_slot

ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
    "OUT_OF_MEMORY",
)
RECORD = re.compile(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", re.S)


class Cluster:
    """Nodes n0, n1, ... and a controller called login, each a machine of its own. The host can submit to it as well.

    cpus: of each node, as Slurm counts them. options: settings of slurm.conf that replace ours. partitions: name -> the rest of
    its line, which replaces ours; None takes it away. Raises RuntimeError when Slurm or the rights are missing.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        gpus_per_node: int = 0,
        cpus: int = 2,
        options: Mapping[str, object] | None = None,
        partitions: Mapping[str, str | None] | None = None,
    ) -> None:
        self.names = [f"n{number}" for number in range(nodes)]
        self._settings = {
            "cpus": cpus,
            "gpus_per_node": gpus_per_node,
            "options": options or {},
            "partitions": partitions or {},
        }
        self._gpus = gpus_per_node
        self._machines: dict[str, Machine] = {}
        self._slot: Slot | None = None
        self._mounts = 0

    # --- start and end ---

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts everything and waits until all nodes are idle: about 3 s."""
        self._slot = take_slot()
        self._write_files()
        self._start_login()
        for name in self.names:
            self._boot(name)
        self.wait_for_nodes("IDLE", self.names, seconds=30)

    def stop(self) -> None:
        """Ends everything at once and removes the directory. May be called twice."""
        if "login" in self._machines:
            self._machines["login"].power_off()  # the nodes' processes are inside its own
        for machine in self._machines.values():
            machine.power_off()
        self._machines.clear()
        if self._slot:
            self._slot.release()
            self._slot = None

    @property
    def directory(self) -> Path:
        """Everything of this cluster: slurm.conf, log/, jobs/. Removed at the end."""
        assert self._slot, "the cluster has not been started"
        return self._slot.directory

    def address(self, name: str) -> str:
        assert self._slot
        return f"{self._slot.network}.{1 if name == 'login' else 10 + self.names.index(name)}"

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment in which Slurm's commands on the host mean this cluster, without variables of another allocation."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
        return {**kept, "SLURM_CONF": str(self.directory / "slurm.conf"), **changes}

    def _write_files(self) -> None:
        assert self._slot
        for name in ("munge", "log", "jobs", "spool", "state", "dev"):
            (self.directory / name).mkdir(mode=0o755)
        addresses = {name: self.address(name) for name in self.names}
        text = slurm_conf(self.directory, self._slot.network, addresses, **self._settings)
        (self.directory / "slurm.conf").write_text(text)
        (self.directory / "gres.conf").write_text(gres_conf(self.directory, self._gpus))
        for gpu in range(self._gpus):
            os.mknod(self.directory / f"dev/gpu{gpu}", 0o20666, os.makedev(1, 3))  # /dev/null under another name
        lines = ["127.0.0.1 localhost", *(f"{self.address(name)} {name}" for name in ["login", *self.names])]
        (self.directory / "hosts").write_text("\n".join(lines) + "\n")
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)

    def _start_login(self) -> None:
        """The machine of the controller: the bridge that joins all, with a leg to the host."""
        assert self._slot
        login = self._machines["login"] = Machine("login")
        interface = self._slot.interface
        run(["ip", "link", "add", interface, "type", "veth", "peer", "name", "host", "netns", login.pid])
        run(["ip", "addr", "add", f"{self._slot.network}.254/24", "dev", interface])
        run(["ip", "link", "set", interface, "up"])
        login.script(
            "ip link add bridge type bridge; ip link set host master bridge up; ip link set bridge up; "
            f"ip addr add {self.address('login')}/24 dev bridge; "
            f"mount --bind {self.directory}/hosts /etc/hosts"
        )
        self.start_munge("login")
        self.start_controller(clean=True)

    def _boot(self, name: str) -> None:
        login = self._machines["login"]
        node = self._machines[name] = Machine(name, inside=login)
        login.network("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", node.pid)
        login.network("link", "set", f"to-{name}", "master", "bridge", "up")
        sockets = self.directory / f"munge-{name}"
        sockets.mkdir(mode=0o755, exist_ok=True)
        node.script(
            f"ip addr add {self.address(name)}/24 dev eth0; ip link set eth0 up; "
            f"mount --bind {self.directory}/hosts /etc/hosts; mount --bind {sockets} {self.directory}/munge"
        )
        self.start_munge(name)
        self._daemon(name, "slurmd")

    # --- jobs ---

    def submit(
        self,
        script: str | Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
    ) -> str:
        """Submits a batch script, a path or the text itself, as sbatch on the host does. Returns the job's id.

        Its output goes to jobs/ID.out unless an option says otherwise. `env` is added to the environment. Raises CommandFailed.
        """
        if isinstance(script, str) and script.startswith("#!"):
            path = self.directory / "jobs" / f"script-{time.monotonic_ns()}"
            path.write_text(script)
            script = path
        output = f"--output={self.directory}/jobs/%j.out"
        done = run(
            ["sbatch", "--parsable", output, *options, script],
            env=self.environment(**(env or {})),
            cwd=cwd or self.directory / "jobs",
        )
        return done.stdout.strip().split(";")[0]

    def slurm(self, *argv: object, check: bool = True) -> str:
        """Runs a command of Slurm on the host, such as slurm("squeue", "-h"), and returns its output. Raises CommandFailed."""
        return run(argv, env=self.environment(), check=check).stdout

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says, such as {"JobState": "RUNNING", "NodeList": "n[0-1]", ...}."""
        return dict(RECORD.findall(self.slurm("scontrol", "--oneliner", "show", "job", job)))

    def state(self, job: str) -> str:
        return self.job(job)["JobState"]

    def wait(self, job: str, *states: str, seconds: float = 30) -> str:
        """Waits until the job is in one of the states, by default any that is an end. Returns it; TimeoutError names the last."""
        wanted = states or ENDED
        self.wait_until(
            lambda: self.state(job) in wanted,
            f"job {job} {' or '.join(wanted)}",
            seconds,
            lambda: f"it is {self.job(job)}\noutput: {self.output(job)[-2000:]}",
        )
        return self.state(job)

    def output(self, job: str) -> str:
        """What the batch script and its steps have written so far."""
        path = Path(self.job(job)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def cancel(self, *jobs: str) -> None:
        self.slurm("scancel", *jobs)

    def requeue(self, job: str) -> None:
        """As an administrator or a job itself does: the job is stopped and starts again with SLURM_RESTART_COUNT one higher."""
        self.slurm("scontrol", "requeue", job)

    # --- what is where ---

    def node_state(self, name: str) -> str:
        """Slurm's word, with flags: IDLE, MIXED, ALLOCATED, DOWN, IDLE+DRAIN, DOWN+NOT_RESPONDING, ..."""
        return dict(RECORD.findall(self.slurm("scontrol", "--oneliner", "show", "node", name)))["State"]

    def wait_for_nodes(self, state: str, names: Sequence[str], seconds: float = 30) -> None:
        """Waits until each node is in this very state; DOWN is any state that has it. Raises TimeoutError."""

        def reached() -> bool:
            found = [self.node_state(name) for name in names]
            return all(state in word.split("+") if state == "DOWN" else word == state for word in found)

        self.wait_until(reached, f"{', '.join(names)} {state}", seconds, lambda: self.slurm("sinfo", "-N", "-l"))

    def processes(self, name: str) -> dict[int, list[str]]:
        """Number on the host -> command line of all that runs on a node: slurmd and munged too. Found by network namespace."""
        return self._machines[name].processes()

    def run_on(
        self, name: str, argv: Sequence[object], *, check: bool = True, cwd: Path | str = "/", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a node, or on login, as somebody who has logged in there does."""
        return self._machines[name].run(argv, check=check, cwd=cwd, env=self.environment(), timeout=timeout)

    def logs(self, lines: int = 40) -> str:
        """The ends of the daemons' logs."""
        parts = []
        for path in sorted((self.directory / "log").iterdir()):
            parts += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(parts)

    def wait_until(self, done: Callable[[], bool], what: str, seconds: float, found: Callable[[], str]) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not {what} after {seconds:g} s: {found()}\n{self.logs()}")
            time.sleep(0.1)

    # --- faults ---

    def cut(self, name: str) -> None:
        """Pulls a node's cable: everything on it goes on, and nothing reaches it. Slurm says DOWN after SlurmdTimeout."""
        self._machines["login"].network("link", "set", f"to-{name}", "down")

    def restore(self, name: str) -> None:
        """Plugs the cable in again."""
        self._machines["login"].network("link", "set", f"to-{name}", "up")

    def kill_node(self, name: str) -> None:
        """Power loss: every process on the node ends at once, nobody is told, and its address does not answer."""
        self._machines.pop(name).power_off()

    def start_node(self, name: str) -> None:
        """Switches a killed node on again: it boots without what was mounted over it, and says so to the controller."""
        self._boot(name)

    def hide_directory(self, name: str, path: Path | str) -> None:
        """A directory that is not shared: on this node alone `path` is an empty one, on a disk of its own (a tmpfs)."""
        self._machines[name].run(["mount", "-t", "tmpfs", "tmpfs", path])

    def replace_file(self, name: str, path: Path | str, text: str) -> None:
        """Another version of a file on this node alone, such as a package's METADATA. The file must exist."""
        self._mounts += 1
        copy = self.directory / f"replaced-{self._mounts}"
        copy.write_text(text)
        self._machines[name].run(["mount", "--bind", copy, path])

    def show_again(self, name: str, path: Path | str) -> None:
        """Undoes hide_directory or replace_file."""
        self._machines[name].run(["umount", "--lazy", path])

    # --- daemons ---

    def start_munge(self, name: str) -> None:
        """Starts munged on a node or on login."""
        own = self.directory / f"munged-{name}"
        own.mkdir(mode=0o700, exist_ok=True)
        files = [f"--{what}-file={own}/{what}" for what in ("pid", "seed", "log")]
        socket = f"--socket={self.directory}/munge/socket"
        self._machines[name].run(
            ["munged", "--force", "--num-threads=2", socket, f"--key-file={self.directory}/munge.key", *files]
        )

    def start_controller(self, clean: bool = False) -> None:
        self._daemon("login", "slurmctld", *(["-c"] if clean else []))

    def _daemon(self, machine: str, program: str, *arguments: str) -> None:
        self._machines[machine].run([program, "-f", self.directory / "slurm.conf", *arguments], env=self.environment())

    def _kill_daemon(self, machine: str, program: str) -> None:
        """SIGKILL; returns when it is gone."""
        for pid, words in self.processes(machine).items():
            if os.path.basename(words[0]) == program:
                os.kill(pid, signal.SIGKILL)
        running = lambda: any(os.path.basename(w[0]) == program for w in self.processes(machine).values())  # noqa: E731
        self.wait_until(lambda: not running(), f"{program} ended", 10, str)


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m tests.slurm.cluster", description="Starts a Slurm to try things on."
    )
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--gpus-per-node", type=int, default=0)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--shell", action="store_true", help="a shell that ends the cluster; otherwise Ctrl-C does")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: exit(143))
    with Cluster(chosen.nodes, gpus_per_node=chosen.gpus_per_node, cpus=chosen.cpus) as cluster:
        print(f"export SLURM_CONF={cluster.directory}/slurm.conf", flush=True)
        for name in ["login", *cluster.names]:
            print(f"# on {name}: {shlex.join(cluster._machines[name].argv(['bash']))}", flush=True)
        if chosen.shell:
            subprocess.run([os.environ.get("SHELL", "bash")], env=cluster.environment(), check=False)
        else:
            try:
                signal.pause()
            except KeyboardInterrupt:
                print()


if __name__ == "__main__":
    main()
