"""A real Slurm of a few nodes on one machine, made to be broken. README.md tells what it is made of.

    with Cluster(nodes=2, gpus_per_node=2) as cluster:
        job = cluster.submit("#!/bin/sh\\nsrun hostname\\n", "--nodes=2")
        cluster.wait(job, "COMPLETED")
        cluster.kill_node("n1")

By hand: python -m tests.slurm --nodes 3 --shell
"""

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.slurm.commands import Commands
from tests.slurm.machine import CommandFailed, Machine, run
from tests.slurm.settings import Settings, gres_conf, slurm_conf
from tests.slurm.slot import Slot, take_slot

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged", "ip", "nsenter", "unshare")


def missing() -> str | None:
    """Why no cluster can run on this machine and what to do, or None when one can."""
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge iproute2"
    if os.geteuid() != 0:
        return "network namespaces need root: run the tests as root"
    try:
        machine = Machine("probe")
    except CommandFailed as error:
        return f"namespaces need CAP_SYS_ADMIN (in a container: --privileged): {error}"
    try:
        machine.script("ip link add bridge type bridge; ip link add here type veth peer name there")
    except CommandFailed as error:
        return f"a bridge and veth pairs need CAP_NET_ADMIN and the kernel's bridge and veth modules: {error}"
    finally:
        machine.power_off()
    return None


