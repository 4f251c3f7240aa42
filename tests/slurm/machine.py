"""A machine of a cluster: namespaces of its own for processes, network, mounts, host name and IPC.

The kernel ties all of it to one process, the machine's init. When that process ends, by kill or because the program that started
it has died (its end of a pipe closes), the kernel kills everything that runs on the machine and takes its network away with it.
So nothing is ever left behind, and "power off" is one signal. Nothing is named on the host: no /run/netns, no line in /etc/hosts.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Prints its number as the host sees it (/proc is still the host's), lets the kernel reap orphans, and waits for its own end.
INIT = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(os.readlink("/proc/self"), flush=True)
sys.stdin.buffer.read()
"""
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")


class CommandFailed(RuntimeError):
    """A command on a machine ended with an exit code other than 0; the text has its output."""


class Machine:
    """A running machine called `name`; `inside` another one it dies with it. Raises CommandFailed where the rights are missing."""

    def __init__(self, name: str, inside: "Machine | None" = None) -> None:
        self.name = name
        parent = ["nsenter", "--target", str(inside.pid), "--pid"] if inside else []
        self._init = subprocess.Popen(
            [*parent, "unshare", "--fork", *NAMESPACES, sys.executable, "-I", "-S", "-c", INIT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends the program, and the program ends the machine
        )
        assert self._init.stdout is not None
        answer = self._init.stdout.readline().decode().strip()
        if not answer:
            assert self._init.stderr is not None
            raise CommandFailed(f"no namespaces for {name}: {self._init.stderr.read().decode().strip()}")
        self.pid = int(answer)
        self._network = namespace(self.pid)
        self.script(f"hostname {name}; mount -t proc proc /proc; mount -t tmpfs tmpfs /dev/shm; ip link set lo up")

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
        """Runs a command on this machine to its end; its output comes back as text."""
        return run(self.argv(argv, cwd), check=check, timeout=timeout, env=env)

    def script(self, text: str) -> str:
        return self.run(["sh", "-euc", text]).stdout

    def network(self, *argv: object) -> None:
        """Runs `ip ARGV` in this machine's network alone, so that process numbers are the host's."""
        run(["nsenter", "--target", str(self.pid), "--net", "ip", *map(str, argv)])

    def processes(self) -> dict[int, list[str]]:
        """Number on the host -> command line of each process in this machine's network namespace, its init left out."""
        found = {}
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit() or int(directory.name) == self.pid:
                continue
            # A process may end while it is looked at.
            with contextlib.suppress(OSError):
                if namespace(int(directory.name)) == self._network:
                    words = (directory / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
                    if words != [""]:  # a zombie has none
                        found[int(directory.name)] = words
        return found

    def power_off(self) -> None:
        """Kills everything that runs here, at once and without a word to anyone, and takes the network interface away."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        self._init.kill()
        self._init.communicate()


def namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def run(
    argv: Sequence[object],
    *,
    check: bool = True,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end. Raises CommandFailed with its output when `check` and it did not succeed."""
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode != 0:
        raise CommandFailed(
            f"{' '.join(map(str, argv))}: exit code {done.returncode}\n{done.stdout}{done.stderr}".strip()
        )
    return done
