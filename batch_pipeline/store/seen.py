"""Which state of its table a pipeline's ledger has seen: another one may hold answers that it lost.

The state is noted when the table was looked through, and each merge of our own carries the note on.
A ledger that was restored, or a merge that somebody else made, breaks that chain: then the table is
looked through again before anything is sent.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.tables import meta

ALLOWED = " (with answers that the store does not know)"


def has_seen(ledger: Ledger, pipeline: str, partition: str, state: str) -> bool:
    """Return whether what waits may be sent, as far as this state of the table tells."""
    return value_of(ledger, key_of("seen", pipeline, partition)) in (state, state + ALLOWED)


def knows_all(ledger: Ledger, pipeline: str, partition: str, state: str) -> bool:
    """Return whether all answers in this state of the table are known to the store."""
    return value_of(ledger, key_of("seen", pipeline, partition)) == state


def see(ledger: Ledger, pipeline: str, partition: str, state: str, *, knows: bool) -> None:
    """Note that nothing in this state of the table speaks against sending what waits.

    Args:
        ledger: where it is noted.
        pipeline: whose table it is.
        partition: whose files wait.
        state: which state of the table.
        knows: all of the answers in it are known to the store.
    """
    with ledger.write() as tx:
        put(tx, key_of("seen", pipeline, partition), state if knows else state + ALLOWED)


def carry_on(tx: Connection, pipeline: str, before: str, after: str) -> None:
    """Note that a merge of our own made one state of another, if that one was seen."""
    prefix = key_of("seen", pipeline, "")[: -len(_short(""))]
    for more in ("", ALLOWED):
        tx.execute(
            update(meta)
            .where(meta.c.key.startswith(prefix, autoescape=True), meta.c.value == before + more)
            .values(value=after + more)
        )


def begin(tx: Connection, pipeline: str, partitions: Iterable[str], state: str) -> None:
    """Note the first state of a table that our own merge made."""
    for partition in partitions:
        put(tx, key_of("seen", pipeline, partition), state)


def in_vain_since(ledger: Ledger, pipeline: str, partition: str) -> datetime:
    """Return since when the table cannot be looked at, which is now unless it was noted earlier."""
    key = key_of("vain", pipeline, partition)
    noted = value_of(ledger, key)
    if noted is not None:
        return datetime.fromisoformat(noted)
    now = ledger.clock.now()
    with ledger.write() as tx:
        put(tx, key, now.isoformat())
    return now


def forget_vain(ledger: Ledger, pipeline: str, partition: str) -> None:
    """Note that the table can be looked at."""
    key = key_of("vain", pipeline, partition)
    if value_of(ledger, key) is not None:
        with ledger.write() as tx:
            tx.execute(delete(meta).where(meta.c.key == key))


def value_of(ledger: Ledger, key: str) -> str | None:
    """Return what is noted under a key; None when nothing is."""
    with ledger.read() as tx:
        return tx.execute(select(meta.c.value).where(meta.c.key == key)).scalar()


def put(tx: Connection, key: str, value: str) -> None:
    """Note a value under a key, in the place of an earlier one."""
    if not tx.execute(update(meta).where(meta.c.key == key).values(value=value)).rowcount:
        tx.execute(insert(meta).values(key=key, value=value))


def key_of(kind: str, pipeline: str, partition: str) -> str:
    """Return the key of a note of a kind, short enough for whatever names."""
    return f"{kind}/{_short(pipeline)}/{_short(partition)}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
