"""Compacted index files: one file that stands for many, which selection would have to open each night.

An index file stays where it is, and stays the truth; a compaction is made of many and can be made again.
The ledger notes which there are and what they stand for, and each is taken into use, or out of it, in
one transaction. Whoever reads the index is told by the same snapshot of the ledger which index files
count and where their rows are. What is out of use is removed a day later: somebody may be reading it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Self

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from batch_pipeline.store.files import Files
from batch_pipeline.store.layout import compacted_name
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.seen import key_of
from batch_pipeline.store.tables import meta

UNUSED_FOR = timedelta(days=1)


@dataclass(frozen=True)
class Compaction:
    """A file with the rows of many index files.

    Attributes:
        name: its name.
        rows: how many it has.
        files: the names of the index files that it stands for; a row says which by its place here.
    """

    name: str
    rows: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class Compactions:
    """What is noted of a pipeline.

    Attributes:
        used: the compactions, in the order in which they were made.
        unused: those that were in use, and when they went out of it.
    """

    used: tuple[Compaction, ...] = ()
    unused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str | None) -> Self:
        """Read what ``to_json`` gave."""
        if text is None:
            return cls()
        found = json.loads(text)
        used = tuple(Compaction(**{**one, "files": tuple(one["files"])}) for one in found["used"])
        return cls(used, found["unused"])

    def to_json(self) -> str:
        """Return it as the ledger has it."""
        return json.dumps(asdict(self))

    def places(self) -> dict[str, tuple[str, int]]:
        """Return, by index file, the compaction that has its rows, and the file's place there."""
        return {
            file: (one.name, place) for one in self.used for place, file in enumerate(one.files)
        }


def compactions_of(ledger: Ledger, pipeline: str) -> Compactions:
    """Return the compactions of a pipeline."""
    with ledger.read() as tx:
        return read_compactions(tx, pipeline)


def exchange(ledger: Ledger, pipeline: str, before: Compactions, after: Compactions) -> bool:
    """Let other compactions be used from now on; False: another process did so first, and nothing is changed."""
    mine = meta.c.key == key_of("compacted", pipeline, "")
    went = ledger.clock.now().isoformat()
    kept = {one.name for one in after.used}
    gone = {one.name: went for one in before.used if one.name not in kept}
    new = replace(after, unused={**after.unused, **gone}).to_json()
    try:
        with ledger.write() as tx:
            if tx.execute(select(meta.c.key).where(mine)).first() is None:
                if before != Compactions():
                    return False
                tx.execute(insert(meta).values(key=key_of("compacted", pipeline, ""), value=new))
                return True
            return bool(
                tx.execute(
                    update(meta).where(mine, meta.c.value == before.to_json()).values(value=new)
                ).rowcount
            )
    except IntegrityError:
        return False


def forget(ledger: Ledger, pipeline: str) -> bool:
    """Use no compaction of a pipeline any more, because one cannot be read; whether there was one."""
    before = compactions_of(ledger, pipeline)
    return bool(before.used) and exchange(ledger, pipeline, before, replace(before, used=()))


def drop(files: Files, ledger: Ledger, pipeline: str) -> None:
    """Remove all compactions of a pipeline at once: what they stand for is changed by a person."""
    forget(ledger, pipeline)
    with ledger.write() as tx:
        tx.execute(delete(meta).where(meta.c.key == key_of("compacted", pipeline, "")))
    files.remove(compacted_name(pipeline))


def sweep(files: Files, ledger: Ledger, pipeline: str) -> None:
    """Remove the files of compactions that nobody uses, a day after somebody may have begun to read them."""
    found = compactions_of(ledger, pipeline)
    used = {one.name for one in found.used}
    before = ledger.clock.now() - UNUSED_FOR
    folder = compacted_name(pipeline)
    old = [
        name
        for name in (f"{folder}/{file}" for file in files.file_names(folder))
        if name not in used and _since(name, found.unused) < before
    ]
    for name in old:
        files.remove(name)
    there = {name: at for name, at in found.unused.items() if name not in old}
    if there != found.unused:
        exchange(ledger, pipeline, found, replace(found, unused=there))


def _since(name: str, unused: Mapping[str, str]) -> datetime:
    """Return since when a file is out of use: of one that never was in use, since it was made."""
    if name in unused:
        return datetime.fromisoformat(unused[name])
    return datetime.strptime(f"{name.rpartition('/')[2][:15]}+0000", "%Y%m%dT%H%M%S%z")


def read_compactions(tx: Connection, pipeline: str) -> Compactions:
    """Return the compactions of a pipeline, as one snapshot of the ledger has them."""
    mine = meta.c.key == key_of("compacted", pipeline, "")
    return Compactions.from_json(tx.execute(select(meta.c.value).where(mine)).scalar())
