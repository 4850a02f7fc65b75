"""The identity of a record must never change: it decides what is asked, and paid, again."""

import hashlib
import uuid

import duckdb

from batch_pipeline.records.connections import memory_connection
from batch_pipeline.records.identity import (
    custom_id_sql,
    hash_sql,
    key_hash_sql,
    same_content_sql,
    variant_sql,
)
from batch_pipeline.records.reading import source_columns

ALL_TYPES = """
    SELECT 42 AS i, 9007199254740993::BIGINT AS b, 1.50::DECIMAL(10,2) AS d, 0.1::DOUBLE AS f,
           true AS t, 'Grüße' AS s, '\\xAA\\x00'::BLOB AS x, DATE '2024-02-29' AS day,
           TIMESTAMP '2024-02-29 12:30:00.123456' AS ts,
           TIMESTAMPTZ '2024-02-29 12:30:00+02' AS tz, TIME '01:02:03' AS tm,
           INTERVAL '3 days' AS iv, '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::UUID AS u,
           [1, NULL, 3] AS l, {'a': 'x', 'b': [DATE '2024-01-01']} AS st, MAP {'k': 1} AS m,
           'v'::ENUM ('v', 'w') AS e, NULL::VARCHAR AS n, '{"a": 1}'::JSON AS j
"""
GOLDEN = {
    "i": "c34851a1-3ede-4831-21c5-d6d305272df1",
    "b": "9f02cdc3-da40-ef30-c002-6eeb728cfdf5",
    "d": "88f2b1bb-873a-4d36-e908-2d24b1632b2e",
    "f": "73fd579f-2ea7-0dee-8b50-ca2ff1b6b5bb",
    "t": "b8c07e29-1179-589a-4914-885f5ec5d3ad",
    "s": "218f813f-ae45-e5e3-2eb2-ba19dc2259b8",
    "x": "cb313928-88b0-a889-bde6-2769dbe967cf",
    "day": "54543e69-581a-da2e-23ad-715f393c2271",
    "ts": "7e990fd1-d62f-08a2-8bd4-90c881f6f036",
    "tz": "963a7070-e783-794f-1622-f54a7eaeb7c6",
    "tm": "825e5cbd-4b23-1363-5a62-d9a1859b09a5",
    "iv": "50f44860-b1a9-4f0a-6c32-29df601c8c4b",
    "u": "2d454002-1ad8-b0d9-17c6-a478422aaa94",
    "l": "8836b11b-9377-aae0-6f6e-3ade96496b93",
    "st": "289d207c-b46a-2d0e-ed78-c9d0926adc70",
    "m": "d56b473f-206d-227e-39ef-39e7fab6a633",
    "e": "1a5a1d8e-6a80-c32a-e34e-7bb367fb498f",
    "n": "d611c181-ac28-1b6f-4494-497fdf5953c6",
    "j": "0657bff9-1dd2-99bc-1a5d-794eaf4f9178",
}


def one(con: duckdb.DuckDBPyConnection, sql: str) -> object:
    row = con.execute(sql).fetchone()
    assert row is not None
    return row[0]


def hashes(query: str, columns: list[str]) -> list[uuid.UUID]:
    with memory_connection() as con:
        con.execute(f"CREATE TEMP VIEW source AS {query}")
        sql = hash_sql(columns, source_columns(con))
        return [row[0] for row in con.execute(f"SELECT {sql} FROM source").fetchall()]


def test_golden_hash_of_each_type() -> None:
    found = {}
    with memory_connection() as con:
        con.execute(f"CREATE TEMP VIEW source AS {ALL_TYPES}")
        types = source_columns(con)
        for column in types:
            found[column] = str(one(con, f"SELECT {hash_sql([column], types)} FROM source"))
    assert found == GOLDEN


def test_the_hash_is_sha256_over_length_prefixed_names_and_values() -> None:
    text = "2:idV2:425:GrüßeN".replace("5:Grüße", f"{len('Grüße'.encode())}:Grüße")
    expected = uuid.UUID(hashlib.sha256(text.encode()).hexdigest()[:32])
    assert hashes('SELECT 42 AS id, NULL AS "Grüße"', ["id", "Grüße"]) == [expected]


def test_values_that_run_together_differ() -> None:
    found = hashes(
        "SELECT * FROM (VALUES ('ab', 'c'), ('a', 'bc'), ('', NULL), (NULL, ''), ('N', 'N'))"
        " AS v(a, b)",
        ["a", "b"],
    )
    assert len(set(found)) == 5


def test_nested_values_that_print_alike_differ() -> None:
    found = hashes("SELECT * FROM (VALUES (['a, b']), (['a', 'b'])) AS v(a)", ["a"])
    assert len(set(found)) == 2


def test_an_integer_column_that_grows_keeps_its_hashes() -> None:
    assert hashes("SELECT 7::INTEGER AS a", ["a"]) == hashes("SELECT 7::BIGINT AS a", ["a"])


def test_a_time_stamp_hashes_alike_whatever_zone_it_was_written_in() -> None:
    first = hashes("SELECT TIMESTAMPTZ '2024-01-01 12:00:00+02' AS a", ["a"])
    assert first == hashes("SELECT TIMESTAMPTZ '2024-01-01 10:00:00+00' AS a", ["a"])


def custom_id(key: str, keys: int = 1) -> str:
    with memory_connection() as con:
        con.execute(f"CREATE TEMP VIEW source AS SELECT {key}")
        types = source_columns(con)
        variant = variant_sql(key_hash_sql(list(types), types), "uuid '" + "0" * 32 + "'", "v1")
        texts = [f'CAST(source."{name}" AS VARCHAR)' for name in types]
        return str(one(con, f"SELECT {custom_id_sql('abcdef01', variant, '2', texts)} FROM source"))


def test_a_custom_id_carries_the_key_where_it_fits() -> None:
    assert custom_id("'INV-7' AS id") == "abcdef01-3bf6fb6f596f3d37-2-INV-7"
    assert custom_id("7 AS a, 'x_y' AS b").endswith("-2-7_x_y")


def test_a_custom_id_leaves_out_a_key_it_cannot_carry() -> None:
    for key in ("'a b'", "'ü'", "''", "'" + "k" * 40 + "'", "'a' || chr(10)"):
        found = custom_id(f"{key} AS id")
        assert len(found) == len("abcdef01-0123456789abcdef-2"), key
        assert found.endswith("-2")


def test_a_custom_id_is_never_longer_than_the_limit() -> None:
    lengths = {len(custom_id(f"repeat('k', {n}) AS id")) for n in range(30, 40)}
    assert max(lengths) == 64


def test_a_small_edit_has_other_bits() -> None:
    """DuckDB's hash alone takes one in ten of these for the same."""
    with memory_connection() as con:
        con.execute(
            "CREATE TABLE texts AS SELECT n, md5(n::VARCHAR) AS word, upper(word) AS edited,"
            " concat(word[:7], edited[8], word[9:23], edited[24], word[25:]) AS text FROM range(3000) t(n)"
        )
        alone, kept, edits = con.execute(
            "SELECT count(*) FILTER (hash(a.text) = hash(b.text)), count(*) FILTER"
            f" ({same_content_sql(['text'], {'text': 'VARCHAR'}, 'a')}"
            f" = {same_content_sql(['text'], {'text': 'VARCHAR'}, 'b')}), count(*)"
            " FROM texts AS a JOIN (SELECT n, word AS text FROM texts) AS b USING (n)"
            " WHERE a.text <> b.text"
        ).fetchall()[0]
    assert edits > 1000 and kept == 0, (edits, alone)
