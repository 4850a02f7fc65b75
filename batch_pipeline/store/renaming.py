"""A pipeline that was renamed goes on with what the ledger has under its old name.

The files stay where they are: the ledger's rows name them. A note beside the old files says which
submissions went over, so that a ledger that is made again from the files knows it, too.
"""

import hashlib
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, delete, func, insert, select, update

from batch_pipeline.errors import HeldError, StoreError
from batch_pipeline.store.layout import renamed_name
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import (
    FileState,
    approvals,
    generations,
    holds,
    looks,
    meta,
    numbers,
    refusals,
    request_files,
    reservations,
    sources,
    submissions,
    token_rates,
    transitions,
)

NAMED = (
    submissions,
    request_files,
    transitions,
    generations,
    numbers,
    holds,
    looks,
    refusals,
    sources,
    reservations,
    approvals,
    token_rates,
)


def name_in_ledger(ledger: Ledger, name: str, renamed_from: str | None) -> str:
    """Return the name under which the ledger has a pipeline's work now; nothing is changed.

    Raises:
        StoreError: what the old name had went over to yet another name.
    """
    if renamed_from is None:
        return name
    with ledger.read() as tx:
        _check_skips_none(tx, name, renamed_from)
        return name if _built(tx, name) or not _built(tx, renamed_from) else renamed_from


def take_over(store: Store, name: str, renamed_from: str | None, *, republish: bool) -> bool:
    """Give a pipeline all that the ledger has under its old name; whether there was anything.

    Args:
        store: where files and ledger are.
        name: the pipeline's name now.
        renamed_from: its old name; None: it never had another.
        republish: its table is another one now, and gets all rows.

    Raises:
        StoreError: both names have work of their own, or what the old name had went over to yet another
            name.
    """
    if renamed_from is None:
        return False
    with store.ledger.read() as tx:
        _check_skips_none(tx, name, renamed_from)
        if not _built(tx, renamed_from):
            return False
    with store.ledger.read() as tx:
        if _built(tx, name):
            raise StoreError(
                f"{name} is declared with renamed_from={renamed_from!r}, and the ledger has work of both: "
                f"{_built(tx, name):,} submissions of {name}, {_built(tx, renamed_from):,} of {renamed_from}. They "
                "are not mixed; nothing was sent or changed. If they are two pipelines, take renamed_from away. If "
                f"{name} ran before renamed_from was set, give the pipeline back its old name, and go on with that."
            )
        ids = list(
            tx.execute(
                select(submissions.c.id).where(
                    submissions.c.pipeline == renamed_from, submissions.c.state == "built"
                )
            ).scalars()
        )
    _note(store, name, renamed_from, ids)
    with store.ledger.write() as tx:
        if _built(tx, name) or not _built(tx, renamed_from):
            return False  # another process did it first
        # What the new name has selected and never sent is selected afresh.
        tx.execute(delete(submissions).where(submissions.c.pipeline == name))
        _move_all(tx, name, renamed_from)
        if republish:
            _publish_again(tx, name)
        _remember(tx, name, renamed_from)
    return True


def take_over_as_noted(store: Store, name: str, *, republish: bool) -> bool:
    """Do again what notes in the store say of renamings to a pipeline that the ledger has no work of.

    The ledger was restored from before them; or the process that noted one was killed before the
    ledger had it. Of a name that went on since, nothing is taken.

    Args:
        store: where files and ledger are.
        name: the pipeline's name now.
        republish: as for `take_over`.
    """
    with store.ledger.read() as tx:
        if _built(tx, name):
            return False
        built = select(submissions.c.id, submissions.c.pipeline).where(
            submissions.c.state == "built"
        )
        was = {row.id: row.pipeline for row in tx.execute(built)}
    notes = sorted(_notes(store), key=lambda note: note["at"]) if was else []
    now = dict(was)
    for note in notes:
        for one in set(note["submissions"]) & now.keys():
            if now[one] == note["from"]:
                now[one] = note["to"]
    gone_from = {was[one] for one, to in now.items() if to == name}
    if not gone_from or any(now[one] != name for one, before in was.items() if before in gone_from):
        return False
    with store.ledger.write() as tx:
        for note in notes:
            if any(now.get(one) == name for one in note["submissions"]):
                take_over_again(tx, note)
        if republish:
            _publish_again(tx, name)
        return bool(_built(tx, name))


def _notes(store: Store) -> list[dict[str, Any]]:
    """Return all notes of renamings in the store."""
    return [
        read_note(store, f"{folder}/{name}")
        for folder in store.files.folders("")
        for name in store.files.file_names(folder)
        if name.startswith("renamed-to-")
    ]


def _publish_again(tx: Connection, name: str) -> None:
    """Let all rows of a pipeline be written into its table, which is another one now."""
    tx.execute(
        update(request_files)
        .where(request_files.c.pipeline == name, request_files.c.state == FileState.COLLECTED)
        .values(published_at=None)
    )


