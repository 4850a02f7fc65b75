"""What makes thousands of episodes affordable: work that every process does once is not done again.

A DuckDB instance takes 10 ms to start and a SQLite connection 1 ms to open, and a stage asks for
many of each. Nothing of what the package does is changed: instances are handed out one at a time and
empty, and a connection of the ledger goes back to a pool instead of being closed. Whoever imports this
module has no SQLite that waits for the disk, and Dagster's revisions loaded once.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import duckdb
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import Pool, QueuePool

from batch_pipeline.records import connections
from batch_pipeline.store import ledger

_SYSTEM = {"memory", "system", "temp"}


class _Instances:
    """In-memory DuckDB instances, each used by one caller at a time."""

    def __init__(self) -> None:
        self._free: list[tuple[duckdb.DuckDBPyConnection, str]] = []

    def connect(self, database: str = ":memory:", **how: Any) -> Any:
        """Do what ``duckdb.connect`` does."""
        if database != ":memory:":
            return duckdb.connect(database, **how)
        config = how["config"]
        # With one thread, a few rows are not handed from one to the other.
        config |= {"threads": 1}
        limit = config["memory_limit"]
        if not self._free:
            return _Lent(self, duckdb.connect(":memory:", config=config), limit)
        base, given = self._free.pop()
        if given != limit:
            base.execute(f"set memory_limit = '{limit}'")
        return _Lent(self, base, limit)

    def give_back(self, base: duckdb.DuckDBPyConnection, limit: str, attached: bool) -> None:
        if attached:
            names = base.execute("select database_name from duckdb_databases() where not internal")
            for (name,) in names.fetchall():
                if name not in _SYSTEM:
                    base.execute(f'detach "{name}"')
        self._free.append((base, limit))


class _Lent:
    """A connection to an instance that goes back when it is closed."""

    def __init__(self, instances: _Instances, base: duckdb.DuckDBPyConnection, limit: str) -> None:
        self._instances, self._base, self._limit = instances, base, limit
        self._attached = False
        self._connection = base.cursor()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, query: Any, *parameters: Any, **named: Any) -> Any:
        if isinstance(query, str):
            statement = query.lstrip()[:30].upper()
            self._attached |= statement.startswith("ATTACH")
            if "MEMORY_LIMIT" in statement:
                self._limit = ""  # another than was asked for
            elif statement.startswith("RESET THREADS"):
                query = "SET threads = 1"
        return self._connection.execute(query, *parameters, **named)

    def close(self) -> None:
        self._connection.close()
        self._instances.give_back(self._base, self._limit, self._attached)


class _DuckDB:
    """The module, with another ``connect``."""

    def __init__(self, instances: _Instances) -> None:
        self.connect = instances.connect

    def __getattr__(self, name: str) -> Any:
        return getattr(duckdb, name)


_instances = _Instances()
_compiled: dict[Any, Any] = {}
_dialects: dict[str, Any] = {}


def _create_engine(url: Any, **how: Any) -> Engine:
    """Do what ``create_engine`` does, with statements that are compiled once in this process."""
    if how.pop("poolclass", None) is not None:
        how |= {"poolclass": QueuePool, "pool_size": 8}
    engine = create_engine(url, **how)
    # The key of a compiled statement holds the dialect. One that was never connected knows nothing
    # of its database yet.
    own = engine.dialect
    engine.dialect = _dialects.get(own.name, own)
    if engine.dialect is own:
        event.listen(engine, "connect", lambda *_: _dialects.setdefault(own.name, own))
    return engine.execution_options(compiled_cache=_compiled)


@event.listens_for(Pool, "checkout")
def _hurry(connection: Any, record: Any, _proxy: Any) -> None:
    """Let no SQLite of this process wait for a disk, Dagster's included: what a killed process wrote is
    there all the same."""
    if isinstance(connection, sqlite3.Connection) and not record.info.get("hurries"):
        connection.execute("PRAGMA synchronous = OFF")
        record.info["hurries"] = True


_read_revisions = ScriptDirectory.from_config
_revisions: dict[str | None, ScriptDirectory] = {}


def _revisions_of(config: Config) -> ScriptDirectory:
    """Read Dagster's ninety revisions of its tables once, and not for each instance anew."""
    where = config.get_main_option("script_location")
    if where not in _revisions:
        _revisions[where] = _read_revisions(config)
    return _revisions[where]


mock.patch.object(ScriptDirectory, "from_config", _revisions_of).start()


class _Tempfile:
    """The module, without folders for what a few rows never spill."""

    @staticmethod
    @contextmanager
    def TemporaryDirectory(**_how: Any) -> Iterator[str]:
        yield "/nowhere"


@contextmanager
def pooled() -> Iterator[None]:
    """Let this process use DuckDB instances and ledger connections again for the block."""
    with ExitStack() as stack:
        for owner, name, value in (
            (connections, "duckdb", _DuckDB(_instances)),
            (connections, "tempfile", _Tempfile),
            (ledger, "create_engine", _create_engine),
            (os, "fsync", lambda _descriptor: None),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield
