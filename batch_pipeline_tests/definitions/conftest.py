"""Pipelines over real Debian package records, in a Dagster and a store of their own."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches, DuckDBSource, MessageTemplate
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.clock import going_by
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.pooling import pooled
from batch_pipeline_tests.support.stage_calls import PlayedNights

RECORDS = Path(__file__).parents[2] / "batch_pipeline" / "demo" / "debian_packages.parquet"
TEMPLATE: dict[str, Any] = dict(
    model="claude-haiku-4-5",
    max_tokens=200,
    system="You sort Debian packages.",
    prompt="{{ summary }}\n{{ description }}",
)


@pytest.fixture
def clock() -> Iterator[HandClock]:
    """The process's clock, moved by hand."""
    with going_by(HandClock()) as clock:
        yield clock


@pytest.fixture(scope="session")
def _filled_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "warehouse.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            f"create table packages as select * from read_parquet('{RECORDS}') order by package limit 300"
        )
    return path


@pytest.fixture
def warehouse(tmp_path: Path, _filled_warehouse: Path) -> Path:
    """A DuckDB file with a table of 300 real records."""
    return Path(shutil.copy(_filled_warehouse, tmp_path / "warehouse.duckdb"))


@pytest.fixture
def nights(
    request: pytest.FixtureRequest,
    claude_emulator: EmulatorProcess,
    tmp_path: Path,
    warehouse: Path,
    clock: HandClock,
) -> Callable[..., Nights]:
    """Make a pipeline over the warehouse; called again with other fields, it is the next version of the code.

    Tests of what nights do to rows and money are marked `played`: `make test` calls the steps of theirs.
    """
    kind = PlayedNights if request.node.get_closest_marker("played") else Nights

    def make(
        template: dict[str, Any] | None = None, claude: dict[str, Any] | None = None, **fields: Any
    ) -> Nights:
        pipeline = BatchPipeline(
            **{
                "name": "packages",
                "source": DuckDBSource(database=str(warehouse), table="packages", key="package"),
                "request": MessageTemplate(**TEMPLATE | (template or {})),
                # Some packages ask the same. What tests count is records.
                "dedupe": False,
                **fields,
            }
        )
        resource = ClaudeBatches(
            **{
                "api_key": "test-key",
                "base_url": claude_emulator.base_url,
                "max_batch_requests": 100,
                **(claude or {}),
            }
        )
        return kind(pipeline, resource, BatchStore(root=str(tmp_path / "store")))

    return make


@pytest.fixture(autouse=True)
def _pooled() -> Iterator[None]:
    """What each process does once is done once: these tests are about nights, not about connections."""
    with pooled():
        yield
