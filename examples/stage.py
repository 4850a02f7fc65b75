"""What plays the examples: it makes their records, runs their jobs, and shows their tables."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import duckdb
from rich.console import Console
from rich.table import Table

from batch_pipeline.cli.project import inside
from batch_pipeline.demo.home import instance_at, prepare_home

EXAMPLES = tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/play.py")))
"""Their names, which are those of their folders."""

API = ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
RECORDS = "warehouse.sql"
WAREHOUSE = "data/warehouse.duckdb"
LOG = "data/dagster.log"


class Stage:
    """One example, in its folder, before an API.

    Args:
        folder: of the example. What it makes is kept in ``data`` there.
        base_url: the address of the API.

    Attributes:
        instance: where Dagster keeps the history, while it is played.
    """

    instance: dg.DagsterInstance

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self._base_url = base_url
        self._console = Console()
        self._definitions: dg.Definitions | None = None

    @property
    def definitions(self) -> dg.Definitions:
        """What `dagster dev` would load in the folder."""
        if self._definitions is None:
            self._definitions = self._load()
        return self._definitions

    @contextmanager
    def at_home(self) -> Iterator["Stage"]:
        """Be in the example's folder, with the variables that name the API."""
        before = {name: os.environ.get(name) for name in API}
        os.environ.update(dict(zip(API, ("any", self._base_url), strict=True)))
        try:
            with inside(self.folder):
                yield self
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def play(self) -> None:
        """Make the records, unless they are there, and do what the example's ``play.py`` says."""
        with (
            self.at_home(),
            instance_at(prepare_home(str(self.folder / "data/dagster"))) as instance,
        ):
            self.instance = instance
            if not Path(WAREHOUSE).exists():
                self.sql(Path(RECORDS).read_text(encoding="utf-8"))
            self._module("play").play(self)

    # What an example's play.py says

    def night(self, pipeline: str, partition: str | None = None) -> None:
        """Run a pipeline's submit job and its collect job: one night, of one partition."""
        for job in ("submit", "collect"):
            self._run(f"{pipeline}_{job}", partition_key=partition)

    def backfill(self, pipeline: str, first: str, last: str) -> None:
        """Do the same for a range of partitions, as a backfill that is one run."""
        ends = {"start": first, "end": last}
        tags = {f"dagster/asset_partition_range_{end}": key for end, key in ends.items()}
        for job in ("submit", "collect"):
            self._run(f"{pipeline}_{job}", tags=tags)

    def materialize(self, *asset: str) -> None:
        """Run one asset, as its automation condition would."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        self._execute(job, asset_selection=[dg.AssetKey(asset)])

    def show(self, query: str) -> None:
        """Show what a query finds in the warehouse."""
        columns, rows = self.sql(query)
        table = Table(*columns)
        for row in rows:
            table.add_row(*map(str, row))
        self._console.print(table)

    def sql(self, query: str) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
        """Run SQL in the warehouse; return the columns and the rows of what the last statement finds."""
        Path(WAREHOUSE).parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect(WAREHOUSE) as warehouse:
            found = warehouse.sql(query)
            return ([], []) if found is None else (found.columns, found.fetchall())

    # How

    def _run(self, job: str, **how: Any) -> None:
        self._execute(self.definitions.resolve_job_def(job), **how)

    def _execute(self, job: dg.JobDefinition, **how: Any) -> None:
        """Run a job; what Dagster prints goes to a file, since its history has it, too."""
        with open(LOG, "a", encoding="utf-8") as log, redirect_stderr(log):
            job.execute_in_process(instance=self.instance, **how)

    def _load(self) -> dg.Definitions:
        if (self.folder / "definitions.py").exists():
            return self._module("definitions").defs
        return dg.load_from_defs_folder(path_within_project=self.folder)

    def _module(self, name: str) -> ModuleType:
        """Import a file of the example; each has one of this name, so it gets a name of its own."""
        whole = f"example_{self.folder.name}_{name}"
        spec = importlib.util.spec_from_file_location(whole, self.folder / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[whole] = module
        spec.loader.exec_module(module)
        return module
