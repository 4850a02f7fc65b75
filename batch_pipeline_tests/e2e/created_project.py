"""A project that `create-dagster` makes, with this package as a wheel: one YAML file, no Python, a night.

    python -m batch_pipeline_tests.e2e.created_project

It installs into an environment of its own, from the package index: `make soak` runs it. Everything is
done by the commands that a user has.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen
from zipfile import ZipFile

import duckdb

from batch_pipeline.demo.home import QUIET
from batch_pipeline.emulator.process import EmulatorProcess, _free_port
from batch_pipeline_tests.e2e.dagster_dev import E2EFailed, until

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".e2e" / "created_project"
YAML = """\
type: batch_pipeline.BatchPipelineComponent
attributes:
  name: tickets
  source: {database: warehouse.duckdb, table: tickets, key: ticket_id}
  request:
    task: classify
    column: [subject, body]
    model: claude-haiku-4-5
    labels: {shipping: "a parcel is {{ late }}", other: null}
  destination: {database: warehouse.duckdb, table: ticket_labels}
---
type: batch_pipeline.ClaudeBatchesComponent
attributes:
  claude: {api_key: "{{ env.ANTHROPIC_API_KEY }}"}
  store: {root: data/batches}
requirements: {env: [ANTHROPIC_API_KEY]}
"""
SHOWN = {
    "list components": (
        "batch_pipeline.BatchPipelineComponent",
        "batch_pipeline.ClaudeBatchesComponent",
    ),
    "list component-tree": ("ClaudeBatchesComponent",),
    "list envs": ("ANTHROPIC_API_KEY",),
    "list defs": ("tickets_submit", "tickets_collect", "tickets_status", "claude", "store"),
    "utils inspect-component batch_pipeline.BatchPipelineComponent": ("max_tokens", "examples"),
    "check toml": ("valid",),
    "check yaml": ("validated successfully",),
    "check defs": ("loaded successfully",),
}
DATA = ("py.typed", "cli/skills/SKILL.md", "demo/debian_packages.parquet")
TICKETS = 4


class CreatedProject:
    """The project, and the environment that it has.

    Args:
        emulator: the API.
    """

    def __init__(self, emulator: EmulatorProcess) -> None:
        """Make the environment and the project."""
        venv = PLACE / "venv"
        self._bin, self.folder = venv / "bin", PLACE / "shop"
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._environment: Mapping[str, str] = {
            **own, **QUIET,
            "HOME": str(PLACE), "VIRTUAL_ENV": str(venv), "PATH": f"{self._bin}:{own['PATH']}",
            "ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": emulator.base_url, "COLUMNS": "200",
        }  # fmt: skip
        self._run(PLACE, sys.executable, "-m", "venv", str(venv))
        pip = ("pip", "--disable-pip-version-check", "--quiet")
        self._run(ROOT, *pip, "wheel", "--no-deps", "--wheel-dir", str(PLACE), str(ROOT))
        [wheel] = PLACE.glob("*.whl")
        check_wheel(wheel)
        constraints = ROOT / "constraints.txt"
        of_dagster = ("create-dagster", "dagster-dg-cli", "dagster-webserver", "pytest")
        self._run(PLACE, *pip, "install", "-c", str(constraints), str(wheel), *of_dagster)
        self._run(PLACE, "create-dagster", "project", str(self.folder), "--no-uv-sync")
        self._run(self.folder, *pip, "install", "--no-deps", "--editable", ".")
        with duckdb.connect(str(self.folder / "warehouse.duckdb")) as warehouse:
            warehouse.execute(
                "create table tickets as select range as ticket_id, 'Parcel ' || range as subject, "
                f"'It is late.' as body from range({TICKETS})"
            )

    def dg(self, *words: str, succeeds: bool = True) -> str:
        """Run `dg` in it, and return what it says."""
        return self._run(self.folder, "dg", *words, succeeds=succeeds)

    def write(self, name: str, text: str) -> None:
        """Write the YAML of a folder of definitions."""
        folder = self.folder / "src" / "shop" / "defs" / name
        folder.mkdir(exist_ok=True)
        (folder / "defs.yaml").write_text(text)

    def rows(self, table: str) -> list[tuple[str, int]]:
        """Return how many rows there are of each status."""
        with duckdb.connect(str(self.folder / "warehouse.duckdb"), read_only=True) as warehouse:
            return warehouse.execute(f"select _status, count(*) from {table} group by 1").fetchall()

    @contextmanager
    def dev(self, port: int) -> Iterator[str]:
        """Run `dagster dev` in it, and give its address; it is ended with the block."""
        words = (str(self._bin / "dagster"), "dev", "--port", str(port))
        with (
            (PLACE / "dev.log").open("w") as log,
            subprocess.Popen(
                words, cwd=self.folder, env=self._environment, stdout=log, stderr=log
            ) as process,
        ):
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(60)

    def test(self) -> str:
        """Run the tests that were written for it."""
        return self._run(self.folder, "python", "-m", "pytest", "-q", "tests")

    def _run(self, folder: Path, *words: str, succeeds: bool = True) -> str:
        program = shutil.which(words[0], path=self._environment["PATH"]) or words[0]
        done = subprocess.run(
            [program, *words[1:]],
            cwd=folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        if (done.returncode == 0) != succeeds:
            ended = f"{' '.join(words)} ended with {done.returncode}"
            raise E2EFailed(f"{ended}:\n{done.stdout[-5_000:]}")
        return done.stdout


def check_wheel(wheel: Path) -> None:
    """See that a wheel holds the package with its data, and nothing else."""
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    others = {name.partition("/")[0] for name in names} - {"batch_pipeline"}
    data = {name for name in names if not name.endswith(".py")}
    if others or data != {f"batch_pipeline/{name}" for name in DATA}:
        raise E2EFailed(
            f"The wheel has {sorted(others)} besides the package, and as data {sorted(data)}."
        )


def check_commands(project: CreatedProject) -> None:
    """Let every command show what the YAML declares, and refuse what is wrong in it."""
    for command, words in SHOWN.items():
        said = project.dg(*command.split())
        if lacking := [word for word in words if word not in said]:
            raise E2EFailed(f"dg {command} does not show {', '.join(lacking)}:\n{said}")
    project.write("tickets", YAML.replace("labels:", "label:"))
    for command, words in (
        ("yaml", ("defs.yaml:9", "attributes.request.label", "'the name labels' was expected")),
        ("defs", ("line 9, column 5", "there is no field label; did you mean labels?")),
    ):
        check = ("check", command) if command == "yaml" else ("check", command, "--no-check-yaml")
        said = project.dg(*check, succeeds=False)
        if lacking := [word for word in words if word not in said]:
            raise E2EFailed(f"dg check {command} does not say {', '.join(lacking)}:\n{said}")
    project.write("tickets", YAML)


def play_a_night(project: CreatedProject, emulator: EmulatorProcess) -> None:
    """Submit, wait for the batch, collect; look at the rows and at the bill."""
    project.dg("launch", "--job", "tickets_submit")
    until("the batch to end", lambda: emulator.batches()[0]["processing_status"] == "ended", 60)
    project.dg("launch", "--job", "tickets_collect")
    if project.rows("ticket_labels") != [("answered", TICKETS)]:
        raise E2EFailed(f"the table has {project.rows('ticket_labels')}")
    project.dg("launch", "--job", "tickets_submit")  # there is nothing new
    if len(emulator.batches()) != 1:
        raise E2EFailed(f"{len(emulator.batches())} batches were paid")


def watch_a_night(project: CreatedProject, emulator: EmulatorProcess) -> None:
    """Bring a record, and ask it: the sensor of `dagster dev` sees the batch end, and collects."""
    with duckdb.connect(str(project.folder / "warehouse.duckdb")) as warehouse:
        warehouse.execute("insert into tickets values (99, 'Late', 'A new one.')")
    with project.dev(_free_port()) as address:
        until("its pages", lambda: _answers(address), 120)
        project.dg("launch", "--job", "tickets_submit")
        until("the sensor to have it collected", lambda: _has_rows(project, TICKETS + 1), 180)
    if len(emulator.batches()) != 2:
        raise E2EFailed(f"{len(emulator.batches())} batches were paid")


def _has_rows(project: CreatedProject, count: int) -> bool:
    try:
        return project.rows("ticket_labels") == [("answered", count)]
    except duckdb.IOException:  # the run that collects is writing
        return False


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/server_info", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def scaffold(project: CreatedProject) -> None:
    """Let `dg` write a second pipeline: it loads, and its test passes."""
    kind = "batch_pipeline.BatchPipelineComponent"
    project.dg("scaffold", "defs", kind, "gists", "--table", "tickets", "--key", "ticket_id")
    project.dg("check", "defs")
    said = project.test()
    if "1 passed" not in said:
        raise E2EFailed(f"its test says:\n{said}")


def main() -> int:
    """Do it all; return the exit code."""
    began = time.monotonic()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    try:
        with EmulatorProcess(PLACE / "emulator") as emulator:
            project = CreatedProject(emulator)
            made = time.monotonic()
            print(f"installed, and the project made, after {made - began:.0f} s", flush=True)
            project.write("tickets", YAML)
            check_commands(project)
            play_a_night(project, emulator)
            watch_a_night(project, emulator)
            scaffold(project)
    except (E2EFailed, subprocess.SubprocessError) as error:
        print(f"FAILED after {time.monotonic() - began:.0f} s: {error}")
        print(f"What is left to look at: {PLACE}")
        return 1
    print(
        f"One YAML file and no Python ran a night; all of it took {time.monotonic() - began:.0f} s."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
