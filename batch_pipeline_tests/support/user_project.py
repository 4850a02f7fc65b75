"""A user's project on disk, for tests of the command line."""

import shutil
import sys
from pathlib import Path

import duckdb
from click.testing import CliRunner

from batch_pipeline.cli.main import main
from batch_pipeline.cli.project import inside, load_project
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import request_files
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights

CODE = """
import dagster as dg
from batch_pipeline import *

def pipeline(name, **more):
    return BatchPipeline(
        name=name,
        source=DuckDBSource(database="warehouse.duckdb", table="notes", key="id"),
        request=MessageTemplate(model="claude-haiku-4-5", max_tokens=50, prompt="{{ text }}"),
        **more,
    )

def claude(**more):
    return ClaudeBatches(**{
        "api_key": dg.EnvVar("SHOP_KEY"), "base_url": dg.EnvVar("SHOP_URL"), "max_batch_requests": 4, **more
    })

store = BatchStore(root="data/batches")
"""
TWO = """
halves = dg.StaticPartitionsDefinition(["even", "odd"])
defs = build_definitions(
    pipeline("notes"), pipeline("letters", partitions=halves, partition_column="half"),
    claude=claude(), store=store,
)
"""


class UserProject:
    """A user's project on disk, and its nights."""

    def __init__(self, folder: Path, emulator: EmulatorProcess, clock: HandClock):
        self.folder, self.emulator, self.clock = folder, emulator, clock
        self.write("workspace.yaml", "load_from:\n  - python_file: pipelines.py\n")
        self.write(".env", f"SHOP_KEY=shop-key\nSHOP_URL={emulator.base_url}\n")
        self.write("pipelines.py", CODE + TWO)
        with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
            connection.execute(
                "create table notes as select range as id, 'note ' || range as text, "
                "case range % 2 when 0 then 'even' else 'odd' end as half from range(10)"
            )

    def write(self, name: str, text: str) -> None:
        """Write a file; code that was imported from it is imported anew."""
        (self.folder / name).write_text(text)
        sys.modules.pop(Path(name).stem, None)
        # What was compiled within the same second, of a file as long, would be taken for this one.
        shutil.rmtree(self.folder / "__pycache__", ignore_errors=True)

    def nights(self, name: str) -> Nights:
        """The nights of one of its pipelines; to be used inside the project."""
        one = next(one for one in load_project(self.folder).declared if one.pipeline.name == name)
        return Nights(one.pipeline, one.claude, one.store)

    def change(self, sql: str) -> None:
        """Change the records."""
        with duckdb.connect(str(self.folder / "warehouse.duckdb")) as connection:
            connection.execute(sql)

    def submit(self, name: str = "notes", partition: str | None = None) -> None:
        with inside(self.folder):
            self.nights(name).submit(partition)

    def store(self) -> Store:
        with inside(self.folder):
            return load_project(self.folder).declared[0].store.open()

    def states(self) -> list[tuple[str, str]]:
        """Pipeline and state of each request file that was cut."""
        columns = request_files.c.pipeline, request_files.c.number, request_files.c.seq
        rows = self.store().ledger.rows(request_files.select().order_by(*columns))
        return [(row["pipeline"], row["state"]) for row in rows if row["kind"] == "batch"]

    def run(self, *words: str, say: str | None = None):
        return CliRunner().invoke(main, [*words, "--project", str(self.folder)], input=say)
