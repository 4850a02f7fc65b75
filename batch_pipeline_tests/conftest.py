"""Ledgers on SQLite and on PostgreSQL; a user's project."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.results import chart
from batch_pipeline.store.clock import going_by
from batch_pipeline.store.ledger import sqlite_url
from batch_pipeline_tests.support import postgres as ledgers
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.extent import in_extent
from batch_pipeline_tests.support.postgres import Schemas
from batch_pipeline_tests.support.user_project import UserProject

# Charts are drawn where they are tested: of each of a thousand nights they would take a minute.
chart.can_draw = lambda: False
gc.disable()  # while all is imported: there is nothing to collect yet


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only the whole runs."""
    named = any("::" in argument for argument in config.args)
    items[:], left_out = in_extent(items, named)
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is loaded by now: going through it again and again took
    an eighth of the tests' time."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(100_000, 50, 50)


def pytest_sessionfinish() -> None:
    """Let what was passed over go in order."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def schemas() -> Iterator[Schemas]:
    """A PostgreSQL server of the tests' own, for any number of ledgers."""
    with ledgers.postgres() as found:
        yield found


@pytest.fixture
def postgres(schemas: Schemas) -> str:
    """The URL of its first database."""
    return schemas.url


@pytest.fixture
def postgres_ledger(postgres: str) -> str:
    """The URL of an empty PostgreSQL database, called ``ledger``."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop database if exists ledger with (force)")
        connection.execute("create database ledger")
    return postgres.replace("/postgres?", "/ledger?")


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty ledger's URL, on each of the databases."""
    if request.param == "sqlite":
        yield sqlite_url(str(tmp_path / "ledger.sqlite"))
        return
    schemas: Schemas = request.getfixturevalue("schemas")
    with schemas.some(1) as [url]:
        yield url


@pytest.fixture
def user_project(tmp_path: Path, claude_emulator: EmulatorProcess) -> Iterator[UserProject]:
    """A user's project whose batches end when the test says so."""
    claude_emulator.configure(manual=True)
    clock = HandClock(moved=claude_emulator.advance)
    with going_by(clock):
        yield UserProject(tmp_path, claude_emulator, clock)
    sys.modules.pop("pipelines", None)
