"""Machines of a cluster: each has a folder that stands for its disk, and sees no other's; and processes."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from batch_pipeline_tests.cluster.programs import PYTHON, ROOT

APART = """
mount --bind "$1" "$2" && mount -t tmpfs none "$3" && cd "$2" && shift 3 && exec "$@"
"""
"""Has a process see its machine's disk ($1) at a place ($2), and the folder of all disks ($3) empty."""


def can_be_apart() -> bool:
    """Return whether processes here can have mounts of their own."""
    try:
        tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    except OSError:
        return False
    return tried.returncode == 0


class Process:
    """A process, with all that it starts.

    Args:
        name: for its log and for messages.
        command: what is run.
        folder: its working directory; its log lies there.
        environment: all of its variables.
        user: whose it is; None: whoever runs this.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str],
        user: int | None = None,
    ) -> None:  # fmt: skip
        self.name, self.command, self.folder = name, list(command), folder
        self.environment, self.user = dict(environment), user
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        whose = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **whose,
            )  # fmt: skip

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to it and to all that it started."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                pass

    def tell(self, number: int) -> None:
        """Send a signal to it alone."""
        if self.running:
            assert self._process is not None
            self._process.send_signal(number)

    def wait(self, seconds: float = 30) -> bool:
        """Wait for its end; return whether it came."""
        try:
            if self._process is not None:
                self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Kill it (`kill -9`) with all that it started."""
        self.signal(signal.SIGKILL)
        self.wait()

    def tail(self, size: int = 2000) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""


class Machine:
    """A folder that stands for a machine's disk, and what is set on it.

    Args:
        name: of the machine.
        disks: the folder in which each machine has its own.
        apart: whether its processes see no disk but their own.
        shared: variables that are set on each machine.
        settings: its dagster.yaml.
        workspace: its workspace.yaml.
    """

    def __init__(
        self, name: str, disks: Path, apart: bool, shared: Mapping[str, str],
        settings: Mapping[str, object], workspace: Mapping[str, object],
    ) -> None:  # fmt: skip
        self.name, self.disks, self.folder, self.apart = name, disks, disks / name, apart
        self.shared, self.settings, self.workspace = shared, settings, workspace
        self.processes: list[Process] = []
        self.make()

    @property
    def seen_at(self) -> Path:
        """Where its processes see its disk: on all machines at the same place, as in containers."""
        return self.disks.with_name("disk") if self.apart else self.folder

    def make(self) -> None:
        """Make its disk as a new machine's."""
        for part in ("tmp", "dagster_home"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "dagster_home/dagster.yaml").write_text(yaml.safe_dump(self.settings))
        (self.folder / "workspace.yaml").write_text(yaml.safe_dump(self.workspace))
        self.seen_at.mkdir(exist_ok=True)

    def replace(self) -> int:
        """Take its disk away, and give it a new one; return how many files are gone."""
        files = sum(1 for one in self.folder.rglob("*") if one.is_file())
        shutil.rmtree(self.folder)
        self.make()
        return files

    def process(self, name: str, *words: str, **more: str) -> Process:
        """Return a Python process of this machine: `python -m` and the words; it is not started."""
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "LANG": "C.UTF-8",
            "HOME": str(self.seen_at),
            "TMPDIR": str(self.seen_at / "tmp"),
            "DAGSTER_HOME": str(self.seen_at / "dagster_home"),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "deploy"))),
            "PYTHONUNBUFFERED": "1",
            **self.shared,
            **more,
        }
        command = [str(PYTHON), "-m", *words]
        if self.apart:
            places = [str(one) for one in (self.folder, self.seen_at, self.disks)]
            command = ["unshare", "-m", "sh", "-c", APART, "sh", *places, *command]
        made = Process(name, command, self.folder, environment)
        self.processes.append(made)
        return made


class PostgresServer:
    """A PostgreSQL server on 127.0.0.1 that can be stopped hard and started again.

    Args:
        programs: the folder with initdb and postgres.
        port: where it listens.
        databases: which databases it has.
    """

    def __init__(self, programs: Path, port: int, databases: Sequence[str]) -> None:
        self.programs, self.port, self.databases = programs, port, databases
        self.folder = Path(tempfile.mkdtemp(prefix="batch-pipeline-cluster-"))
        found = pwd.getpwnam("postgres") if os.geteuid() == 0 else None  # it refuses to be root
        self.user = None if found is None else found.pw_uid
        if self.user is not None:
            os.chown(self.folder, self.user, self.user)
        self._data = self.folder / "data"
        # fsync: a process that is killed loses nothing that it gave to the system.
        self.process = Process(
            "postgres",
            [
                str(programs / "postgres"), "-D", str(self._data), "-p", str(port), "-k", str(self.folder),
                "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=400",
            ],
            self.folder, {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"}, self.user,
        )  # fmt: skip

    def url(self, database: str, driver: str = "postgresql") -> str:
        """Return the URL of a database."""
        return f"{driver}://cluster@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """Make the server's files."""
        self._ran(["initdb", "-D", str(self._data), "-U", "cluster", "-A", "trust", "--no-sync"])

    def make_databases(self) -> None:
        """Make the databases; the server runs."""
        for name in self.databases:
            self._ran(["createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "cluster", name])

    def is_ready(self) -> bool:
        """Return whether it takes connections."""
        return not subprocess.run(
            [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)],
            check=False,
        ).returncode

    def stop(self, hard: bool) -> None:
        """Stop it, with every connection: as a crash does, or in good order."""
        self.process.tell(signal.SIGQUIT if hard else signal.SIGINT)
        if not self.process.wait():
            self.process.kill()

    def remove(self) -> None:
        """Kill it, and remove its files."""
        self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ran(self, command: Sequence[str]) -> None:
        whose = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}  # fmt: skip
        subprocess.run(
            [str(self.programs / command[0]), *command[1:]],
            check=True, capture_output=True, cwd=self.folder, **whose,
        )  # fmt: skip
