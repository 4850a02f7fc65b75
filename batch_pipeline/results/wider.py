"""The type of a column that held values of one type and gets values of another."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import duckdb

from batch_pipeline.records.columns import stored_type
from batch_pipeline.records.connections import quote_name

TEXT = "VARCHAR"
MOST_DIGITS = 38  # of a DECIMAL of DuckDB's
# Digits of the largest value: https://duckdb.org/docs/stable/sql/data_types/numeric
DIGITS = {
    "tinyint": 3, "smallint": 5, "integer": 10, "bigint": 19, "hugeint": 39,
    "utinyint": 3, "usmallint": 5, "uinteger": 10, "ubigint": 20, "uhugeint": 39,
}  # fmt: skip
# How many digits of an exact number a floating one gives back.
FLOATING = {"float": 6, "double": 15}

Fits = Callable[[str], bool]
"""Whether all values there are survive in a type."""


def wider_type(
    con: duckdb.DuckDBPyConnection, old: str, new: str, fits: Fits = lambda _kind: False
) -> str:
    """Return the DuckDB type that holds the values of both types; text if there is no other.

    It is what DuckDB makes of both, unless that would lose something, at whatever depth: of
    DECIMAL(38,10) and DECIMAL(38,2) DuckDB makes DECIMAL(38,2), of BIGINT and DOUBLE a DOUBLE, and of
    DATE and TIMESTAMP_NS a type that ends in 2262.

    Args:
        con: any connection.
        old: the type that the column has.
        new: the type of the values that come.
        fits: asked about a type that holds not all values of both types: whether it holds those that
            there are.
    """
    if old == new:
        return old
    if TEXT in (old, new) or "JSON" in (old, new):
        # Asked first: DuckDB would make JSON of JSON and text, and fail on text that is no JSON.
        return TEXT
    # On a cursor of its own: the question may fail, and that would abort a transaction of ``con``.
    with con.cursor() as asking:
        try:
            row = asking.execute(
                f"SELECT typeof(coalesce(CAST(NULL AS {old}), CAST(NULL AS {new})))"
            ).fetchone()
        except duckdb.Error:
            return TEXT
    guess = stored_type(row[0]) if row else TEXT
    try:
        wide, parts = duckdb.sqltype(guess), [duckdb.sqltype(kind) for kind in (old, new)]
    except duckdb.Error:  # a type that only the database knows
        return guess if fits(guess) else TEXT
    if all(_holds(wide, part) for part in parts):
        return guess
    # Exact numbers have a type for all their values, or text.
    if None in map(_digits, parts) and fits(guess):
        return guess
    return _united(con, *parts)


def fitting(
    con: duckdb.DuckDBPyConnection, tables: Iterable[tuple[str, Mapping[str, str]]]
) -> Callable[[str, str], bool]:
    """Return a function that tells whether all values of a column survive in a type.

    Args:
        con: the connection that reads.
        tables: SQL for a table, and its columns, name to DuckDB type.
    """
    known = [(table, {name.lower(): (name, kind) for name, kind in columns.items()})
             for table, columns in tables]  # fmt: skip

    def fits(name: str, wide: str) -> bool:
        return all(
            _survives(con, table, *columns[name.lower()], wide)
            for table, columns in known
            if name.lower() in columns
        )

    return fits


def _survives(con: duckdb.DuckDBPyConnection, table: str, name: str, kind: str, wide: str) -> bool:
    """Whether each value of a column comes back from another type as it was."""
    if kind == wide:
        return True
    value = f"rows.{quote_name(name)}"
    back = f"TRY_CAST(TRY_CAST({value} AS {wide}) AS {kind})"
    # On a cursor of its own, as above; what a transaction has changed meanwhile are other rows.
    with con.cursor() as asking:
        asking.execute("SET SESSION TimeZone = 'UTC'")
        try:
            lost = asking.execute(
                f"SELECT 1 FROM {table} AS rows WHERE CAST({back} AS VARCHAR)"
                f" IS DISTINCT FROM CAST({value} AS VARCHAR) LIMIT 1"
            ).fetchone()
        except (
            duckdb.BinderException,
            duckdb.ConversionException,
            duckdb.InvalidInputException,
            duckdb.NotImplementedException,
            duckdb.OutOfRangeException,
        ):  # there is no such cast
            return False
    return lost is None


def _holds(wide: Any, part: Any) -> bool:
    """Whether a type holds every value of another one, as far as the types tell."""
    if str(wide) == str(part) or part.id == "null":
        return True
    digits, needed = _digits(wide), _digits(part)
    if needed is not None:
        if wide.id in FLOATING:
            return sum(needed) <= FLOATING[wide.id]
        return digits is not None and digits[0] >= needed[0] and digits[1] >= needed[1]
    if wide.id == "double":
        return part.id == "float"
    if wide.id == part.id == "list" or (wide.id, part.id) == ("list", "array"):
        return _holds(wide.children[0][1], part.children[0][1])
    if wide.id == part.id == "map":
        return all(_holds(w[1], p[1]) for w, p in zip(wide.children, part.children, strict=True))
    if wide.id == part.id == "struct":
        fields = {name.lower(): kind for name, kind in wide.children}
        return all(
            name.lower() in fields and _holds(fields[name.lower()], kind)
            for name, kind in part.children
        )
    return str(wide) == TEXT and str(part) != "JSON"


def _united(con: duckdb.DuckDBPyConnection, one: Any, other: Any) -> str:
    """Return the type that holds every value of both, whatever they are."""
    digits = [_digits(one), _digits(other)]
    if digits[0] and digits[1]:
        whole, places = (max(pair) for pair in zip(*digits, strict=True))
        return f"DECIMAL({whole + places},{places})" if whole + places <= MOST_DIGITS else TEXT
    if {one.id, other.id} <= {"list", "array"}:
        return f"{wider_type(con, str(one.children[0][1]), str(other.children[0][1]))}[]"
    if one.id != other.id:
        return TEXT
    if one.id == "struct":
        fields = dict(one.children)
        spelled = {name.lower(): name for name in fields}
        for name, kind in other.children:
            known = spelled.get(name.lower(), name)
            fields[known] = wider_type(con, str(fields.get(known, kind)), str(kind))
        declared = ", ".join(f"{quote_name(name)} {kind}" for name, kind in fields.items())
        return str(duckdb.sqltype(f"STRUCT({declared})"))  # spelled as DuckDB spells it
    if one.id == "map":
        (_, key), (_, value) = one.children
        (_, other_key), (_, other_value) = other.children
        kinds = (
            wider_type(con, str(key), str(other_key)),
            wider_type(con, str(value), str(other_value)),
        )
        return f"MAP({', '.join(kinds)})"
    return TEXT


def _digits(kind: Any) -> tuple[int, int] | None:
    """Return how many digits stand before and behind the point; None for what is no exact number."""
    if kind.id in DIGITS:
        return DIGITS[kind.id], 0
    if kind.id != "decimal":
        return None
    declared = dict(kind.children)
    return declared["precision"] - declared["scale"], declared["scale"]
