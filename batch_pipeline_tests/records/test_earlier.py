"""A key that is spelled otherwise than in earlier nights is known again, however many columns it has."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from batch_pipeline.records.connections import memory_connection, quote_name, quote_text
from batch_pipeline.records.earlier import look_back
from batch_pipeline.records.identity import key_hash_sql

WIDE = [f"part_{place}" for place in range(20)]


def earlier_records(tmp_path: Path, keys: Sequence[str]) -> str:
    """A file of one record whose key's columns were called so."""
    path = str(tmp_path / "records.parquet")
    columns = ", ".join(f"{place} AS {quote_name(key)}" for place, key in enumerate(keys))
    hashed = key_hash_sql(keys, dict.fromkeys(keys, "INTEGER"), "r")
    with memory_connection() as con:
        con.execute(
            f"COPY (SELECT *, {hashed} AS _key_hash FROM (SELECT {columns}) AS r) TO {quote_text(path)}"
        )
    return path


@pytest.mark.parametrize(
    "then",
    [
        WIDE,
        [key.upper() for key in WIDE],
        [key.capitalize() for key in WIDE],
        [*WIDE[:11], "PART_11", *WIDE[12:]],
        ["b", "a"],
        ["A", "b"],
        ["C", "b", "A"],
        ["c", "B", "A", "D"],
    ],
    ids=" ".join,
)
def test_its_spelling_of_then_is_found(tmp_path: Path, then: list[str]) -> None:
    now = sorted((key.lower() for key in then), key=lambda key: (len(key), key))
    path = earlier_records(tmp_path, then)
    with memory_connection() as con:
        found = look_back(con, now, dict.fromkeys(now, "INTEGER"), [path])
    assert found.is_key and list(found.keys) == then


def test_another_key_is_none_of_its_spellings(tmp_path: Path) -> None:
    path = earlier_records(tmp_path, [*WIDE, "more"])
    with memory_connection() as con:
        found = look_back(con, WIDE, dict.fromkeys(WIDE, "INTEGER"), [path])
    assert found.is_key is False
