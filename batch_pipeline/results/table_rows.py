"""The rows of a DuckDB table of results, changed inside the transaction of a merge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from batch_pipeline.records.connections import quote_name
from batch_pipeline.results.merging import cast_columns, columns_in, same_key


@dataclass(frozen=True)
class TableRows:
    """The rows of one table.

    Attributes:
        con: the connection whose transaction it is.
        name: the table's full name, quoted.
        columns: its columns, name to DuckDB type.
        key: the key columns.
    """

    con: duckdb.DuckDBPyConnection
    name: str
    columns: Mapping[str, str]
    key: Sequence[str]

    def drop_doubles(self, query: str) -> None:
        """Leave one row of each key that is about to be updated: the first one.

        Args:
            query: SQL for the keys.
        """
        by = ", ".join(f"old.{quote_name(column)}" for column in self.key)
        self.con.execute(
            f"DELETE FROM {self.name} WHERE rowid IN (SELECT id FROM (SELECT old.rowid AS id,"
            f" row_number() OVER (PARTITION BY {by} ORDER BY old.rowid) AS nth FROM {self.name} AS old"
            f" SEMI JOIN ({self._keys(query)}) AS new ON {same_key(self.key, 'old', 'new')}) WHERE nth > 1)"
        )

    def update(self, query: str, have: Mapping[str, str]) -> int:
        """Give the rows whose key is there their new values; return how many.

        Args:
            query: SQL for the rows.
            have: their columns, name to DuckDB type.
        """
        keys = {column.lower() for column in self.key}
        given = {column.lower() for column in have}
        changes = ", ".join(
            f"{quote_name(column)} = new.{quote_name(column)}"
            for column in self.columns
            if column.lower() in given and column.lower() not in keys
        )
        return self._changed(
            f"UPDATE {self.name} AS old SET {changes} FROM ({self._rows(query, have)}) AS new"
            f" WHERE {same_key(self.key, 'old', 'new')}"
        )

    def insert(self, query: str, have: Mapping[str, str], is_new: bool) -> int:
        """Put in the rows whose key is not there; other columns get their defaults. Return how many.

        Args:
            query: SQL for the rows.
            have: their columns, name to DuckDB type.
            is_new: the table was made just now.
        """
        there = f" ANTI JOIN {self.name} AS old ON {same_key(self.key, 'old', 'new')}"
        return self._changed(
            f"INSERT INTO {self.name} BY NAME SELECT new.* FROM ({self._rows(query, have)}) AS new"
            f"{'' if is_new else there}"
        )

    def delete(self, query: str) -> int:
        """Take out the rows of some keys; return how many.

        Args:
            query: SQL for the keys.
        """
        return self._changed(
            f"DELETE FROM {self.name} AS old USING ({self._keys(query)}) AS gone"
            f" WHERE {same_key(self.key, 'old', 'gone')}"
        )

    def _changed(self, sql: str) -> int:
        row = self.con.execute(sql).fetchone()
        return row[0] if row else 0

    def _keys(self, query: str) -> str:
        """Return SQL for keys, in the types that the table has."""
        kinds = {name.lower(): kind for name, kind in self.columns.items()}
        want = {name: kinds[name.lower()] for name in self.key}
        casts = cast_columns(columns_in(self.con, query), want, "rows")
        return f"SELECT {casts} FROM ({query}) AS rows"

    def _rows(self, query: str, have: Mapping[str, str]) -> str:
        """Return SQL for rows, in the types that the table has now."""
        given = {column.lower() for column in have}
        want = {name: kind for name, kind in self.columns.items() if name.lower() in given}
        return f"SELECT {cast_columns(have, want, 'rows')} FROM ({query}) AS rows"
