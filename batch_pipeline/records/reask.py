"""Whether a run would ask most of an answered table again for no reason that a person gave."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import duckdb

from batch_pipeline.errors import InputError, counted
from batch_pipeline.records import statements
from batch_pipeline.records.connections import let_read, quote_files, quote_name, quote_text
from batch_pipeline.records.earlier import Earlier

LEAST = 11
"""Fewer records than this (so ten) may always be asked again: no accident is dear then."""
ELSEWHERE = "they were answered at another address"


@dataclass(frozen=True)
class Reask:
    """Answered records that a run would ask again.

    Attributes:
        records: how many.
        of: how many are answered.
        why: the likely reasons, for a message.
        elsewhere: whether they were answered at another endpoint.
        in_all: whether that counts all partitions, and not only the one that is selected.
    """

    records: int
    of: int
    why: tuple[str, ...]
    elsewhere: bool
    in_all: bool = False

    def __str__(self) -> str:
        """What would happen, in sentences."""
        where = " of all partitions" if self.in_all else ""
        return (
            f"{self.records:,} of {counted(self.of, 'answered record')}{where} would be asked, and paid, again, though nobody "
            f"said force and the question is the same. Likely because {'; and '.join(self.why)}."
        )


@dataclass(frozen=True)
class Destination:
    """What selection may look up in the destination.

    Attributes:
        place: which table of which file, or which dataset, for a message.
        rows: returns a local Parquet file of its rows, as a snapshot writes it; None when it has none
            that are marked as this pipeline's, or none that the store does not know.
        unsent: the numbers of submissions that have files which were never sent.
    """

    place: str
    rows: Callable[[], str | None]
    unsent: Collection[int] = ()


@dataclass(frozen=True)
class Unknown:
    """Answered rows of the destination that the store does not know.

    Attributes:
        rows: how many.
        paid: how many of their records would be paid again.
        place: where they are.
        lost: whether the store knows nothing of the pipeline at all.
    """

    rows: int
    paid: int
    place: str
    lost: bool


def find_unknown(
    con: duckdb.DuckDBPyConnection,
    destination: Destination,
    *,
    keys: Sequence[str],
    verdicts: Collection[str],
    lost: bool,
) -> Unknown | None:
    """Return the answers that are in the destination, and that the store, which would pay them, lost.

    Which store it was does not matter, nor how many of the rows are asked: it is the wrong store, or
    one that was restored from before the answers came.

    Args:
        con: where selection left its tables behind.
        destination: where the answers may be.
        keys: the key's columns, in the order of ``_bp_hashed``.
        verdicts: those that are asked, or that a rule settles.
        lost: whether the store knows nothing of the pipeline.
    """
    path = destination.rows()
    if path is None:
        return None
    let_read(con, [path])
    same_key = " AND ".join(
        f"CAST(paid.k{place} AS VARCHAR) = CAST(unknown.{quote_name(key)} AS VARCHAR)"
        for place, key in enumerate(keys)
    )
    unsent = ", ".join(str(int(number)) for number in destination.unsent) or "NULL"
    row = con.execute(
        statements.UNKNOWN.format(
            path=quote_files([path]),
            asked_verdicts="(" + ", ".join(map(quote_text, verdicts)) + ")",
            unsent=f"({unsent})",
            same_key=same_key,
        )
    ).fetchone()
    assert row is not None
    rows, foreign, paid, same_question = row
    # The very same question about the very same content was answered: one is evidence enough. Of a
    # key alone, a row or two may have been written, or edited, by hand.
    if not same_question and (foreign < LEAST or not paid):
        return None
    return Unknown(rows, max(paid, same_question), destination.place, lost)


def find_reask(
    con: duckdb.DuckDBPyConnection,
    *,
    version: str,
    partition: str | None,
    earlier: Earlier,
    retyped_key: Sequence[str],
    retyped_content: Sequence[str],
    keys: Sequence[str],
    hash_whole: Callable[[], None],
) -> Reask | None:
    """Return what would be asked again; None when that is less than half of what is answered.

    What is no matter of content (another key, another address) befalls all partitions at once: where
    one is small, all are counted.

    Args:
        con: where selection left its tables behind.
        version: the question's.
        partition: the partition that is selected; None without.
        earlier: what earlier nights tell of the key.
        retyped_key: what became of key columns with another type.
        retyped_content: the same of columns that the question reads.
        keys: the key's columns.
        hash_whole: makes the table of all partitions' hashes.
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
        return Reask(moved, known_elsewhere, (ELSEWHERE,), True)
    if partition is None or not (renamed * 2 > known or moved * 2 > known_elsewhere):
        return None
    try:
        hash_whole()
    except InputError:  # another partition's rows cannot be read, which is no matter of this one
        return None
    row = con.execute(statements.REASKED_IN_ALL.format(version=quote_text(version))).fetchone()
    assert row is not None
    known, same_content, moved, known_elsewhere, new = row
    renamed = min(new, known) if another_key else same_content
    if _is_most(renamed, known) and why:
        return Reask(renamed, known, tuple(why[:1]), False, True)
    if _is_most(moved, known_elsewhere):
        return Reask(moved, known_elsewhere, (ELSEWHERE,), True, True)
    return None


def _is_most(records: int, of: int) -> bool:
    return records >= LEAST and records * 2 > of
