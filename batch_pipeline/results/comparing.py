"""A table beside what it must hold, while its results are published.

All of it is compared, row by row, unless the ledger has noted that the table held exactly what it must
and its tally is still the same: then only the keys are compared that came since, and without any
nothing is. What somebody dropped, changed, doubled or brought back from a backup has another tally.
Keys that came with another type than the table has are compared with all rows: their hashes do not
tell which rows are theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import duckdb
from sqlalchemy import Connection

from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.holding import Holding, compare, find_winners, write_custom_ids
from batch_pipeline.results.lost_answers import state_of
from batch_pipeline.results.merging import OvertakenError, Snapshot
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import IndexRow
from batch_pipeline.store.tally import NO_ROWS, Noted, hash_of, note, noted


@dataclass
class Comparing:
    """What a pipeline's table holds, and what it must.

    Attributes:
        store: where the files and the ledger are.
        con: a connection of our own; it gets the tables that ``compare`` and ``find_winners`` leave.
        pipeline: whose table it is.
        destination: the table.
        key: the key's columns.
        index: all index files of the pipeline.
        fresh: the places in ``index`` of what was collected and is not in the table yet.
        results: index file to the file of its rows.
        folder: for files of ours.
        there: the table, as it was looked at last; with a file only of the rows that were compared.
        holding: how they compare.
    """

    store: Store
    con: duckdb.DuckDBPyConnection
    pipeline: str
    destination: DuckDBTable | ParquetDataset
    key: tuple[str, ...]
    index: Sequence[IndexRow]
    fresh: Sequence[int]
    results: dict[str, str]
    folder: str
    there: Snapshot
    holding: Holding = field(default_factory=Holding)
    _newcomers: list[IndexRow] | None = None  # whose keys alone are compared; None: all are
    _is_exact: bool = False
    _before: Snapshot | None = None  # the rows of these keys, before a merge

    def look(self, *, whole: bool) -> None:
        """Compare the table.

        Args:
            whole: all of it, whatever is noted.
        """
        self._newcomers = None if whole else self._since_noted()
        if self._newcomers is None:
            find_winners(self.store, self.con, self.index)
            self._compare_all(self.fresh)
            return
        # Of no file at all there are no keys: then no index is read, and no table.
        find_winners(self.store, self.con, self._read, self._newcomers)
        if self._newcomers:
            write_custom_ids(self.store, self.con, self.index, self._only)
        self._before = self._compare_some(self.there, self.fresh)
        if self._has("elsewhere"):
            self.look(whole=True)

    def look_again(self) -> None:
        """Compare the table after a merge into it."""
        if self._newcomers is None:
            self.there = self.destination.snapshot(self.key, None)
            self._compare_all([])
            return
        expected = self.there.tally
        self.there = self.destination.snapshot(self.key, None)
        after = self._compare_some(self.there, [])
        assert self._before is not None
        expected = expected.with_changed(self._before.tally, after.tally)
        if self.there.tally != expected or not self._is_exact:
            find_winners(self.store, self.con, self.index)
            self._newcomers = None
            self._compare_all([])

    def note(self, tx: Connection) -> None:
        """Note that the table is as it must be; forget what was noted when it is not."""
        note(tx, self.pipeline, self._noted(self.index) if self._is_exact else None)

    @property
    def is_noted(self) -> bool:
        """Whether what is noted says all that was found."""
        return self._newcomers == []

    @property
    def _read(self) -> Sequence[IndexRow]:
        return [] if self.is_noted else self.index

    @property
    def _only(self) -> str:
        return f"{self.folder}/custom_ids.parquet"

    def _since_noted(self) -> list[IndexRow] | None:
        """Return the index files that came since the table was noted to be exact; None: it was not, or is another one."""
        found = noted(self.store.ledger, self.pipeline)
        if found is None or not self.there.columns:
            return None
        fresh = [self.index[place] for place in self.fresh]
        numbers = {row.number for row in fresh}
        names = {row.name for row in fresh}
        newcomers = [
            row
            for row in self.index
            if row.name in names or (row.is_selection and row.settles and row.number in numbers)
        ]
        new = {row.name for row in newcomers}
        earlier = [row for row in self.index if row.name not in new]
        return newcomers if found == self._noted(earlier) else None

    def _noted(self, index: Sequence[IndexRow]) -> Noted:
        """Return the note of the table as it is, when it holds what some index files say."""
        return Noted(
            state_of(self.destination, self.there.generation),
            f"{', '.join(self.key)}; DuckDB {duckdb.__version__}",
            hash_of(row.name for row in index if row.settles),
            self.there.tally,
        )

    def _compare_all(self, fresh: Sequence[int]) -> None:
        before = self.there
        self.there = self._snapshot(None)
        if self.there.generation != before.generation:
            raise OvertakenError
        self._compare_with(self.there, fresh, 0)

    def _compare_some(self, table: Snapshot, fresh: Sequence[int]) -> Snapshot:
        """Compare the rows of the new keys, and count the others as right; return these rows."""
        some = replace(table, tally=NO_ROWS)
        if self._newcomers:
            some = self._snapshot(self._only)
            if some.generation != table.generation:
                raise OvertakenError
        self.there = replace(table, path=some.path)
        self._compare_with(some, fresh, table.tally.rows - some.tally.rows)
        return some

    def _snapshot(self, only: str | None) -> Snapshot:
        return self.destination.snapshot(self.key, f"{self.folder}/there.parquet", only)

    def _compare_with(self, there: Snapshot, fresh: Sequence[int], others: int) -> None:
        """Compare rows of the table; ``others`` are right."""
        found = compare(self.store, self.con, self._read, there, fresh, self.key, self.results)
        self.holding = found.beside(others)
        # A row that its key's hash does not tell is left to be compared each time.
        self._is_exact = (
            found.is_exact and bool(there.columns) and not self._has("due where doubtful")
        )

    def _has(self, rows: str) -> bool:
        return self.con.execute(f"select 1 from {rows} limit 1").fetchone() is not None
