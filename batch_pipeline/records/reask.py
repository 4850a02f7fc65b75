"""Whether a run would ask most of an answered table again for no reason that a person gave."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from batch_pipeline.errors import counted
from batch_pipeline.records import statements
from batch_pipeline.records.connections import quote_text
from batch_pipeline.records.earlier import Earlier

LEAST = 11
"""Fewer records than this (so ten) may always be asked again: no accident is dear then."""


@dataclass(frozen=True)
class Reask:
    """Answered records that a run would ask again.

    Attributes:
        records: how many.
        of: how many are answered.
        why: the likely reasons, for a message.
        elsewhere: whether they were answered at another endpoint.
    """

    records: int
    of: int
    why: tuple[str, ...]
    elsewhere: bool

    def __str__(self) -> str:
        """What would happen, in sentences."""
        return (
            f"{self.records:,} of {counted(self.of, 'answered record')} would be asked, and paid, again, though nobody "
            f"said force and the question is the same. Likely because {'; and '.join(self.why)}."
        )


def find_reask(
    con: duckdb.DuckDBPyConnection,
    *,
    version: str,
    partition: str | None,
    earlier: Earlier,
    retyped_key: Sequence[str],
    retyped_content: Sequence[str],
    keys: Sequence[str],
) -> Reask | None:
    """Return what would be asked again; None when that is less than half of what is answered.

    Args:
        con: where selection left its tables behind.
        version: the question's.
        partition: the partition that is selected; None without.
        earlier: what earlier nights tell of the key.
        retyped_key: what became of key columns with another type.
        retyped_content: the same of columns that the question reads.
        keys: the key's columns.
    """
    another_key = earlier.is_key is False or bool(retyped_key)
    row = con.execute(
        statements.REASKED.format(
            version=quote_text(version),
            here="true" if partition is None else f"partition = {quote_text(partition)}",
        )
    ).fetchone()
    assert row is not None
    known, changed, same_content, moved, known_elsewhere, new = row
    renamed = min(new, known) if another_key else same_content
    why = []
    if renamed:
        key = ", ".join(keys)
        what = f"the key ({key}) names records otherwise than before"
        if retyped_key:
            what += f": {', '.join(retyped_key)}"
        elif same_content >= renamed / 2:
            what += ": records with the same content have other keys"
        why.append(what)
    if changed:
        what = "what the question reads of them has changed"
        why.append(what + (f": {', '.join(retyped_content)}" if retyped_content else ""))
    if _is_most(changed + renamed, known):
        return Reask(changed + renamed, known, tuple(why), False)
    if _is_most(moved, known_elsewhere):
        return Reask(moved, known_elsewhere, ("they were answered at another address",), True)
    return None


def _is_most(records: int, of: int) -> bool:
    return records >= LEAST and records * 2 > of
