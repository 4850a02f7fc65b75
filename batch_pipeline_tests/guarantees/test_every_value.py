"""Every type and every name, as key, in the prompt and carried along: the same value comes back, and the
next night asks nothing."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    InputError,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
)
from batch_pipeline.definitions.rows import Rows, destination_of
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.records.connections import memory_connection, quote_name, quote_text
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.every_type import EVERY_TYPE, VIRTUAL, Value
from batch_pipeline_tests.support.stage_calls import PlayedNights

ROWS = max(map(len, EVERY_TYPE.values())) + 1  # the last has no value at all in what is no key
ROLES = {"key": "k", "prompt": "p", "carried": "c"}


def value_of(kind: str, row: int) -> Value:
    values = EVERY_TYPE[kind]
    return values[row % len(values)]


def table_sql() -> str:
    """Rows of every type in every role: columns k0, k1, ..., p0, p1, ..., c0, c1, ..."""
    rows = []
    for row in range(ROWS):
        columns = [f"{row} AS id"]
        for place, kind in enumerate(EVERY_TYPE):
            for role in ROLES.values():
                is_null = row == ROWS - 1 and role != "k"
                sql = "NULL" if is_null else value_of(kind, row).sql
                columns.append(f"CAST({sql} AS {kind}) AS {role}{place}")
        rows.append(f"SELECT {', '.join(columns)}")
    return " UNION ALL ".join(rows)


def texts(relation: str, *before: str) -> dict[int, dict[str, str | None]]:
    """What DuckDB prints for each value of a relation, by the row's id."""
    with memory_connection() as con:
        for statement in before:
            con.execute(statement)
        found = con.execute(f"SELECT id, CAST(COLUMNS(* EXCLUDE (id)) AS VARCHAR) FROM {relation}")
        names = [column[0] for column in found.description or ()]
        return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in found.fetchall()}


def night(
    source: DuckDBSource | ParquetSource,
    destination: DuckDBTable | ParquetDataset,
    emulator: EmulatorProcess,
    tmp_path: Path,
    **request: Any,
) -> Nights:
    """A whole night, and a second submit run."""
    run = PlayedNights(
        BatchPipeline(
            name="every",
            source=source,
            request=MessageTemplate(model="claude-haiku-4-5", max_tokens=4_000, **request),
            destination=destination,
        ),
        ClaudeBatches(api_key="any", base_url=emulator.base_url),
        BatchStore(root=str(tmp_path / "store")),
    )
    run.submit()
    run.collect()
    paid = emulator.bill()["requests"]
    run.submit()
    assert run.metadata("records")["asked"] == 0
    assert emulator.bill()["requests"] == paid
    return run


def result_texts(run: Nights) -> dict[int, dict[str, str | None]]:
    destination = destination_of(run.pipeline, run.store.open())
    with memory_connection() as con:
        rows = destination.relation(con)
        found = con.execute(f"SELECT id, CAST(COLUMNS(* EXCLUDE (id)) AS VARCHAR) FROM {rows}")
        names = [column[0] for column in found.description or ()]
        return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in found.fetchall()}


