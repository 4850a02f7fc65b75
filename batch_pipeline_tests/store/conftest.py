"""Ledgers on SQLite and on PostgreSQL."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pgserver
import psycopg
import pytest

from batch_pipeline.store.clock import SystemClock
from batch_pipeline.store.ledger import Ledger, sqlite_url


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of the tests' own."""
    # Not below pytest's folder: every session that starts makes that one private to its user again,
    # and run as root the server is another one's.
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-postgres-") as folder:
        server = pgserver.get_server(folder)
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres_ledger(postgres: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop database if exists ledger with (force)")
        connection.execute("create database ledger")
    yield postgres.replace("/postgres?", "/ledger?")


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger's URL, on each of the databases."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_ledger")
    return sqlite_url(str(tmp_path / "ledger.sqlite"))


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    return Ledger(ledger_url, SystemClock())
