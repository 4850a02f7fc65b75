"""The ledger: one small SQL database that is the truth about money.

Every step of a request file is one committed transaction that compares before it sets, so that a
second process, a woken sleeper or a crash can change nothing that somebody else already changed.
"""

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    RowMapping,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    DatabaseError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from batch_pipeline.errors import StoreError
from batch_pipeline.store.clock import Clock
from batch_pipeline.store.migrations import (
    INDEXES,
    MIGRATIONS,
    SCHEMA_VERSION,
    create,
    create_indexes,
)
from batch_pipeline.store.reservations import follow
from batch_pipeline.store.tables import STEPS, FileState, leases, meta, request_files, transitions

SQLITE_WAIT_SECONDS = 120
SECRET_OPTIONS = ("password", "sslpassword")  # of a PostgreSQL URL
CONNECT_SECONDS = 10
DAMAGED = ("malformed", "not a database", "corrupt", "invalid page", "could not read block")
WIPE = ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")  # the pages that were left, and their log
LEASE_SECONDS = 120.0  # after its holder's last sign of life
LEASE_RENEWAL_SECONDS = 20.0
LEASE_POLL_SECONDS = 0.25


class Ledger:
    """A connection to the ledger; makes or migrates its tables when opened.

    Args:
        url: a SQLAlchemy URL.
        clock: tells the time of every row written.

    Raises:
        StoreError: the database cannot be reached, or was written by a newer version.
    """

    def __init__(self, url: str, clock: Clock):
        self.url = url
        self.clock = clock
        self.engine = _engine(url)
        try:
            self.id = self._prepare()
        except DBAPIError as error:
            raise StoreError(
                f"The ledger at {self.shown} cannot be used: {error.orig}. {self._to_do(error)}"
            ) from error

    def rename(self, tx: Connection, ledger_id: str) -> None:
        """Let this new ledger take the place of a lost one, whose id its custom_ids carry."""
        tx.execute(update(meta).where(meta.c.key == "ledger_id").values(value=ledger_id))
        self.id = ledger_id

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection on one consistent snapshot.

        Raises:
            StoreError: the database does not do its work.
        """
        with self._speaking(), self.engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                # SQLite's transactions read one snapshot anyway.
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection whose work is committed when the block ends, and undone if it raises.

        Raises:
            StoreError: the database does not do its work; whether the block counts is read back
                from it by whoever comes next.
        """
        with self._speaking(), self._writing() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with (
            self.engine.connect().execution_options(batch_pipeline_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Say what a database that fails means, and to whom."""
        try:
            yield
        except (IntegrityError, ProgrammingError):
            raise
        except DatabaseError as error:
            raise StoreError(
                f"The ledger at {self.shown} fails ({error.orig}). {self._to_do(error)}"
            ) from error

    def _to_do(self, error: DBAPIError) -> str:
        """Say what state a ledger is in that does not do its work, and what mends it."""
        said = str(error.orig).lower()
        if any(words in said for words in DAMAGED):
            return (
                "It is damaged, and what it knew of sent and paid batches may be gone from it. Do "
                "not delete the store's files. Stop Dagster, move the ledger away (its file, and those with -wal and "
                "-shm behind the name), bring back the newest copy if there is one, and run `batch-pipeline "
                "rebuild-ledger`: it takes what is missing from the store's files and the API's batch list."
            )
        if "locked" in said or "busy" in said:
            return (
                f"Another program has kept it locked for more than {SQLITE_WAIT_SECONDS} s. What was committed stands "
                "in it. End that program (a shell with an open transaction, a backup), then launch the run again. On "
                "a network disk SQLite's locks do not work: use a PostgreSQL URL there."
            )
        if "full" in said or "no space" in said:
            return "Its disk is full. What was committed stands in it. Make room, then launch the run again."
        if "readonly" in said or "read-only" in said or "unable to open" in said:
            return "Give the user that runs Dagster write access to its file and folder."
        return (
            "What was committed stands in it. Check that the database runs, that the URL is right, that its user may "
            "create tables, and that its disk has room; then launch the run again."
        )

    @property
    def shown(self) -> str:
        """Where the ledger is, without its password."""
        return shown_url(make_url(self.url))

    def wipe_deleted(self) -> None:
        """Take from a SQLite file the bytes of rows that are deleted; other databases have ways of their own.

        Raises:
            StoreError: the database does not do its work.
        """
        if self.engine.dialect.name != "sqlite":
            return
        with self._speaking():
            connection = self.engine.raw_connection()
            try:
                for statement in WIPE:
                    connection.cursor().execute(statement)
            except sqlite3.Error as error:
                raise DatabaseError("; ".join(WIPE), None, error) from error
            finally:
                connection.close()

    def rows(self, query) -> Sequence[RowMapping]:
        """Return the rows of one query."""
        with self.read() as tx:
            return tx.execute(query).mappings().all()

    def move(
        self,
        tx: Connection,
        file_id: str,
        come_from: FileState,
        to: FileState,
        note: str,
        *conditions,
        **values: Any,
    ) -> bool:
        """Take a file one step, if it still stands where the caller believes it does.

        Args:
            tx: a write transaction.
            file_id: the row.
            come_from: the state that it must be in.
            to: the state that it gets.
            note: why, for the history.
            *conditions: further conditions on the row (its owner, its attempt).
            **values: columns to set with the step.

        Returns:
            False, and nothing changed, when the row has moved on meanwhile.
        """
        if (come_from, to) not in STEPS:
            raise ValueError(f"no such step: {come_from} to {to}")
        step = (
            update(request_files)
            .where(request_files.c.id == file_id, request_files.c.state == come_from, *conditions)
            .values(state=to, **values)
            .returning(request_files)
        )
        row = tx.execute(step).mappings().first()
        if row is None:
            return False
        follow(tx, row, come_from, to, self.clock.now())
        self.record(tx, file_id, row["pipeline"], row["partition"], come_from, to, note)
        return True

    def record(
        self,
        tx: Connection,
        file_id: str,
        pipeline: str,
        partition: str,
        come_from: str | None,
        to: str,
        note: str,
    ) -> None:
        """Add a line to the history."""
        tx.execute(
            insert(transitions).values(
                file_id=file_id,
                pipeline=pipeline,
                partition=partition,
                at=self.clock.now(),
                from_state=come_from,
                to_state=to,
                note=note,
            )
        )

    @contextmanager
    def lease(self, name: str, wait_seconds: float = 0.0) -> Iterator["Lease | None"]:
        """Hold a named lease for the block; gives None when somebody else keeps it.

        It is renewed while the block runs, and free again soon after its holder was killed.

        Args:
            name: what only one process may do at a time.
            wait_seconds: how long to wait for it.
        """
        owner = secrets.token_hex(8)
        deadline = time.monotonic() + wait_seconds
        while not (held := self._take(name, owner)) and time.monotonic() < deadline:
            time.sleep(LEASE_POLL_SECONDS)
        if not held:
            yield None
            return
        lease = Lease(self, name, owner)
        renewing = threading.Thread(target=lease.keep, daemon=True)
        renewing.start()
        try:
            yield lease
        finally:
            lease.done.set()
            renewing.join()
            with self.write() as tx:
                tx.execute(leases.delete().where(leases.c.name == name, leases.c.owner == owner))

    def _take(self, name: str, owner: str) -> bool:
        now = self.clock.now()
        until = now + timedelta(seconds=LEASE_SECONDS)
        try:
            with self.write() as tx:
                # A clock that was ahead wrote it. Its holder, if it lives, renews it before that is over.
                tx.execute(
                    update(leases)
                    .where(leases.c.name == name, leases.c.until > until)
                    .values(until=until)
                )
                taken = tx.execute(
                    update(leases)
                    .where(leases.c.name == name, leases.c.until < now)
                    .values(owner=owner, until=until)
                ).rowcount
                if taken:
                    return True
                if tx.execute(select(leases.c.name).where(leases.c.name == name)).first():
                    return False
                tx.execute(insert(leases).values(name=name, owner=owner, until=until))
                return True
        except IntegrityError:
            return False

    def _prepare(self) -> str:
        """Bring the tables to this version and return the ledger's random id (8 hex digits)."""
        for attempt in range(5):
            try:
                with self._writing() as tx:
                    return self._migrate(tx)
            except DBAPIError:
                # Two processes that make the tables of a new PostgreSQL ledger at once: one of them
                # loses.
                if attempt == 4:
                    raise
                time.sleep(0.2 * (attempt + 1))
        raise AssertionError("unreachable")

    def _migrate(self, tx: Connection) -> str:
        has_meta = tx.dialect.has_table(tx, meta.name)
        if not has_meta:
            meta.create(tx)
        own = "schema_version", "indexes", "ledger_id"
        rows = tx.execute(select(meta).where(meta.c.key.in_(own)))
        found = {row.key: row.value for row in rows}
        version = int(found.get("schema_version", 0))
        if version > SCHEMA_VERSION:
            raise StoreError(
                "The ledger was written by a newer batch_pipeline (its tables are version "
                f"{version}, this "
                f"installation knows {SCHEMA_VERSION}). Upgrade batch_pipeline here; nothing was "
                "changed."
            )
        if version == 0:
            create(tx)
        else:
            for number in range(version + 1, SCHEMA_VERSION + 1):
                MIGRATIONS[number](tx)
        if version != SCHEMA_VERSION:
            tx.execute(meta.delete().where(meta.c.key == "schema_version"))
            tx.execute(insert(meta).values(key="schema_version", value=str(SCHEMA_VERSION)))
        if found.get("indexes") != INDEXES:
            create_indexes(tx)
            tx.execute(meta.delete().where(meta.c.key == "indexes"))
            tx.execute(insert(meta).values(key="indexes", value=INDEXES))
        if "ledger_id" not in found:
            found["ledger_id"] = secrets.token_hex(4)
            tx.execute(insert(meta).values(key="ledger_id", value=found["ledger_id"]))
        return found["ledger_id"]


class Lease:
    """A lease that this process holds."""

    def __init__(self, ledger: Ledger, name: str, owner: str):
        self._ledger = ledger
        self._name = name
        self._owner = owner
        self.done = threading.Event()

    def keep(self) -> None:
        """Renew the lease until it is given back; for a thread of its own."""
        while not self.done.wait(LEASE_RENEWAL_SECONDS):
            with suppress(
                SQLAlchemyError, StoreError
            ):  # a database that hiccups: the next renewal may do
                self.still_held()

    def still_held(self) -> bool:
        """Renew the lease; False when this process slept so long that it is not its own any more."""
        until = self._ledger.clock.now() + timedelta(seconds=LEASE_SECONDS)
        with self._ledger.write() as tx:
            renewed = tx.execute(
                update(leases)
                .where(leases.c.name == self._name, leases.c.owner == self._owner)
                .values(until=until)
            )
            return bool(renewed.rowcount)


def new_owner() -> str:
    """Return a name for a process that claims rows: unlike any other's, and readable in the history."""
    return f"{os.getpid()}-{secrets.token_hex(6)}"


def shown_url(url: URL) -> str:
    """Return a database's URL without its password, wherever in it that stands.

    It may be one of the options behind the ``?``; and of a password with an ``@`` that is not written
    as ``%40``, the rest is taken for a part of the host.
    """
    host = url.host.rpartition("@")[2] if url.host else None
    shown = url.set(host=host).difference_update_query(SECRET_OPTIONS)
    return shown.render_as_string(hide_password=True)


def sqlite_url(path: str) -> str:
    """Return the SQLAlchemy URL of a SQLite file."""
    return f"sqlite:///{path}"


def seconds_since(clock: Clock, moment: datetime | None) -> float:
    """Return the age of ``moment`` in seconds; endless when there is none."""
    return float("inf") if moment is None else (clock.now() - moment).total_seconds()


@lru_cache
def _pooled(url: URL) -> Engine:
    """Return this process's one pool of connections to a server: each tick opens a ledger."""
    return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS})


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        return _pooled(parsed)
    engine = create_engine(
        parsed, poolclass=NullPool, connect_args={"timeout": SQLITE_WAIT_SECONDS}
    )

    @event.listens_for(engine, "connect")
    def _connect(connection, _record) -> None:
        # The driver must not open transactions of its own: "begin" below does.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {SQLITE_WAIT_SECONDS * 1000}")
        # To set it takes a lock, even where nothing changes.
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer takes its lock at the start: one that upgraded later could fail with "database is
        # locked".
        write = connection.get_execution_options().get("batch_pipeline_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
