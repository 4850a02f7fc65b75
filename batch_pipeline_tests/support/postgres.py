"""Ledgers on a PostgreSQL server of the tests' own: one server, and a schema for each ledger."""

import secrets
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from batch_pipeline.store import ledger

# A server that is killed loses what it had not written; no test kills it.
NOT_WAITING_FOR_THE_DISK = ("fsync", "full_page_writes", "synchronous_commit")


@dataclass(frozen=True)
class Schemas:
    """A PostgreSQL database in which each ledger has a schema.

    Attributes:
        url: of the database.
    """

    url: str

    def new_ledger(self) -> str:
        """Return the URL of a ledger that nobody has opened yet."""
        schema = f"ledger_{secrets.token_hex(8)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"create schema {schema}")
        return f"{self.url}&options=-csearch_path%3D{schema}"

    def drop_ledger(self, url: str) -> None:
        """Close this process's connections to a ledger, and remove it."""
        ledger._engine(url).dispose()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"drop schema {url.rpartition('%3D')[2]} cascade")

    @contextmanager
    def some(self, count: int) -> Iterator[list[str]]:
        """Give new ledgers for the block."""
        urls = [self.new_ledger() for _ in range(count)]
        yield urls
        for url in urls:
            self.drop_ledger(url)


@contextmanager
def postgres() -> Iterator[Schemas]:
    """Give a PostgreSQL server for the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses a folder that it does not use
        import pgserver
    # Not below pytest's folder: every session that starts makes that one private to its user again,
    # and run as root the server is another one's.
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-postgres-") as folder:
        server = pgserver.get_server(folder)
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                for setting in NOT_WAITING_FOR_THE_DISK:
                    connection.execute(f"alter system set {setting} = off")
                connection.execute("select pg_reload_conf()")
            yield Schemas(server.get_uri())
        finally:
            server.cleanup()
