"""The type of a column that held values of one type and gets values of another."""

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


def wider_type(con: duckdb.DuckDBPyConnection, old: str, new: str) -> str:
    """Return the DuckDB type that holds the values of both types; text if there is no other.

    It is what DuckDB makes of both, unless that would cut digits off a DECIMAL, at whatever depth: of
    DECIMAL(38,10) and DECIMAL(38,2) DuckDB makes DECIMAL(38,2).
    """
    if old == new:
        return old
    if TEXT in (old, new):
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
        return guess
    return guess if all(_holds(wide, part) for part in parts) else _united(con, *parts)


def _holds(wide: Any, part: Any) -> bool:
    """Whether no digit of a DECIMAL or of a whole number is lost in the wider type."""
    if wide.id == "decimal":
        digits, needed = _digits(wide), _digits(part)
        return needed is None or (
            digits is not None and digits[0] >= needed[0] and digits[1] >= needed[1]
        )
    if wide.id != part.id:
        return True
    if wide.id in ("list", "array"):
        return _holds(wide.children[0][1], part.children[0][1])
    if wide.id in ("struct", "map"):
        fields = dict(wide.children)
        return all(name not in fields or _holds(fields[name], kind) for name, kind in part.children)
    return True


def _united(con: duckdb.DuckDBPyConnection, one: Any, other: Any) -> str:
    """Return the type that keeps all digits of both."""
    digits = [_digits(one), _digits(other)]
    if digits[0] and digits[1]:
        whole, places = (max(pair) for pair in zip(*digits, strict=True))
        return f"DECIMAL({whole + places},{places})" if whole + places <= MOST_DIGITS else TEXT
    if one.id != other.id:
        return TEXT
    if one.id == "list":
        return f"{wider_type(con, str(one.children[0][1]), str(other.children[0][1]))}[]"
    if one.id == "struct":
        left, right = dict(one.children), dict(other.children)
        fields = [
            (name, wider_type(con, str(left.get(name, kind)), str(right.get(name, kind))))
            for name, kind in (left | right).items()
        ]
        declared = ", ".join(f"{quote_name(name)} {kind}" for name, kind in fields)
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