def take_over_again(tx: Connection, note: dict[str, Any]) -> None:
    """Let a ledger that is made again, or was older, do what a note of a renaming says.

    Args:
        tx: a transaction that writes.
        note: see `read_note`.
    """
    name, renamed_from, ids = note["to"], note["from"], note["submissions"]
    is_one = submissions.c.id.in_(ids), submissions.c.pipeline == renamed_from
    moved = set(tx.execute(select(submissions.c.number).where(*is_one)).scalars())
    built = submissions.c.pipeline == name, submissions.c.state == "built"
    own = set(tx.execute(select(submissions.c.number).where(*built)).scalars())
    if moved & own:
        return  # two pipelines; what they did is not mixed
    _remember(tx, name, renamed_from)
    if not moved:
        return
    tx.execute(
        delete(submissions).where(submissions.c.pipeline == name, submissions.c.state != "built")
    )
    files = select(request_files.c.id).where(request_files.c.submission_id.in_(ids))
    for table, is_its in (
        (transitions, transitions.c.file_id.in_(files)),
        (request_files, request_files.c.submission_id.in_(ids)),
        (submissions, submissions.c.id.in_(ids)),
    ):
        tx.execute(
            update(table).where(is_its, table.c.pipeline == renamed_from).values(pipeline=name)
        )
    if not own and not _built(tx, renamed_from):
        _move_all(tx, name, renamed_from)


def _move_all(tx: Connection, name: str, renamed_from: str) -> None:
    """Give a name whatever is there of the other, and take away what it had noted itself."""
    for table in (generations, numbers, holds, looks, refusals, sources, token_rates):
        tx.execute(delete(table).where(table.c.pipeline == name))
    for table in NAMED:
        tx.execute(update(table).where(table.c.pipeline == renamed_from).values(pipeline=name))


def _remember(tx: Connection, name: str, renamed_from: str) -> None:
    """Note in the ledger what became of the old name."""
    for gone in (name, renamed_from):
        tx.execute(delete(meta).where(meta.c.key == _key(gone)))
    tx.execute(insert(meta).values(key=_key(renamed_from), value=name))


def _check_skips_none(tx: Connection, name: str, renamed_from: str) -> None:
    """Refuse an old name whose work went over to yet another one: all of it would be asked anew.

    Raises:
        StoreError: it did, and the new name has no work.
    """
    now = _now(tx, renamed_from)
    if now in (name, renamed_from) or _built(tx, name) or not _built(tx, now):
        return
    raise StoreError(
        f"{name} is declared with renamed_from={renamed_from!r}, but {renamed_from} was renamed to {now}, and all that "
        f"was asked and answered went with it. {name} would ask and pay all of it again; nothing was sent or changed. "
        f"To go on with that work, declare renamed_from={now!r}. If {name} is a new pipeline, take renamed_from away."
    )


def _now(tx: Connection, name: str) -> str:
    """Return the name that a pipeline's work has now; the name itself when it has work, or never had."""
    seen = set()
    while not _built(tx, name) and name not in seen:
        seen.add(name)
        to = tx.execute(select(meta.c.value).where(meta.c.key == _key(name))).scalar()
        name = name if to is None else to
    return name


def went_over(ledger: Ledger, earlier: str, name: str) -> bool:
    """Return whether all work of an earlier name has another name now, be it by several renamings."""
    with ledger.read() as tx:
        return earlier != name and _now(tx, earlier) == name


def check_not_renamed(ledger: Ledger, name: str) -> None:
    """Refuse a pipeline whose work went over to another name: it would ask everything anew.

    Raises:
        HeldError: it did, and there is nothing of this name since.
    """
    with ledger.read() as tx:
        now = tx.execute(select(meta.c.value).where(meta.c.key == _key(name))).scalar()
        if now is None or _built(tx, name):
            return
    raise HeldError(
        f"{name} was renamed to {now}, and all that was asked and answered went with it. Under the old name all of it "
        f"would be asked and paid again; nothing was. If this code is older than the renaming, deploy the new one. To "
        f"go back to the old name, declare renamed_from={now!r}. If this is another pipeline of the same name, launch "
        f"{name}_submit once with allow_reask: true."
    )


def _built(tx: Connection, name: str) -> int:
    return tx.execute(
        select(func.count())
        .select_from(submissions)
        .where(submissions.c.pipeline == name, submissions.c.state == "built")
    ).scalar_one()


def _key(name: str) -> str:
    return f"renamed/{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def _note(store: Store, name: str, renamed_from: str, ids: list[str]) -> None:
    note = {"from": renamed_from, "to": name, "at": store.clock.now(), "submissions": ids}
    with store.files.scratch() as folder:
        with open(f"{folder}/note", "wb") as out:
            out.write(orjson.dumps(note))
        store.files.put(f"{folder}/note", renamed_name(renamed_from, name, store.files.new_part()))


def read_note(store: Store, name: str) -> dict[str, Any]:
    """Return what a note of a renaming says: from, to, at, submissions."""
    with store.files.open(name) as file:
        note = orjson.loads(file.read())
    note["at"] = datetime.fromisoformat(note["at"])
    return note
