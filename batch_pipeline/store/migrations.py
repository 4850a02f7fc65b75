"""How an older ledger becomes one of this version. Steps are numbered and never edited once released."""

from collections.abc import Callable

from sqlalchemy import Connection

from batch_pipeline.store.tables import metadata

SCHEMA_VERSION = 1


def _first(tx: Connection) -> None:
    metadata.create_all(tx)


MIGRATIONS: dict[int, Callable[[Connection], None]] = {1: _first}
