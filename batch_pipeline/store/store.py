"""A store: the files and the ledger that belong together, and the clock that both go by."""

from dataclasses import dataclass

from sqlalchemy.engine import make_url

from batch_pipeline.errors import StoreError
from batch_pipeline.store.clock import Clock, process_clock
from batch_pipeline.store.files import Files
from batch_pipeline.store.ledger import Ledger, sqlite_url

LEDGER_FILE = "ledger.sqlite"


@dataclass(frozen=True)
class Store:
    """What the stages are handed: files, ledger and clock."""

    files: Files
    ledger: Ledger
    clock: Clock


def open_store(root: str, ledger: str | None = None, clock: Clock | None = None) -> Store:
    """Open the store at ``root``, making what is missing.

    Args:
        root: an absolute path or an object-store URL.
        ledger: a SQLAlchemy URL; SQLite inside a local root when None.
        clock: the time to go by; the process's when None.

    Raises:
        StoreError: the root cannot be written, the ledger cannot be used or is newer than this
            installation, or a remote root comes without a ledger.
    """
    clock = clock or process_clock()
    files = Files(root)
    if ledger is None and not files.is_local:
        raise StoreError(
            f"The store's root {root} is remote, and a ledger needs a database: set "
            "BatchStore(ledger=...) to a "
            "PostgreSQL URL, or to a SQLite file on a disk that all runs share."
        )
    files.prepare()
    url = ledger or sqlite_url(f"{files.base}/{LEDGER_FILE}")
    parsed = make_url(url)
    if ledger is not None and parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(
            f"The ledger's database is {parsed.get_backend_name()}; SQLite and PostgreSQL are "
            "supported."
        )
    return Store(files=files, ledger=Ledger(url, clock), clock=clock)