@pytest.mark.parametrize("into", ["duckdb", "parquet"])
@pytest.mark.parametrize("out_of", ["duckdb", "parquet"])
def test_a_value_of_every_type_comes_back_as_it_was(
    out_of: str, into: str, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    keys = [f"k{place}" for place in range(len(EVERY_TYPE))]
    warehouse, file = str(tmp_path / "warehouse.duckdb"), str(tmp_path / "in.parquet")
    source: DuckDBSource | ParquetSource
    with memory_connection() as con:
        con.execute(f"ATTACH {quote_text(warehouse)} AS warehouse (STORAGE_VERSION 'latest')")
        con.execute(f"CREATE TABLE warehouse.t AS {table_sql()}")
        if out_of == "duckdb":
            source = DuckDBSource(database=warehouse, table="t", key=keys)
        else:
            # As another program would write it: what Parquet has no type for is no type there.
            casts = ", ".join(
                f"CAST({role}{place} AS VARCHAR) AS {role}{place}"
                for place, kind in enumerate(EVERY_TYPE)
                for role in ROLES.values()
                if kind in ("INTERVAL", "VARIANT[]", "INTERVAL[]") or "'-1 day'" in EVERY_TYPE[kind][0].sql
            )  # fmt: skip
            con.execute(f"COPY (SELECT * REPLACE ({casts}) FROM warehouse.t) TO {quote_text(file)}")
            source = ParquetSource(path=file, key=keys)
    said = (
        texts("w.t", f"ATTACH {quote_text(warehouse)} AS w (READ_ONLY)")
        if out_of == "duckdb"
        else texts(f"read_parquet({quote_text(file)})")
    )
    prompt = "\n".join(f"{place}=[{{{{ p{place} }}}}]\x1f" for place in range(len(EVERY_TYPE)))
    run = night(
        source,
        DuckDBTable(database=str(tmp_path / "out.duckdb"), table="answers")
        if into == "duckdb"
        else ParquetDataset(path=str(tmp_path / "out")),
        claude_emulator,
        tmp_path,
        prompt="{{ id }}\x1f\n" + prompt,
    )
    came = result_texts(run)
    assert came.keys() == said.keys()
    for row, values in said.items():
        assert came[row]["_status"] == "answered"
        wrong = {n: (v, came[row][n]) for n, v in values.items() if came[row][n] != v}
        assert not wrong, f"row {row}: {wrong}"
    if out_of == "duckdb":
        check_prompts(claude_emulator, said)


def check_prompts(emulator: EmulatorProcess, said: dict[int, dict[str, str | None]]) -> None:
    """Compare what was sent with what each value should print."""
    for batch in emulator.batches():
        for request in emulator.requests(batch["id"]):
            number, *printed = request["params"]["messages"][0]["content"].split("\x1f")
            row = int(number)
            for place, kind in enumerate(EVERY_TYPE):
                value = value_of(kind, row)
                text = value.printed if value.printed is not None else said[row][f"k{place}"]
                expected = "" if row == ROWS - 1 else text
                assert printed[place].lstrip("\n") == f"{place}=[{expected}]", kind


@pytest.mark.parametrize("into", ["duckdb", "parquet"])
def test_a_column_and_an_output_field_may_have_any_name(
    into: str, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    columns = ", ".join(
        f"'{place} ' || id AS {quote_name(name)}" for place, name in enumerate(VIRTUAL)
    )
    warehouse = str(tmp_path / "warehouse.duckdb")
    with duckdb.connect(warehouse) as con:
        con.execute(f"CREATE TABLE t AS SELECT id, {columns} FROM range(3) r(id)")
    fields = {f"o {name}": {"type": "string"} for name in VIRTUAL}
    output = {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }
    run = night(
        DuckDBSource(database=warehouse, table="t", key=["file_index", "rowid", "id", "a b"]),
        DuckDBTable(database=warehouse, table="answers")
        if into == "duckdb"
        else ParquetDataset(path=str(tmp_path / "out")),
        claude_emulator,
        tmp_path,
        prompt="".join(
            f"{{{{ record[{json.dumps(name, ensure_ascii=False)}] }}}}|" for name in VIRTUAL
        ),
        output=output,
    )
    rows = result_texts(run)
    assert sorted(rows) == [0, 1, 2]
    for row, values in rows.items():
        assert values["_status"] == "answered"
        assert [values[name] for name in VIRTUAL] == [
            f"{place} {row}" for place in range(len(VIRTUAL))
        ]
        assert all(values[name] is not None for name in fields)


def test_output_fields_may_have_the_names_of_virtual_columns(
    claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    warehouse = str(tmp_path / "warehouse.duckdb")
    with duckdb.connect(warehouse) as con:
        con.execute("CREATE TABLE t AS SELECT id, 'x' AS v FROM range(3) r(id)")
    names = [name for name in VIRTUAL if name not in ("_bp_x",)]
    fields = {name: {"type": "string"} for name in names}
    output = {
        "type": "object",
        "properties": fields,
        "required": names,
        "additionalProperties": False,
    }
    run = night(
        DuckDBSource(database=warehouse, table="t", key="id"),
        DuckDBTable(database=warehouse, table="answers"),
        claude_emulator,
        tmp_path,
        prompt="{{ v }}",
        output=output,
    )
    rows = result_texts(run)
    assert [rows[row]["_status"] for row in (0, 1, 2)] == ["answered"] * 3
    assert all(rows[row][name] is not None for row in rows for name in names)


def test_a_store_and_a_dataset_may_lie_below_folders_that_look_like_values(
    claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    folder = tmp_path / "env=prod" / "v=1" / "a b#%"
    folder.mkdir(parents=True)
    warehouse = str(folder / "warehouse.duckdb")
    with duckdb.connect(warehouse) as con:
        con.execute("CREATE TABLE t AS SELECT id, 'x' || id AS v, 'dev' AS env FROM range(3) r(id)")
    run = night(
        DuckDBSource(database=warehouse, table="t", key=["id", "env"]),
        ParquetDataset(path=str(folder / "out")),
        claude_emulator,
        folder,
        prompt="{{ v }} {{ env }}",
    )
    rows = result_texts(run)
    assert [(rows[row]["v"], rows[row]["env"]) for row in sorted(rows)] == [
        ("x0", "dev"), ("x1", "dev"), ("x2", "dev"),
    ]  # fmt: skip


def test_a_date_that_is_infinite_is_shown_kept_and_read_again(
    claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    warehouse = str(tmp_path / "warehouse.duckdb")
    with duckdb.connect(warehouse) as con:
        con.execute(
            "CREATE TABLE t AS SELECT id, DATE 'infinity' AS day, 3.3::FLOAT AS n,"
            " INTERVAL '1 us' AS took FROM range(2) r(id)"
        )
    destination = DuckDBTable(database=warehouse, table="answers")
    source = DuckDBSource(database=warehouse, table="t", key="id")
    run = night(source, destination, claude_emulator, tmp_path, prompt="{{ id }} {{ day }}")
    shown = run.metadata("results")["sample"].records[0].data
    assert (shown["day"], shown["n"], shown["took"]) == ("infinity", 3.3, "00:00:00.000001")
    rows = Rows(destination, None, lambda _columns: None)
    assert rows.arrow().num_rows == 2
    with pytest.raises(InputError, match=r"infinite date.*pyarrow\.Table"):
        rows.pandas()
    assert len(Rows(destination, ["n"], lambda _columns: None).pandas()) == 2
