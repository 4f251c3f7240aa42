"""A cluster that keeps accounts: slurmdbd beside slurmctld, and a MariaDB of its own behind it.

Both run on login. The database listens in login's network alone and lies in the cluster's directory: no service of the
system is used, and nothing of it stays.

    with AccountedCluster(nodes=1, options={"MinJobAge": 2}) as cluster:
        cluster.slurm("sacct", "--jobs=1")
        cluster.kill_accounting()
"""

import shutil

from tests.slurm.cluster import Cluster
from tests.slurm.settings import ACCOUNTED, SLURMDBD

PROGRAMS = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db", "my_print_defaults")
# What every user of these tests may use, besides Slurm's own `root`.
ACCOUNT = "lab"
# A database of a few rows, on a disk that nobody needs after a power loss.
SMALL = (
    "--no-defaults", "--user=root", "--innodb-buffer-pool-size=8M", "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0", "--innodb-fast-shutdown=2",
)  # fmt: skip


def absent() -> str | None:
    """Why no such cluster can run here although another one can, and what to do; None when it can."""
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if not missing:
        return None
    return f"no {', '.join(missing)} here: apt-get install slurmdbd mariadb-server-core mariadb-client-core"


class AccountedCluster(Cluster):
    """Jobs outlive slurmctld's memory, and only who has an account may have one: root, in `root` and in ACCOUNT."""

    def _write_files(self) -> None:
        super()._write_files()
        login = self.address("login")
        with open(self.directory / "slurm.conf", "a") as file:
            file.write(ACCOUNTED.format(login=login, directory=self.directory))
        conf = self.directory / "slurmdbd.conf"
        conf.touch(mode=0o600)  # slurmdbd refuses one that others can read
        conf.write_text(SLURMDBD.format(login=login, directory=self.directory))

    def _start_services(self) -> None:
        super()._start_services()
        self._start_database()
        self.start_accounting()
        for words in (["cluster", "muster"], ["account", ACCOUNT], ["user", "root", f"account={ACCOUNT}"]):
            self.slurm("sacctmgr", "--immediate", "add", *words)

    def _start_database(self) -> None:
        data, log = self.directory / "database", self.directory / "log/mariadbd.err"
        login = self._machines["login"]
        place = [*SMALL, f"--datadir={data}"]
        login.run(["mariadb-install-db", *place, "--auth-root-authentication-method=normal", "--skip-test-db"])
        own = ["--bind-address=127.0.0.1", f"--socket={data}/socket", f"--pid-file={data}/pid", f"--log-error={log}"]
        self._start_in_background("login", ["mariadbd", *place, *own])
        ready = ["bash", "-c", "</dev/tcp/127.0.0.1/3306"]
        self.wait_until(lambda: login.run(ready, check=False).returncode == 0, "a database")

    def start_accounting(self) -> None:
        """slurmdbd starts, makes its tables the first time, and answers."""
        # Its file is found beside slurm.conf. A daemon of its own making would keep our pipes.
        self._start_in_background("login", ["env", f"SLURM_CONF={self.directory}/slurm.conf", "slurmdbd", "-D"])
        self.wait_until(lambda: "Cluster" in self.slurm("sacctmgr", "show", "clusters", check=False), "slurmdbd")

    def kill_accounting(self) -> None:
        """slurmdbd crashes: sacct and sacctmgr fail at once, slurmctld keeps what it has to tell it for later."""
        self._kill_daemon("login", "slurmdbd")
