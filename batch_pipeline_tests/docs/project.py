"""The project of somebody who reads the pages, with small tables and an emulated API."""

import os
import re
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
from dagster._daemon.types import DaemonHeartbeat

from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches
from batch_pipeline.batches.held import Held, list_held
from batch_pipeline.definitions.build import pipeline_of
from batch_pipeline.definitions.rows import source_of
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.records.reading import open_source
from batch_pipeline.records.sources import Source
from batch_pipeline_tests.docs.pages import ROOT, blocks
from batch_pipeline_tests.support.dagster_nights import Nights

PORT = re.compile(r"\b8787\b")
TABLES = """
create table invoices as
select format('INV-{:03}', range) as invoice_id,
       case range % 2 when 0 then 'Contoso' else 'Fabrikam' end as supplier,
       'Toner for printer ' || range as description
from range(1, 5);
create table tickets as
select range as ticket_id, 'Parcel ' || range as subject, 'It is lost.' as body,
       timestamp '2026-01-01' + to_days(range::int) as updated_at
from range(1, 4);
copy (
    select 'package-' || range as package, 'Does thing ' || range as description,
           case range % 2 when 0 then 'main' else 'contrib' end as area
    from range(1, 5)
) to 'packages/packages.parquet'
"""


class Project:
    """A folder with code, tables, and a store; the API is an emulator.

    Its code is the README's first block of Python.

    Attributes:
        folder: it; also the working directory while blocks are run.
        emulator: the API that ``ANTHROPIC_BASE_URL`` names.
    """

    def __init__(self, folder: Path, emulator: EmulatorProcess):
        """Make the files."""
        self.folder, self.emulator = folder, emulator
        self.instance = dg.DagsterInstance.ephemeral()
        self._rows = 4
        self._played: list[BatchPipeline] = []
        (folder / "packages").mkdir()
        (folder / "workspace.yaml").write_text("load_from:\n  - python_file: pipelines.py\n")
        (folder / "pipelines.py").write_text(_first_python_block(ROOT / "README.md"))
        with duckdb.connect(str(folder / "warehouse.duckdb")) as warehouse:
            warehouse.execute(TABLES.replace("packages/", f"{folder}/packages/"))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a reader has set."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return mine | {
            "ANTHROPIC_API_KEY": "any",
            "ANTHROPIC_API_KEY_FINANCE": "any",
            "ANTHROPIC_API_KEY_SUPPORT": "any",
            "ANTHROPIC_ADMIN_KEY": "sk-ant-admin01-any",
            "ANTHROPIC_BASE_URL": self.emulator.base_url,
            "DAGSTER_HOME": str(self.folder / "dagster_home"),
        }

    def real(self, text: str, port: int | None = None) -> str:
        """Return a block's text for here: the pages' port is an emulator's."""
        return PORT.sub(str(port or self.emulator.port), text)

    # What its code declares

    @property
    def definitions(self) -> dg.Definitions:
        """What its code defines."""
        from pipelines import defs

        return defs

    def complete(self, definitions: dg.Definitions) -> dg.Definitions:
        """Return definitions with the resources that they lack, and check that they can be loaded."""
        needed = {"claude": ClaudeBatches(), "store": BatchStore(root="data/batches")}
        lacking = {k: one for k, one in needed.items() if k not in (definitions.resources or {})}
        whole = dg.Definitions.merge(definitions, dg.Definitions(resources=lacking))
        dg.Definitions.validate_loadable(whole)
        return whole

    def nights(self, definitions: dg.Definitions, pipeline: BatchPipeline) -> Nights:
        """Return the nights of a pipeline of complete definitions."""
        resources: Any = definitions.resources
        claude, store = resources[pipeline.claude_key], resources[pipeline.store_key]
        nights = Nights(pipeline, claude, store, self.instance)
        nights.definitions = definitions
        return nights

    def play(self, definitions: dg.Definitions) -> None:
        """Let every pipeline of complete definitions have its first night, and look at its rows."""
        for pipeline in pipelines_of(definitions):
            if any(pipeline is one for one in self._played):
                continue
            self._played.append(pipeline)
            nights = self.nights(definitions, pipeline)
            for partition in partitions_of(pipeline):
                nights.submit(partition)
                nights.collect(partition)
            nights.tick()
            rows = nights.rows()
            source = source_of(pipeline, nights.store.open())
            asked = count(source) * len(pipeline.by_variant)
            assert len(rows) == asked > 0, f"{pipeline.name}: {len(rows)} rows"
            unanswered = [row for row in rows.values() if row["_status"] != "answered"]
            assert not unanswered, f"{pipeline.name}: {unanswered}"

    def launch(self, file: str, job: str) -> None:
        """Launch a job of the definitions in a file; the sensor then has what it waits for collected."""
        definitions = self.complete(runpy.run_path(str(self.folder / file))["defs"])
        name, _, step = job.rpartition("_")
        [pipeline] = [one for one in pipelines_of(definitions) if one.name == name]
        nights = self.nights(definitions, pipeline)
        paid = self.emulator.bill()["requests"]
        nights.run(step)
        if self.emulator.bill()["requests"] > paid:
            nights.collect()
            nights.tick()

    # How it can stand

    def play_a_night_if(self, needed: bool) -> None:
        """Let its own pipelines have a night, if one is needed and they had none.

        A page that names other code in its ``workspace.yaml`` plays its nights itself.
        """
        is_own = "pipelines.py" in (self.folder / "workspace.yaml").read_text()
        if needed and is_own and not (self.folder / "data").exists():
            self.play(self.complete(self.definitions))

    def _submit_one_more(self, *, raises: bool = True) -> None:
        self._rows += 1
        with duckdb.connect(str(self.folder / "warehouse.duckdb")) as warehouse:
            warehouse.execute(
                "insert into invoices values (?, 'Contoso', 'Toner')", [f"INV-{self._rows:03}"]
            )
        definitions = self.complete(self.definitions)
        [pipeline] = pipelines_of(definitions)
        self.nights(definitions, pipeline).run("submit", raises=raises)

    def _held(self) -> Held:
        return list_held(BatchStore(root="data/batches").open())

    @property
    def is_held(self) -> bool:
        """Whether anything is held."""
        held = self._held()
        return bool(held.files or held.pipelines)

    def hold_a_request_file(self) -> str:
        """Let the API refuse a request file; return its id."""
        self.emulator.fault("create", "status_before", status=418)
        self._submit_one_more()
        return self._held().files[-1].id

    def hold_the_pipeline(self) -> None:
        """Let the API refuse to send more this month."""
        self.emulator.fault("spend_limit")
        self._submit_one_more(raises=False)
        assert self._held().pipelines

    def send_a_batch(self) -> None:
        """Have something on its way."""
        self.emulator.configure(manual=True)
        self._submit_one_more()

    def compare(self) -> None:
        """Have the pipeline that a page compares variants with in the project's code."""
        code = self.folder / "pipelines.py"
        if "variants=" not in code.read_text():
            with code.open("a") as file:
                file.write(f"\n\n{_first_python_block(ROOT / 'docs' / 'comparison.md')}\n")
                file.write("defs = dg.Definitions.merge(defs, build_definitions(compared))\n")
            sys.modules.pop("pipelines", None)

    def label(self, path: str) -> None:
        """Fill the last column of a file of records to label."""
        lines = (self.folder / path).read_text().splitlines()
        filled = [lines[0], *(f"{line.rpartition(',')[0]},delivery" for line in lines[1:])]
        (self.folder / path).write_text("\n".join(filled))

    def run_the_daemon(self) -> None:
        """Let it look as if Dagster's daemon ran."""
        with dg.DagsterInstance.from_config(self.environment["DAGSTER_HOME"]) as instance:
            for daemon in ("SENSOR", "SCHEDULER"):
                instance.add_daemon_heartbeat(
                    DaemonHeartbeat(time.time(), daemon, "a-daemon", errors=[])
                )

    def lose_the_ledger(self) -> None:
        """Delete it."""
        for file in (self.folder / "data" / "batches").glob("ledger.sqlite*"):
            file.unlink()


def pipelines_of(definitions: dg.Definitions) -> list[BatchPipeline]:
    """Return the pipelines among definitions."""
    found = filter(None, map(pipeline_of, definitions.assets or ()))
    return list({pipeline.name: pipeline for pipeline in found}.values())


def partitions_of(pipeline: BatchPipeline) -> Iterator[str | None]:
    """Yield the partitions of a pipeline; None for one without."""
    if pipeline.partitions is None:
        yield None
        return
    yield from pipeline.partitions.get_partition_keys()


def count(source: Source) -> int:
    """Return how many records there are."""
    with open_source(source) as connection:
        found = connection.execute("select count(*) from source").fetchone()
    assert found is not None
    return found[0]


def _first_python_block(page: Path) -> str:
    for example in blocks(page, {}).examples():
        if example.region.lexemes["language"].strip() == "python":
            return str(example.parsed)
    raise AssertionError(f"{page} has no Python.")