class Cluster(Commands):
    """Nodes n0, n1, ... and a controller called login, each a machine of its own; Slurm's commands work on the host.

    cpus: of each node, as Slurm counts them. options: settings of slurm.conf that replace or join ours.
    partitions: name -> the rest of its line, which replaces or joins ours; None takes it away.
    Raises CommandFailed where Slurm or the rights are missing (`missing` tells), TimeoutError when it does not start.
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
        self._settings = Settings(cpus, gpus_per_node, options or {}, partitions or {})
        self._machines: dict[str, Machine] = {}
        self._slot: Slot | None = None

    # --- start and end ---

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts everything and waits until all nodes are idle: under a second."""
        self._slot = take_slot()
        self._write_files()
        self._start_login()
        for name in self.names:
            self.start_node(name)
        self.wait_for_nodes("IDLE", *self.names)
        # A site's controller has saved its nodes long ago; this one would wait for a first job. A change makes it save.
        self.slurm("scontrol", "update", f"NodeName={','.join(self.names)}", "Comment=started")
        self.wait_until((self.directory / "state/node_state").exists, "saved")

    def stop(self) -> None:
        """Ends everything at once and removes the directory. May be called twice."""
        if "login" in self._machines:
            self._machines["login"].power_off()  # the nodes are inside it
        for machine in self._machines.values():
            machine.power_off()
        self._machines.clear()
        if self._slot:
            self._slot.release()
            self._slot = None

    @property
    def slot(self) -> Slot:
        assert self._slot, "the cluster has not been started, or has ended"
        return self._slot

    @property
    def directory(self) -> Path:
        return self.slot.directory

    def address(self, name: str) -> str:
        """The IPv4 address of a node, or of login."""
        return f"{self.slot.network}.{1 if name == 'login' else 10 + self.names.index(name)}"

    def _write_files(self) -> None:
        for name in ("munge", "log", "jobs", "spool", "state", "dev", "replaced"):
            (self.directory / name).mkdir(mode=0o755)
        addresses = {name: self.address(name) for name in ["login", *self.names]}
        (self.directory / "slurm.conf").write_text(slurm_conf(self.directory, addresses, self._settings))
        (self.directory / "gres.conf").write_text(gres_conf(self.directory, self._settings))
        for gpu in range(self._settings.gpus_per_node):
            os.mknod(self.directory / f"dev/gpu{gpu}", 0o20666, os.makedev(1, 3))  # /dev/null under another name
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (self.directory / "hosts").write_text("\n".join(lines) + "\n")
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)  # munged refuses one that others can read

    def _start_login(self) -> None:
        """The machine of slurmctld. It has the bridge that joins all nodes, with a leg to the host."""
        login = self._machines["login"] = Machine("login")
        interface = self.slot.interface
        run(["ip", "link", "add", interface, "type", "veth", "peer", "name", "host", "netns", login.pid])
        run(["ip", "addr", "add", f"{self.slot.network}.254/24", "dev", interface])
        run(["ip", "link", "set", interface, "up"])
        login.script(
            "ip link add bridge type bridge; ip link set host master bridge up; ip link set bridge up; "
            f"ip addr add {self.address('login')}/24 dev bridge; mount --bind {self.directory}/hosts /etc/hosts"
        )
        self._start_services()
        self._start_daemon("login", "slurmctld")

    def _start_services(self) -> None:
        """What slurmctld finds when it starts."""
        self.start_munge()

    def start_node(self, name: str) -> None:
        """Switches a node on: it boots, without what was mounted over it before, and reports to the controller."""
        assert name not in self._machines, f"{name} is running"
        login = self._machines["login"]
        node = self._machines[name] = Machine(name, inside=login)
        # The same hardware address after each boot, as a network card has: the others' ARP caches stay right.
        card = ["address", f"02:00:00:00:00:{10 + self.names.index(name):02x}"]
        login.ip("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", *card, "netns", node.pid)
        login.ip("link", "set", f"to-{name}", "master", "bridge", "up")
        # munged's socket has one path in slurm.conf and is another one on each node.
        (self.directory / f"munge-{name}").mkdir(mode=0o755, exist_ok=True)
        (self.directory / "spool" / name).mkdir(exist_ok=True)
        node.script(
            f"ip addr add {self.address(name)}/24 dev eth0; ip link set eth0 up; "
            f"mount --bind {self.directory}/hosts /etc/hosts; "
            f"mount --bind {self.directory}/munge-{name} {self.directory}/munge"
        )
        self.start_munge(name)
        self._start_daemon(name, "slurmd")

    # --- what is where ---

    def processes(self, name: str) -> dict[int, list[str]]:
        """Number on the host -> command line of what runs on a node, slurmd and munged too; none when it is off."""
        return self._machines[name].processes() if name in self._machines else {}

    def argv_on(self, name: str, argv: Sequence[object], cwd: Path | str = "/") -> list[str]:
        """The command line that runs `argv` on a node, or on login, when started on the host."""
        return self._machines[name].argv(argv, cwd)

    def run_on(
        self,
        name: str,
        argv: Sequence[object],
        *,
        check: bool = True,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: Path | str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a node, or on login, as somebody who has logged in there does. `timeout`: seconds."""
        variables = self.environment(**(env or {}))
        return self._machines[name].run(argv, check=check, cwd=cwd, env=variables, timeout=timeout)

    # --- faults of nodes ---

    def cut(self, name: str) -> None:
        """Pulls a node's cable: all on it goes on, nothing reaches it. DOWN for Slurm after 13 to 20 s."""
        self._machines["login"].ip("link", "set", f"to-{name}", "down")

    def restore(self, name: str) -> None:
        """Plugs the cable in. slurmd is told to report: by itself Slurm asks a node that was down every 20th ping."""
        self._machines["login"].ip("link", "set", f"to-{name}", "up")
        for pid in self._daemons(name, "slurmd"):
            os.kill(pid, signal.SIGHUP)

    def slow_down(self, name: str, megabits: float) -> None:
        """A cable that has come down to so many Mbit/s, both ways; nothing else is wrong with it. Needs the kernel's
        token bucket (CONFIG_NET_SCH_TBF)."""
        self._machines["login"].shape(f"to-{name}", megabits)
        self._machines[name].shape("eth0", megabits)

    def block_ports(self, name: str, first: int, last: int) -> None:
        """A firewall: what this node sends to these TCP ports of others goes nowhere. Slurm's own are others."""
        self._machines[name].ip("rule", "add", "ipproto", "tcp", "dport", f"{first}-{last}", "blackhole")

    def kill_node(self, name: str) -> None:
        """Power loss: every process on the node ends at once, nobody is told, and its address answers no more."""
        self._machines.pop(name).power_off()

    def hide_directory(self, name: str, path: Path | str) -> None:
        """A directory that is not shared: on this node alone it is empty and on a disk of its own (a tmpfs)."""
        self._machines[name].run(["mount", "-t", "tmpfs", "tmpfs", path])

    def replace_file(self, name: str, path: Path | str, text: str) -> None:
        """Another text in a file on this node alone, such as a package's METADATA. The file must exist."""
        copy = self.directory / "replaced" / str(len(list((self.directory / "replaced").iterdir())))
        copy.write_text(text)
        self._machines[name].run(["mount", "--bind", copy, path])

    def show_again(self, name: str, path: Path | str) -> None:
        """Undoes hide_directory or replace_file."""
        self._machines[name].run(["umount", "--lazy", path])  # lazy: a job may have it open

    # --- faults of daemons: jobs on the nodes go on ---

    def kill_controller(self) -> None:
        """slurmctld crashes (SIGKILL): squeue and sbatch fail after 4 s, jobs run on. It forgets its last 5 s."""
        self._kill_daemon("login", "slurmctld")

    def start_controller(self) -> None:
        """slurmctld starts from its saved state, jobs and nodes as they were, and answers."""
        self._start_daemon("login", "slurmctld")
        self.wait_until(lambda: "UP" in self.slurm("scontrol", "ping", check=False), "controller UP")

    def restart_controller(self) -> None:
        """An update of slurmctld: it saves its state, ends, and starts again."""
        self._kill_daemon("login", "slurmctld", signal.SIGTERM)
        self.start_controller()

    def kill_daemon(self, name: str) -> None:
        """slurmd crashes (SIGKILL): the node is DOWN after SlurmdTimeout, the steps on it run on."""
        self._kill_daemon(name, "slurmd")

    def start_daemon(self, name: str) -> None:
        self._start_daemon(name, "slurmd")

    def restart_daemon(self, name: str) -> None:
        """An update of slurmd: steps run on, and it finds them again."""
        self._kill_daemon(name, "slurmd", signal.SIGTERM)
        self.start_daemon(name)

    def kill_munge(self, name: str = "login") -> None:
        """munged crashes on a node, or on login for the host too: no command or daemon there can prove who it is."""
        self._kill_daemon(name, "munged")

    def start_munge(self, name: str = "login") -> None:
        own = self.directory / f"munged-{name}"
        own.mkdir(mode=0o700, exist_ok=True)
        files = [f"--{what}-file={own}/{what}" for what in ("pid", "seed", "log")]
        files += [f"--key-file={self.directory}/munge.key", f"--socket={self.directory}/munge/socket"]
        self._machines[name].run(["munged", "--force", *files])  # --force: a killed one left its socket

    def _start_daemon(self, machine: str, program: str) -> None:
        self._machines[machine].run([program, "-f", self.directory / "slurm.conf"], env=self.environment())

    def _start_in_background(self, machine: str, argv: Sequence[object]) -> None:
        self._machines[machine].script(f"{shlex.join(map(str, argv))} </dev/null >/dev/null 2>&1 &")

    def _kill_daemon(self, machine: str, program: str, sent: int = signal.SIGKILL) -> None:
        for pid in self._daemons(machine, program):
            os.kill(pid, sent)
        self.wait_until(lambda: not self._daemons(machine, program), f"{program} ended")

    def _daemons(self, machine: str, program: str) -> list[int]:
        return [pid for pid, words in self.processes(machine).items() if Path(words[0]).name == program]
