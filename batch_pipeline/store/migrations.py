"""How an older ledger becomes one of this version. Steps are numbered and never edited once released."""

from collections.abc import Callable

from sqlalchemy import Connection, text

from batch_pipeline.store.reservations import reserve_for_what_was_sent
from batch_pipeline.store.tables import (
    approvals,
    live_requests,
    metadata,
    refusals,
    reservations,
    sources,
    token_rates,
)

SCHEMA_VERSION = 5


INDEXES = "2"
"""Which indexes the tables have. They change nothing that any version reads, so they are no version of their own."""


def create(tx: Connection) -> None:
    """Make the tables of a new ledger, as this version knows them."""
    metadata.create_all(tx)


def create_indexes(tx: Connection) -> None:
    """Make the indexes that the tables lack."""
    for table in metadata.tables.values():
        for index in table.indexes:
            index.create(tx, checkfirst=True)


def _cancelling_and_watching(tx: Connection) -> None:
    added = {
        "request_files": ("cancel_requested_at", "cancel_sent_at", "watch_until"),
        "candidates": ("unreadable_since", "read_at"),
    }
    for table, columns in added.items():
        for column in columns:
            tx.execute(text(f"ALTER TABLE {table} ADD COLUMN {column} TIMESTAMP"))


def _refusals_and_sources(tx: Connection) -> None:
    for table in (refusals, sources):
        table.create(tx, checkfirst=True)


def _reservations(tx: Connection) -> None:
    for table in (reservations, approvals, token_rates):
        table.create(tx, checkfirst=True)
    tx.execute(text("ALTER TABLE request_files ADD COLUMN weight JSON"))
    tx.execute(text("ALTER TABLE request_files ADD COLUMN label VARCHAR(200)"))
    # What this month's files cost counts for its caps, although none was declared when they were sent.
    reserve_for_what_was_sent(tx)


def _live_requests(tx: Connection) -> None:
    live_requests.create(tx, checkfirst=True)


# From the version before to this one.
MIGRATIONS: dict[int, Callable[[Connection], None]] = {
    2: _cancelling_and_watching,
    3: _refusals_and_sources,
    4: _reservations,
    5: _live_requests,
}
