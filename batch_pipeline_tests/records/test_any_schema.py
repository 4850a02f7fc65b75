"""Schemas and values that nobody thought of: what is drawn comes back as it was, and is asked once."""

import re
import tempfile
from pathlib import Path

import duckdb
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from batch_pipeline import DuckDBTable, MessageTemplate, ParquetDataset
from batch_pipeline.records.columns import RESULT_COLUMNS, stored_type
from batch_pipeline.records.connections import (
    memory_connection,
    quote_files,
    quote_name,
    quote_text,
)
from batch_pipeline.records.reading import source_columns
from batch_pipeline.records.selection import IndexFile, select
from batch_pipeline.requests.build import Limits, build_requests
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline_tests.support.every_type import VIRTUAL
from batch_pipeline_tests.support.extent import extent

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAMES = st.one_of(st.sampled_from(VIRTUAL), TEXT.filter(bool))
# From 290309-12-22 (BC), DuckDB's first moment: make_timestamp takes earlier ones, which nothing prints.
MICROSECONDS = st.integers(-9_223_372_022_400_000_000, 2**63 - 2)


def _text(value: str) -> str:
    return quote_text(value)


def _number(least: int, most: int) -> st.SearchStrategy[str]:
    edges = st.sampled_from([least, most, 0, 1, -1]).filter(lambda n: least <= n <= most)
    return st.one_of(edges, st.integers(least, most)).map(lambda n: f"'{n}'")


LEAVES: dict[str, st.SearchStrategy[str]] = {
    "BOOLEAN": st.sampled_from(["true", "false"]),
    "INTEGER": _number(-(2**31), 2**31 - 1),
    "UBIGINT": _number(0, 2**64 - 1),
    "HUGEINT": _number(-(2**127), 2**127 - 1),
    "UHUGEINT": _number(0, 2**128 - 1),
    "BIGNUM": _number(-(10**80), 10**80),
    "DECIMAL(38,9)": _number(-(10**28), 10**28),
    "FLOAT": st.floats(width=32).map(lambda f: f"'{f}'"),
    "DOUBLE": st.floats().map(lambda f: f"'{f}'"),
    "VARCHAR": TEXT.map(_text),
    "BLOB": st.binary(max_size=8).map(lambda b: f"from_hex('{b.hex()}')"),
    "BIT": st.text("01", min_size=1, max_size=20).map(_text),
    "UUID": st.uuids().map(lambda u: f"'{u}'"),
    "ENUM('a', '', 'b c')": st.sampled_from(["'a'", "''", "'b c'"]),
    "DATE": st.one_of(
        st.sampled_from(["'infinity'", "'-infinity'"]),
        st.integers(-700_000_000, 700_000_000).map(lambda n: f"DATE '1970-01-01' + {n}::INTEGER"),
    ),
    "TIMESTAMP": st.one_of(
        st.sampled_from(["'infinity'", "'-infinity'"]),
        MICROSECONDS.map(lambda n: f"make_timestamp({n}::BIGINT)"),
    ),
    "TIMESTAMPTZ": st.one_of(
        st.sampled_from(["'infinity'", "'-infinity'"]),
        MICROSECONDS.map(lambda n: f"make_timestamp({n}::BIGINT)"),
    ),
    "TIMESTAMP_NS": st.one_of(
        st.sampled_from(["'infinity'", "'-infinity'"]),
        st.integers(-(2**62), 2**62).map(lambda n: f"make_timestamp_ns({n}::BIGINT)"),
    ),
    "TIME": st.integers(0, 86_400_000_000).map(lambda n: f"TIME '00:00' + to_microseconds({n})"),
    "TIMETZ": st.tuples(st.times(), st.integers(-15, 15)).map(lambda t: f"'{t[0]}{t[1]:+03d}'"),
    "INTERVAL": st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2, st.integers(-(2**60), 2**60)).map(
        lambda i: f"to_months({i[0]}) + to_days({i[1]}) + to_microseconds({i[2]})"
    ),
    "UNION(n INTEGER, s VARCHAR)": st.one_of(
        st.integers(-9, 9).map(lambda n: f"union_value(n := {n})"),
        TEXT.map(lambda t: f"union_value(s := {_text(t)})"),
    ),
    "VARIANT": st.one_of(st.integers(-9, 9).map(str), TEXT.map(_text), st.just("[1, 'x']")),
}  # fmt: skip
Typed = tuple[str, st.SearchStrategy[str]]


def _cast(typed: Typed) -> st.SearchStrategy[str]:
    kind, values = typed
    return st.one_of(values, values, st.just("NULL")).map(lambda sql: f"CAST({sql} AS {kind})")


def _list(inner: Typed) -> Typed:
    lists = st.lists(_cast(inner), max_size=3).map(lambda items: f"[{', '.join(items)}]")
    return f"{inner[0]}[]", lists


def _struct(fields: list[tuple[str, Typed]]) -> Typed:
    kind = ", ".join(f"{quote_name(name)} {inner[0]}" for name, inner in fields)
    values = st.tuples(*[_cast(inner) for _, inner in fields])
    return f"STRUCT({kind})", values.map(lambda items: f"row({', '.join(items)})")


