"""A store: the files and the ledger that belong together, and the clock that both go by."""

from dataclasses import dataclass

import orjson
from sqlalchemy import select
from sqlalchemy.engine import make_url

from batch_pipeline.errors import StoreError
from batch_pipeline.store import high_water
from batch_pipeline.store.clock import Clock, process_clock
from batch_pipeline.store.files import Files
from batch_pipeline.store.layout import OWNER
from batch_pipeline.store.ledger import Ledger, sqlite_url
from batch_pipeline.store.tables import submissions

LEDGER_FILE = "ledger.sqlite"


@dataclass(frozen=True)
class Store:
    """What the stages are handed: files, ledger and clock."""

    files: Files
    ledger: Ledger
    clock: Clock
    keep_days: int | None = None  # how long requests and answers are kept; None: for ever


def open_store(
    root: str,
    ledger: str | None = None,
    clock: Clock | None = None,
    *,
    lost: bool = False,
    keep_days: int | None = None,
) -> Store:
    """Open the store at ``root``, making what is missing.

    Args:
        root: an absolute path or an object-store URL.
        ledger: a SQLAlchemy URL; SQLite inside a local root when None.
        clock: the time to go by; the process's when None.
        lost: take a ledger that is not the one these files were written with, to rebuild it.
        keep_days: how long requests and answers are kept; None: for ever.

    Raises:
        StoreError: the root cannot be written, the ledger cannot be used or is newer than this
            installation, is not the one that the files belong to, or a remote root comes without a
            ledger.
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
    store = Store(files, Ledger(url, clock), clock, keep_days)
    if not lost:
        _check_owner(store)
    return store


def own(store: Store) -> None:
    """Write down that the store's files belong to its ledger."""
    with store.files.scratch() as folder:
        with open(f"{folder}/owner", "wb") as out:
            out.write(orjson.dumps({"ledger": store.ledger.id}))
        store.files.put(f"{folder}/owner", OWNER)


def owner_of(store: Store) -> str:
    """Return the id of the ledger that the store's files belong to; "" when that cannot be read.

    Raises:
        FileNotFoundError: nobody wrote it down yet.
    """
    with store.files.open(OWNER) as file:
        content = file.read()
    try:
        return str(orjson.loads(content)["ledger"])
    except (ValueError, KeyError, TypeError):
        return ""


def _is_unused(store: Store) -> bool:
    """Return whether neither the files nor the ledger have anything that could be lost."""
    if high_water.submission_folders(store.files):
        return False
    return not store.ledger.rows(select(submissions.c.id).limit(1))


def _check_owner(store: Store) -> None:
    """Refuse a ledger that does not know these files: what they hold would be asked, and paid, again."""
    try:
        owner = owner_of(store)
    except FileNotFoundError:
        high_water.check(store.files, store.ledger)
        own(store)
        return
    if not owner and _is_unused(store):
        own(store)
        return
    if not owner:
        raise StoreError(
            f"{OWNER} in the store at {store.files.root} says which ledger these files belong to, and it is empty or "
            f"damaged. If BatchStore(ledger=...) does not name the right database ({store.ledger.shown}), set it right. "
            "Else run `batch-pipeline rebuild-ledger`: it compares the ledger with the files, adds what is missing, and "
            "writes that file anew. Nothing was sent."
        )
    if owner != store.ledger.id:
        raise StoreError(
            f"The store at {store.files.root} was written with the ledger {owner}, but the one at "
            f"{store.ledger.shown} is {store.ledger.id}: it does not know what was sent and paid, "
            "and everything would be asked again. If BatchStore(ledger=...) names a wrong "
            "database, set it right. If the ledger is lost, run `batch-pipeline rebuild-ledger`. "
            "Nothing was sent."
        )
    high_water.check(store.files, store.ledger)
