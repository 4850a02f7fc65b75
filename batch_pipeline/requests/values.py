"""A column of records.parquet as Python values: those that a template and a function get.

A value that Python cannot hold, or would hold as another one, becomes the text that DuckDB prints
for it, at any depth: a date that is infinite or outside the years 1 to 9999, 24:00:00, a map's key
that is a list.
"""

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from batch_pipeline.records.connections import memory_connection

INFINITE = 2**63 - 1
"""What DuckDB keeps for an infinite time stamp."""
DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def python_values(column: pa.Array, nested: bool = False) -> list[Any]:
    """Return a column's values; NULL as None, a list as a list, a struct or a map as a dict.

    Args:
        column: one column of some records.
        nested: they stand in a list, struct or map, which prints as JSON.
    """
    kind = column.type
    if pa.types.is_float32(kind):
        # By way of text, or 3.3 would read 3.299999952316284.
        texts = column.cast(pa.string()).to_pylist()
        return _finite([None if t is None else float(t) for t in texts], nested)
    if pa.types.is_float64(kind):
        return _finite(column.to_pylist(), nested)
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        fields = [python_values(column.field(place), True) for place in range(len(names))]
        rows = zip(*fields, strict=True)
        return [
            dict(zip(names, row, strict=True)) if valid else None
            for valid, row in zip(column.is_valid().to_pylist(), rows, strict=True)
        ]
    if pa.types.is_map(kind):
        return _maps(column)
    if pa.types.is_list(kind):
        inner = python_values(column.values, True)
        return [None if part is None else inner[part] for part in _parts(column)]
    if pa.types.is_temporal(kind):
        return _times(column)
    return column.to_pylist()


def _finite(values: list[float | None], nested: bool) -> list[Any]:
    """Return floats; in JSON, which has no infinity, as the text of them where needed."""
    if not nested:
        return values
    return [v if v is None or math.isfinite(v) else str(v) for v in values]


def _maps(column: Any) -> list[dict[Any, Any] | None]:
    if pa.types.is_nested(column.type.key_type):
        keys: Sequence[Any] = _texts(column.keys)
    else:
        keys = python_values(column.keys, True)
    items = python_values(column.items, True)
    return [
        None if part is None else dict(zip(keys[part], items[part], strict=True))
        for part in _parts(column)
    ]


def _parts(column: Any) -> list[slice | None]:
    """Return where each list or map lies in the array of all their elements; None for NULL."""
    # By hand: what Arrow has for it does not know every type that may stand in a list.
    ends = column.offsets.to_pylist()
    valid = column.is_valid().to_pylist()
    return [slice(*ends[n : n + 2]) if is_valid else None for n, is_valid in enumerate(valid)]


def _times(column: pa.Array) -> list[Any]:
    """Return dates and times; as text where Python has none, or none so exact."""
    kind = column.type
    try:
        values = column.to_pylist()
    except (OverflowError, ValueError):
        values = [_or_itself(scalar) for scalar in column]
    if pa.types.is_date(kind):
        odd = [isinstance(value, pa.Scalar) for value in values]
    else:
        is_time = pa.types.is_time(kind)
        wide = column.view(pa.int64() if kind.bit_width == 64 else pa.int32()).to_pylist()
        odd = [
            isinstance(value, pa.Scalar)
            or (
                number is not None
                and (
                    number >= DAY[kind.unit] or (kind.unit == "ns" and number % 1_000 != 0)
                    if is_time
                    else abs(number) == INFINITE
                )
            )
            for value, number in zip(values, wide, strict=True)
        ]
    if not any(odd):
        return values
    texts = _texts(column)
    return [text if is_odd else v for v, text, is_odd in zip(values, texts, odd, strict=True)]


def _or_itself(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return scalar


def _texts(column: pa.Array) -> list[str | None]:
    """Return the texts that DuckDB prints for a column's values."""
    numbered = pa.table({"n": pa.array(range(len(column))), "value": column})
    with memory_connection() as con:
        con.register("_bp_values", numbered)
        rows = con.execute("SELECT CAST(value AS VARCHAR) FROM _bp_values ORDER BY n").fetchall()
    return [text for (text,) in rows]