def _map(inner: tuple[Typed, Typed]) -> Typed:
    (key, keys), (value, _) = inner
    entries = st.lists(
        st.tuples(keys, _cast(inner[1])), max_size=2, unique_by=lambda entry: entry[0]
    )
    return f"MAP({key}, {value})", entries.map(
        lambda found: (
            f"MAP([{', '.join(f'CAST({k} AS {key})' for k, _ in found)}],"
            f" [{', '.join(v for _, v in found)}])"
        )
    )


TYPES: st.SearchStrategy[Typed] = st.recursive(
    st.sampled_from(sorted(LEAVES)).map(lambda kind: (kind, LEAVES[kind])),
    lambda inner: st.one_of(
        inner.map(_list),
        st.lists(
            st.tuples(NAMES, inner),
            min_size=1,
            max_size=3,
            unique_by=lambda field: field[0].lower(),
        ).map(_struct),
        st.tuples(inner, inner).map(_map),
    ),
    max_leaves=4,
)


@settings(
    max_examples=extent(10, 2_000),
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
@given(st.data())
def test_what_is_drawn_comes_back_as_it_was_and_is_asked_once(data: st.DataObject) -> None:
    reserved = {"_status", "_custom_id", "id"}
    names = data.draw(
        st.lists(NAMES, min_size=1, max_size=5, unique_by=str.lower).filter(
            lambda found: not reserved & {name.lower() for name in found}
        )
    )
    kinds = [data.draw(TYPES) for _ in names]
    rows = data.draw(st.integers(1, 3))
    values = [[data.draw(_cast(kind)) for kind in kinds] for _ in range(rows)]
    with memory_connection() as con, tempfile.TemporaryDirectory() as folder:
        selects = (
            f"SELECT {place} AS id, "
            + ", ".join(f"{sql} AS {quote_name(n)}" for sql, n in zip(row, names, strict=True))
            for place, row in enumerate(values)
        )
        try:
            con.execute(f"CREATE TEMP TABLE drawn AS {' UNION ALL '.join(selects)}")
        except duckdb.Error:  # what DuckDB itself cannot make, such as a map with a key twice
            assume(False)
        con.execute("CREATE TEMP VIEW source AS SELECT * FROM drawn")
        night(con, Path(folder), names)


def night(con: duckdb.DuckDBPyConnection, folder: Path, names: list[str]) -> None:
    """Select, build, merge into both destinations, and select again."""
    texts = ", ".join(f"CAST({quote_name(name)} AS VARCHAR)" for name in names)
    kinds = source_columns(con)
    # Of text in a list or struct DuckDB prints quotes, of text in a UNION there it does not.
    alike = ", ".join(
        f"CAST(CAST({quote_name(name)} AS {stored_type(kinds[name], True)}) AS VARCHAR)"
        if re.search("UNION|VARIANT", kinds[name])
        else f"CAST({quote_name(name)} AS VARCHAR)"
        for name in names
    )
    said = con.execute(f"SELECT {alike} FROM source ORDER BY id").fetchall()
    columns = source_columns(con)
    template = compile_question(
        MessageTemplate(model="claude-haiku-4-5", max_tokens=5, prompt="{{ record }} {{ id }}"),
        columns,
    )
    # The key is every column that has a value everywhere.
    keys = ["id"] + [
        name for place, name in enumerate(names) if all(row[place] is not None for row in said)
    ]
    options = {
        "keys": keys,
        "content_columns": template.columns,
        "version": "v",
        "ledger_id": "0" * 8,
    }
    first = select(con, index=[], out_dir=f"{folder}/1", **options)
    assert first.asked == len(said) and first.records_path and first.index_path
    built = build_requests(first.records_path, template, Limits(100, 10_000_000), f"{folder}/r")
    assert (built.requests, built.rejected) == (len(said), 0)
    records = f"read_parquet({quote_files([first.records_path])})"
    extra = ", ".join(
        f"CAST({'_custom_id' if name == '_custom_id' else 'NULL'} AS {kind}) AS {name}"
        for name, kind in RESULT_COLUMNS.items()
    )
    helpers = "_row, _kind, _reason, _key_hash, _content_hash, _custom_id, _attempt"
    rows = f"{folder}/rows.parquet"
    con.execute(
        f"COPY (SELECT * EXCLUDE ({helpers}), {extra} FROM {records}) TO '{rows}' (FORMAT parquet)"
    )
    for destination in (
        DuckDBTable(database=f"{folder}/out.duckdb", table="t"),
        ParquetDataset(path=f"{folder}/out"),
    ):
        for _ in range(2):  # a second time each row replaces itself
            assert destination.merge(rows, keys, None).total == len(said)
        with memory_connection() as reader:
            came = reader.execute(
                f"SELECT {texts} FROM {destination.relation(reader)} ORDER BY id"
            ).fetchall()
        assert came == said
    index = [IndexFile(first.index_path, 1, "")]
    again = select(con, index=index, out_dir=f"{folder}/2", **options)
    assert (again.asked, again.in_flight) == (0, len(said))
