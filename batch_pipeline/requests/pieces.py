"""The records to ask, read from records.parquet in pieces of bounded size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_pipeline.errors import StoreError
from batch_pipeline.records.columns import DOUBLED, EARLIER_ANSWER, EARLIER_ERROR
from batch_pipeline.requests.correction import Correction
from batch_pipeline.requests.values import python_values

FIRST_ROWS = 64
"""Records of the first piece: what is tried on them costs little."""
UNSEEN_ROWS = 512
"""Records in a piece as long as it is not known how wide they are."""
ROWS_AT_ONCE = 4_096
"""Records in a piece at most."""
BYTES_AT_ONCE = 1 << 23
"""And how many bytes of their requests, as far as they come in more than one."""


@dataclass(frozen=True)
class Piece:
    """Some records to ask, by ascending ``_row``.

    Attributes:
        records: the columns that the template reads.
        rows: their ``_row``.
        custom_ids: of their requests, as an Arrow array.
        doublings: how often each one's answer was cut short.
        corrections: what each one's answer was that did not fit; empty when none had one.
        marked: whether what each shares by ``cache_by`` is to be cached; None: of none.
    """

    records: pa.RecordBatch
    rows: list[int]
    custom_ids: pa.Array
    doublings: list[int]
    corrections: Sequence[Correction | None] = ()
    marked: Sequence[bool] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def is_marked(self, place: int) -> bool:
        """Whether what one of them shares is to be cached."""
        return self.marked is not None and self.marked[place]

    def at(self, places: Sequence[int]) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yield (place, custom_id, record) for some of them."""
        if not places:
            return
        some = self.records.take(pa.array(places, pa.int64()))
        ids = self.custom_ids.take(pa.array(places, pa.int64())).to_pylist()
        names = some.schema.names
        lists = [python_values(some.column(number)) for number in range(len(names))]
        for number, place in enumerate(places):
            record = {name: values[number] for name, values in zip(names, lists, strict=True)}
            yield place, ids[number], record


def read_pieces(
    file: pq.ParquetFile, path: str, columns: Sequence[str], line_bytes: int
) -> Iterator[Piece]:
    """Yield the records to ask of an open records.parquet, piece by piece.

    Args:
        file: the file, ascending in ``_row``.
        path: what it is called in an error.
        columns: those to read.
        line_bytes: what a request holds besides its record.

    Raises:
        StoreError: the records are not in order.
    """
    # What was selected by an earlier version has no such column.
    doubles = DOUBLED in file.schema_arrow.names
    corrects = EARLIER_ANSWER in file.schema_arrow.names
    names = (*columns, "_row", "_kind", "_custom_id", *((DOUBLED,) if doubles else ()))
    names += (EARLIER_ANSWER, EARLIER_ERROR) if corrects else ()
    needed: dict[str, None] = dict.fromkeys(names)
    before = -1
    for batch in _batches(file, list(needed), line_bytes):
        asked = batch.filter(pc.call_function("equal", [batch.column("_kind"), pa.scalar("ask")]))
        rows = asked.column("_row").to_pylist()
        if not rows:
            continue
        for row, earlier in zip(rows, [before, *rows[:-1]], strict=True):
            if row <= earlier:
                raise StoreError(f"{path} is not in the order of _row: {row} after {earlier}.")
        before = rows[-1]
        yield Piece(
            asked.select(list(columns)),
            rows,
            asked.column("_custom_id"),
            asked.column(DOUBLED).to_pylist() if doubles else [0] * len(rows),
            _corrections(asked) if corrects else (),
        )


def _corrections(asked: pa.RecordBatch) -> list[Correction | None]:
    answers, errors = (asked.column(name).to_pylist() for name in (EARLIER_ANSWER, EARLIER_ERROR))
    return [
        None if answer is None else Correction(answer, error or "")
        for answer, error in zip(answers, errors, strict=True)
    ]


def _batches(file: pq.ParquetFile, columns: list[str], line_bytes: int) -> Iterator[pa.RecordBatch]:
    """Yield all rows in pieces that are as many as the widest ones so far allow."""
    widest, most, is_first = 0, UNSEEN_ROWS, True
    for place in range(file.num_row_groups):
        group = file.metadata.row_group(place)
        # What repeats is counted once there: so it goes by what was seen, too.
        widest = max(widest, group.total_byte_size // max(group.num_rows, 1))
        at_once = max(1, min(most, BYTES_AT_ONCE // (widest + line_bytes + 1)))
        for batch in file.iter_batches(at_once, [place], list(columns), use_threads=False):
            widest = max(widest, batch.nbytes // max(batch.num_rows, 1))
            most = ROWS_AT_ONCE
            if is_first:
                is_first = False
                yield batch.slice(0, FIRST_ROWS)
                batch = batch.slice(FIRST_ROWS)
            if batch.num_rows:
                yield batch
