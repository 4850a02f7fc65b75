"""Which questions an endpoint has been found to take, so that each is tried once.

A row of ``meta`` for each: what it says is only ever that a free look need not be taken again.
"""

import hashlib

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import meta

PREFIX = "tried/"


def was_tried(ledger: Ledger, endpoint: Endpoint, question: str) -> bool:
    """Return whether a question was tried at an endpoint, and found to be taken.

    Args:
        ledger: where that is kept.
        endpoint: whose answer it was.
        question: a hash of what its requests have in common.
    """
    rows = ledger.rows(select(meta.c.value).where(meta.c.key == _key(endpoint, question)))
    return bool(rows)


def note_tried(ledger: Ledger, endpoint: Endpoint, question: str) -> None:
    """Write that down."""
    try:
        with ledger.write() as tx:
            value = ledger.clock.now().isoformat()
            tx.execute(insert(meta).values(key=_key(endpoint, question), value=value))
    except IntegrityError:
        pass  # another process tried it at the same time


def _key(endpoint: Endpoint, question: str) -> str:
    return PREFIX + hashlib.sha256(f"{endpoint.id}/{question}".encode()).hexdigest()[:48]
