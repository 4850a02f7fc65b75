"""What the emulator remembers, in SQLite: batches, calls, prompt caches, the clock.

Requests, results and bills of small batches stand here, too; those of large ones are files.

A change is committed before the call that made it is answered, so a killed emulator (`kill -9`)
forgets nothing that it said. It is not meant to survive a power cut: nothing waits for the disk.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_TABLES = """
create table if not exists batches (
    seq integer primary key autoincrement,
    id text not null unique,
    workspace text not null,
    status text not null default 'in_progress',
    requests integer not null,
    created_at real not null,
    cancel_initiated_at real,
    finished_share real not null default 0,
    ended_at real,
    succeeded integer not null default 0,
    errored integer not null default 0,
    canceled integer not null default 0,
    expired integer not null default 0,
    usd text,
    unpriced integer not null default 0,
    deleted integer not null default 0,
    archived_at real,
    version text,
    betas text
);
create index if not exists open_batches on batches (status) where status <> 'ended';
create table if not exists calls (
    route text not null, outcome text not null, count integer not null, primary key (route, outcome)
);
create table if not exists caches (key text primary key, expires_at real not null);
create table if not exists texts (
    batch_id text not null, name text not null, body blob not null, primary key (batch_id, name)
);
create table if not exists messages (id integer primary key, document text not null);
create table if not exists files (
    seq integer primary key autoincrement,
    id text not null unique,
    workspace text not null,
    filename text not null,
    mime_type text not null,
    size_bytes integer not null,
    created_at real not null,
    expires_at real
);
create table if not exists meta (key text primary key, value text not null);
"""
_TABLE_NAMES = ("batches", "calls", "caches", "texts", "messages", "files", "meta")


class EmulatorClosed(Exception):
    """The emulator was closed or reset while a call was being worked on."""


@dataclass(frozen=True)
class Batch:
    """One batch, as its row says.

    Attributes:
        seq: Place in the order of creation.
        finished_share: Share of its requests that were answered when it was canceled.
        usd: What its succeeded requests cost, as far as prices are known.
        unpriced: Succeeded requests whose price is unknown.
        deleted: Whether it was deleted; the row stays for the bill and for paging.
        archived_at: When its results were taken away before their time.
        version: The API version it was sent with; None where that was not kept.
        betas: The betas it was sent with, separated by commas; None where that was not kept.
    """

    seq: int
    id: str
    workspace: str
    status: str
    requests: int
    created_at: float
    cancel_initiated_at: float | None
    finished_share: float
    ended_at: float | None
    succeeded: int
    errored: int
    canceled: int
    expired: int
    usd: str | None
    unpriced: int
    deleted: int
    archived_at: float | None
    version: str | None
    betas: str | None


@dataclass(frozen=True)
class File:
    """One uploaded file, as its row says."""

    seq: int
    id: str
    workspace: str
    filename: str
    mime_type: str
    size_bytes: int
    created_at: float
    expires_at: float | None


_FILE_COLUMNS = ", ".join(field.name for field in fields(File))
_COLUMNS = ", ".join(field.name for field in fields(Batch))
_NO_END = 2**62


def open_database(path: Path) -> "Database":
    """Open the database in a file; make it if it does not exist."""
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    connection.executescript("pragma journal_mode = wal; pragma synchronous = off;" + _TABLES)
    columns = [row[1] for row in connection.execute("pragma table_info(batches)")]
    for column, type in (("archived_at", "real"), ("version", "text"), ("betas", "text")):
        if column not in columns:  # written by an earlier version
            connection.execute(f"alter table batches add column {column} {type}")
    return Database(connection)


class Database:
    """All SQL of the emulator. Safe to use from several threads.

    Args:
        connection: An open connection; see `open_database`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._lock = threading.RLock()
        self._open_connection: sqlite3.Connection | None = connection

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._open_connection is None:
            raise EmulatorClosed
        return self._open_connection

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            self._open_connection = None

    def emptied(self) -> "Database":
        """Forget everything; the database to go on with. This one is closed."""
        with self._lock:
            with self.transaction():
                for table in (*_TABLE_NAMES, "sqlite_sequence"):
                    self._connection.execute(f"delete from {table}")
            new, self._open_connection = Database(self._connection), None
            return new

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together; other threads wait."""
        with self._lock:
            self._connection.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._connection.execute("rollback")
                raise
            self._connection.execute("commit")

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def _batches(self, condition: str, *values: Any) -> list[Batch]:
        rows = self._rows(f"select {_COLUMNS} from batches where {condition}", *values)
        return [Batch(*row) for row in rows]

    def add_batch(
        self,
        id: str,
        workspace: str,
        requests: int,
        created_at: float,
        version: str | None = None,
        betas: str | None = None,
    ) -> None:
        self._rows(
            "insert into batches (id, workspace, requests, created_at, version, betas) "
            "values (?, ?, ?, ?, ?, ?)",
            *(id, workspace, requests, created_at, version, betas),
        )

    def last_seq(self) -> int:
        """The place of the newest batch ever taken, 0 before the first."""
        found = self._rows("select seq from sqlite_sequence where name = 'batches'")
        return int(found[0][0]) if found else 0

    def batch(self, id: str) -> Batch | None:
        return next(iter(self._batches("id = ?", id)), None)

    def all_batches(self) -> list[Batch]:
        return self._batches("true order by seq")

    def open_batches(self) -> list[Batch]:
        return self._batches("status <> 'ended' order by seq")

    def page(
        self, workspace: str, after: int | None, before: int | None, limit: int, end: int | None
    ) -> tuple[list[Batch], bool]:
        """Batches of a workspace, newest first, and whether there are more that way.

        Args:
            workspace: Whose batches.
            after: Only those further down the list (older) than this place.
            before: Only those further up the list (newer) than this place, nearest to it.
            limit: How many at most.
            end: Only those before this place in the order of creation.
        """
        visible = "workspace = ? and not deleted and seq < ?"
        top = _NO_END if end is None else end
        if before is not None:
            found = self._batches(
                f"{visible} and seq > ? order by seq limit ?", workspace, top, before, limit + 1
            )
            return found[:limit][::-1], len(found) > limit
        top = top if after is None else min(top, after)
        found = self._batches(f"{visible} order by seq desc limit ?", workspace, top, limit + 1)
        return found[:limit], len(found) > limit

    def place_of_newest(self, workspace: str, created_after: float, newest: int) -> int | None:
        """Place of the oldest batch that is younger than a moment, or among so many newest ones."""
        [[place]] = self._rows(
            "select min(seq) from ("
            "select seq, created_at > ? or row_number() over (order by seq desc) <= ? as is_new "
            "from batches where workspace = ? and not deleted) where is_new",
            *(created_after, newest, workspace),
        )
        return place

    def queued(self, workspace: str | None = None) -> int:
        """Requests in batches that have not ended."""
        [[count]] = self._rows(
            "select coalesce(sum(requests), 0) from batches where status <> 'ended' "
            "and workspace = coalesce(?, workspace)",
            workspace,
        )
        return count

    def change_batch(self, id: str, **changes: Any) -> None:
        columns = ", ".join(f"{name} = ?" for name in changes)
        self._rows(f"update batches set {columns} where id = ?", *changes.values(), id)

    def add_text(self, batch_id: str, name: str, body: bytes) -> None:
        self._rows("insert or replace into texts values (?, ?, ?)", batch_id, name, body)

    def text(self, batch_id: str, name: str) -> bytes | None:
        rows = self._rows("select body from texts where batch_id = ? and name = ?", batch_id, name)
        return rows[0][0] if rows else None

    def add_file(self, file: File) -> None:
        """Keep what is known of a file; its `seq` is given by the database."""
        self._rows(
            "insert into files (id, workspace, filename, mime_type, size_bytes, created_at, "
            "expires_at) values (?, ?, ?, ?, ?, ?, ?)",
            *(file.id, file.workspace, file.filename, file.mime_type, file.size_bytes),
            *(file.created_at, file.expires_at),
        )

    def files(self, workspace: str, before: int | None = None, limit: int = -1) -> list[File]:
        """A workspace's files, newest first: those before a place in the order of uploading."""
        rows = self._rows(
            f"select {_FILE_COLUMNS} from files where workspace = ? and seq < ? "
            "order by seq desc limit ?",
            *(workspace, _NO_END if before is None else before, limit),
        )
        return [File(*row) for row in rows]

    def file(self, workspace: str, id: str) -> File | None:
        rows = self._rows(
            f"select {_FILE_COLUMNS} from files where workspace = ? and id = ?", workspace, id
        )
        return File(*rows[0]) if rows else None

    def remove_file(self, id: str) -> None:
        self._rows("delete from files where id = ?", id)

    def count_call(self, route: str, outcome: str) -> None:
        self._rows(
            "insert into calls values (?, ?, 1) on conflict do update set count = count + 1",
            *(route, outcome),
        )

    def calls(self) -> list[tuple[str, str, int]]:
        return self._rows("select route, outcome, count from calls order by route, outcome")

    def caches(self) -> dict[str, float]:
        return dict(self._rows("select key, expires_at from caches"))

    def save_caches(self, expiries: Iterable[tuple[str, float]]) -> None:
        with self._lock:
            self._connection.executemany("insert or replace into caches values (?, ?)", expiries)

    def add_message(self, document: dict[str, Any]) -> None:
        """Keep the bill of a direct message."""
        self._rows("insert into messages (document) values (?)", json.dumps(document))

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(text) for [text] in self._rows("select document from messages")]

    def get_meta(self, key: str, default: Any) -> Any:
        rows = self._rows("select value from meta where key = ?", key)
        return json.loads(rows[0][0]) if rows else default

    def set_meta(self, key: str, value: Any) -> None:
        self._rows("insert or replace into meta values (?, ?)", key, json.dumps(value))
