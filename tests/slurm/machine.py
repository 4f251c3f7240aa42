"""A machine of a cluster: namespaces of its own for processes, network, mounts, host name, IPC and uptime.

The kernel ties all of it to one process, the machine's init. When that process ends, by a kill or because the program
that started it has died (its end of a pipe closes), the kernel kills everything that runs on the machine and takes its
network away. So nothing is left behind, even after `kill -9`, and a power loss is one signal. Nothing has a name on the
host: no /run/netns, no line in /etc/hosts.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# Prints its number while /proc is still the host's, lets the kernel reap orphans, and waits for its program's end.
INIT = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(os.readlink("/proc/self"), flush=True)
sys.stdin.buffer.read()
"""
NAMESPACES = ["--mount", "--uts", "--ipc", "--net", "--pid"]
if Path("/proc/self/ns/time").exists():  # Linux 5.6
    NAMESPACES.append("--time")


class CommandFailed(RuntimeError):
    """A command ended with an exit code other than 0; the text has its output."""


class Machine:
    """A running machine called `name`; one `inside` another dies with it. Raises CommandFailed without the rights."""

    def __init__(self, name: str, inside: "Machine | None" = None) -> None:
        self.name = name
        parent = ["nsenter", "--target", str(inside.pid), "--pid"] if inside else []
        self._init = subprocess.Popen(
            [*parent, "unshare", "--fork", *NAMESPACES, *uptime_zero(), sys.executable, "-I", "-S", "-c", INIT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends the program, and the program ends the machine
        )
        assert self._init.stdout is not None
        answer = self._init.stdout.readline().decode().strip()
        if not answer:
            errors = self._init.communicate()[1].decode().strip()
            raise CommandFailed(f"no namespaces for {name}: {errors}")
        self.pid = int(answer)
        self._own = namespace(self.pid)
        try:
            # A /dev/shm of its own, as every node has: what one shares there, another does not see.
            self.script(f"hostname {name}; mount -t proc proc /proc; mount -t tmpfs tmpfs /dev/shm; ip link set lo up")
        except BaseException:
            self.power_off()
            raise

    def argv(self, argv: Sequence[object], cwd: Path | str = "/") -> list[str]:
        """The command line that runs `argv` on this machine when started on the host."""
        enter = ["nsenter", "--target", str(self.pid), *NAMESPACES]
        return [*enter, "env", f"--chdir={cwd}", *map(str, argv)]

    def run(
        self,
        argv: Sequence[object],
        *,
        check: bool = True,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: Path | str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on this machine to its end, as `run` does on the host. `timeout`: seconds."""
        return run(self.argv(argv, cwd), check=check, timeout=timeout, env=env)

    def script(self, text: str) -> str:
        """Runs lines of shell on this machine, up to the first that fails."""
        return self.run(["sh", "-euc", text]).stdout

    def ip(self, *argv: object) -> None:
        """Runs `ip ARGV` in this machine's network alone, where process numbers are still the host's."""
        run(["nsenter", "--target", str(self.pid), "--net", "ip", *argv])

    def shape(self, interface: str, megabits: float) -> None:
        """What leaves by an interface goes at so many Mbit/s at most; what would wait longer than 0.2 s is lost."""
        limits = ["rate", f"{megabits:g}mbit", "burst", "16kb", "latency", "200ms"]
        run(["nsenter", "--target", str(self.pid), "--net", "tc", "qdisc", "replace", "dev", interface, "root", "tbf",
             *limits])  # fmt: skip

    def processes(self) -> dict[int, list[str]]:
        """Number on the host -> command line of each process of this machine but its init."""
        found = {}
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit() or int(directory.name) == self.pid:
                continue
            with suppress(OSError):  # it may end while it is looked at
                if namespace(int(directory.name)) == self._own:
                    words = (directory / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
                    if words != [""]:  # a zombie has none
                        found[int(directory.name)] = words
        return found

    def power_off(self) -> None:
        """Kills everything that runs here, at once and without a word to anyone; its network interface vanishes."""
        if self._init.poll() is None:  # after that the number could be another process's
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._init.communicate()


def uptime_zero() -> list[str]:
    """What makes a machine's uptime start now. By it Slurm sees that a node has booted and has lost its jobs."""
    if "--time" not in NAMESPACES:
        return []
    uptime = int(float(Path("/proc/uptime").read_text().split()[0]))
    return ["--boottime", str(-uptime)]


def namespace(pid: int) -> str:
    """The namespace of processes that one is in; a process can never leave it."""
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


def run(
    argv: Sequence[object],
    *,
    check: bool = True,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; its output comes back as text. Raises CommandFailed when `check` and it failed."""
    words = [str(word) for word in argv]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=timeout, env=env, cwd=cwd, stdin=subprocess.DEVNULL
    )
    if check and done.returncode != 0:
        raise CommandFailed(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}".strip())
    return done
