"""What stands in a record, a name or a reply is data: never a template, SQL, a path or markup."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
    StoreError,
)
from batch_pipeline.definitions.metadata import DAGSTERS_KEYS, of_requests, of_results
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import quote_name
from batch_pipeline.records.reading import open_source
from batch_pipeline.requests.compiled import RecordRejected, compile_question
from batch_pipeline.requests.prepare import Prepared
from batch_pipeline.results.publish import Published
from batch_pipeline.store.clock import going_by
from batch_pipeline.store.files import Files
from batch_pipeline.store.layout import safe_part
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights

MARK = "bp-mark"
DESCRIPTION = f"{MARK} {{{{ k }}}} <img src=x> [x](http://x)"
VALUES = [
    "{{ 7 * 7 }} {% for x in range(9) %}{{ x }}{% endfor %} {# gone #}",
    "{{ ''.__class__.__mro__ }} {0.__class__} %(k)s %s",
    '\'; drop table "t""; --"; --',
    '"; drop table answers; --',
    "$missing $batch_id {source} {output} :x ? \\",
    "../../../../etc/passwd",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "![x](http://127.0.0.1:9/x) [y](javascript:alert(1)) | a | ` ``` # h",
    "a\nb\r\nc\td \x1b[31m\x07",
    "é\u202e\ufeff😀 ${jndi:ldap://x} =cmd|'/C calc'!A0",
    "NULL",
    "",
]
COLUMNS = [
    "{{ k }}",
    'a"; drop table "t""; --"; --',
    "b'); drop table answers; --",
    "{source}",
    "$missing",
    "../up",
    "__class__",
    "<img src=x>",
    "two\nlines",
    "self",
    "?",
    "\\",
]
TABLE, ANSWERS, KEY_COLUMN = 't"; --', 'answers"; drop table "t""; --"; --', "key'; --"
PARTS = ["one'; drop table answers; --", 'two"/../../up']
OUTPUT = {
    "type": "object",
    "properties": {
        "o'; drop table answers; --": {"type": "string", "description": DESCRIPTION},
        '{x} $missing "q': {"type": "string"},
        "__enum__": {"type": "string"},
    },
    "required": ["o'; drop table answers; --", '{x} $missing "q', "__enum__"],
    "additionalProperties": False,
}


@pytest.fixture
def clock() -> Iterator[HandClock]:
    """The process's clock, moved by hand."""
    with going_by(HandClock()) as clock:
        yield clock


@pytest.fixture
def warehouse(tmp_path: Path) -> str:
    """A table whose names and values are made to break out of wherever they stand."""
    path = str(tmp_path / "warehouse.duckdb")
    with duckdb.connect(path) as connection:
        columns = ", ".join(
            f"{quote_name(name)} varchar" for name in [KEY_COLUMN, "part", *COLUMNS]
        )
        connection.execute(f"create table {quote_name(TABLE)} ({columns})")
        for number, value in enumerate(VALUES):
            row = [f"{value} {MARK} {number}", PARTS[number % 2], *[value + MARK] * len(COLUMNS)]
            marks = ", ".join("?" * len(row))
            connection.execute(f"insert into {quote_name(TABLE)} values ({marks})", row)
    return path


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def nights(emulator: EmulatorProcess, tmp_path: Path, source: Any, **fields: Any) -> Nights:
    prompt = "\n".join(f"{{{{ record[{json.dumps(name)}] }}}}" for name in COLUMNS)
    template = {"prompt": prompt, "output": OUTPUT, **fields.pop("template", {})}
    return Nights(
        BatchPipeline(
            name="hostile",
            source=source,
            request=MessageTemplate(model="claude-haiku-4-5", max_tokens=300, **template),
            **fields,
        ),
        ClaudeBatches(api_key="test-key", base_url=emulator.base_url),
        BatchStore(root=str(tmp_path / "store")),
    )


@pytest.mark.parametrize("kind", ["table", "dataset"])
def test_values_and_names_stay_what_they_are_all_the_way(
    kind: str, claude_emulator: EmulatorProcess, tmp_path: Path, warehouse: str, clock: HandClock
) -> None:
    run = nights(
        claude_emulator,
        tmp_path,
        DuckDBSource(database=warehouse, table=TABLE, key=KEY_COLUMN),
        destination=DuckDBTable(database=warehouse, table=ANSWERS)
        if kind == "table"
        else ParquetDataset(path=str(tmp_path / "out'; --")),
        partitions=dg.StaticPartitionsDefinition(PARTS),
        partition_column="part",
        on_deleted="drop",
    )
    for part in PARTS:
        run.submit(part)
    run.until_quiet()
    rows = run.rows()
    assert set(rows) == {f"{value} {MARK} {number}" for number, value in enumerate(VALUES)}
    for number, value in enumerate(VALUES):
        row = rows[f"{value} {MARK} {number}"]
        assert row["_status"] == "answered" and row["part"] == PARTS[number % 2]
        assert {row[name] for name in COLUMNS} == {value + MARK}
        assert all(isinstance(row[name], str) for name in OUTPUT["required"])
    asked = [
        request["params"]["messages"][0]["content"]
        for batch in claude_emulator.batches()
        for request in claude_emulator.requests(batch["id"])
    ]
    assert sorted(asked) == sorted("\n".join([value + MARK] * len(COLUMNS)) for value in VALUES)
    # Another look finds nothing to ask; a key that left its partition is dropped, and no other.
    with duckdb.connect(warehouse) as connection:
        gone = f"delete from {quote_name(TABLE)} where {quote_name(KEY_COLUMN)} like '%{MARK} 3'"
        connection.execute(gone)
    for part in PARTS:
        run.submit(part)
    run.until_quiet()
    assert len(run.rows()) == len(VALUES) - 1
    assert claude_emulator.bill()["requests"] == len(VALUES)
    with duckdb.connect(warehouse) as connection:
        tables = connection.execute(
            "select table_name from duckdb_tables() where schema_name <> '_batch_pipeline' order by 1"
        ).fetchall()
    assert tables == [(ANSWERS,), (TABLE,)] if kind == "table" else [(TABLE,)]
    outside = {name.split("/")[0] for name in files_below(tmp_path)}
    assert outside <= {"warehouse.duckdb", "store", "out'; --"}


PLAIN = (
    dg.TextMetadataValue,
    dg.IntMetadataValue,
    dg.FloatMetadataValue,
    dg.JsonMetadataValue,
    dg.TableMetadataValue,
    dg.TableSchemaMetadataValue,
    dg.TableColumnLineageMetadataValue,
)
"""Metadata that the UI shows as it stands; Markdown, links, paths and notebooks are not among them."""


def markdown(run: Nights) -> list[str]:
    """The texts of a pipeline's runs that Dagster's UI reads as Markdown: its descriptions and reports."""
    nodes = run.definitions.get_repository_def().asset_graph.asset_nodes
    texts = [node.description for node in nodes]
    events: list[Any] = []
    for key in (node.key for node in nodes):
        for fetch in (run.instance.fetch_materializations, run.instance.fetch_observations):
            entries = [record.event_log_entry for record in fetch(key, 50).records]
            events += [e.asset_materialization or e.asset_observation for e in entries]
    for event in events:
        marked = [v for v in event.metadata.values() if isinstance(v, dg.MarkdownMetadataValue)]
        texts += [str(value.md_str) for value in marked]
        assert {type(value) for value in event.metadata.values()} <= {*PLAIN, *map(type, marked)}
        texts.append(event.description)
        if schema := event.metadata.get("dagster/column_schema"):
            texts += [column.description for column in schema.value.columns]
    for one in run.instance.get_runs():
        for entry in run.instance.all_logs(one.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            evaluation = entry.get_dagster_event().asset_check_evaluation_data
            assert {type(value) for value in evaluation.metadata.values()} <= set(PLAIN)
            texts.append(evaluation.description)
    return [text for text in texts if text]


def test_no_value_is_read_as_markup_by_the_ui(
    claude_emulator: EmulatorProcess, tmp_path: Path, warehouse: str, clock: HandClock
) -> None:
    source = DuckDBSource(database=warehouse, table=TABLE, key=KEY_COLUMN)
    run = nights(claude_emulator, tmp_path, source)
    run.night()
    for result in run.ticks:
        for event in result.asset_events:
            run.instance.report_runless_asset_event(event)
    texts = markdown(run)
    for part in ("One row per record", "Every record has exactly one row", "1 of 1 batch ended"):
        assert any(part in text for text in texts), texts
    # A field's description is the code's own, and reads as it stands.
    texts.remove(r"bp-mark {{ k }} \<img src=x> \[x\](http://x)")
    # The first request stands in fences that nothing in it can close.
    (request,) = [text for text in texts if text.startswith("claude-haiku-4-5, at most ")]
    texts.remove(request)
    fences = re.findall(r"^(`{3,})text\n(.*?)\n\1$", request, re.DOTALL | re.MULTILINE)
    assert fences and all(fence not in inner for fence, inner in fences)
    outside = re.sub(r"^(`{3,})text\n.*?\n\1$", "", request, flags=re.DOTALL | re.MULTILINE)
    assert outside.split() == "claude-haiku-4-5, at most 300 tokens **user**".split()
    assert not [text for text in texts if MARK in text or "<" in text or "](" in text]
    # The values are there all the same: in tables and JSON, which the UI shows as text.
    event = run.instance.get_latest_materialization_event(run.pipeline.asset_key("results"))
    assert event is not None and event.asset_materialization is not None
    sample = event.asset_materialization.metadata["sample"]
    assert isinstance(sample, dg.TableMetadataValue)
    shown = {value for record in sample.records for value in record.data.values()}
    assert any(MARK in str(value) for value in shown)
    assert {"'__class__'", "'__enum__'", "<img src=x>"} <= set(sample.records[0].data)
    assert run.metadata("requests")["sample_requests"][0]["messages"][0]["content"].count(MARK)


def test_names_that_mean_something_to_dagsters_event_log_do_not_reach_it() -> None:
    """An event with such a dictionary would be read back as an object, or not at all."""
    import pyarrow as pa

    sample = pa.table({name: ["JobRunRequest.X"] for name in DAGSTERS_KEYS})
    request = {"tools": [{"input_schema": {"properties": {name: {} for name in DAGSTERS_KEYS}}}]}
    metadata = of_results(
        [], Published(), "a table", [(n, "VARCHAR") for n in DAGSTERS_KEYS], 1, sample
    )
    metadata |= of_requests([Prepared(samples=[request])])
    event = dg.AssetMaterialization("a", metadata=metadata)
    read: Any = dg.deserialize_value(dg.serialize_value(event), dg.AssetMaterialization)
    assert read == event
    assert set(read.metadata["sample"].records[0].data) == {f"'{name}'" for name in DAGSTERS_KEYS}


VALUE = {"s": "{0.__class__.__mro__}", "other": "x", "n": None, "d": {"a": [1]}, "l": [1]}


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ s.format(other) }}",
        "{{ s.__class__ }}",
        "{{ d.__class__.__base__.__subclasses__() }}",
        "{{ record | attr('__class__') }}{{ s }}",
        "{{ s | attr('__init__') }}",
        "{{ n.__class__.__init__.__globals__ }}",
        "{{ l.append(s) }}",
        "{{ d.update({'a': s}) }}",
        "{% include s %}",
        "{% import s as m %}",
        "{{ self.__init__.__globals__ }}{{ s }}",
        "{{ cycler.__init__.__globals__ }}{{ s }}",
    ],
)
def test_no_value_leads_a_template_out_of_its_record(prompt: str) -> None:
    before = json.dumps(VALUE)
    refusals = (RecordRejected, InputError)  # of the record, or of the template as it is declared
    with pytest.raises(refusals, match=r"unsafe|no loader|empty|reads another file"):
        asked = MessageTemplate(model="claude-haiku-4-5", max_tokens=1, prompt=prompt)
        compile_question(asked, dict.fromkeys(VALUE, "VARCHAR")).params(VALUE)
    assert json.dumps(VALUE) == before


def test_null_looks_like_none_where_python_shows_it() -> None:
    asked = MessageTemplate(model="claude-haiku-4-5", max_tokens=1, prompt="{{ record | pprint }}")
    content = compile_question(asked, {"a": "VARCHAR"}).params({"a": None})["messages"][0][
        "content"
    ]
    assert content == "{'a': None}"


NO_NAMES = [
    "",
    "/",
    "/etc/passwd",
    "../secret",
    "p/../../secret",
    "p/..",
    "p/./x",
    "p//x",
    "p/",
    "p/x\n",
    "p/\0",
    "..\\secret",
    "C:\\x",
    "p/*",
    "p/[a]",
    "p/x?y",
    "p/x#y",
    "s3://bucket/x",
    "p/%2e%2e/x",
    "p/é",
]


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_no_name_leads_out_of_the_store(where: str, tmp_path: Path) -> None:
    files = Files(str(tmp_path / "store") if where == "disk" else "memory://hostile/store")
    files.prepare()
    (tmp_path / "secret").write_text("keep out")
    files.filesystem.pipe_file(f"{files.base}/../secret", b"keep out")
    local = tmp_path / "mine"
    methods: list[Callable[[str], Any]] = [
        files.url,
        files.exists,
        files.size,
        files.open,
        files.remove,
        lambda name: files.put(str(local), name),
        lambda name: files.local(name).__enter__(),
    ]
    for name in NO_NAMES:
        for method in methods:
            local.write_text("mine")
            with pytest.raises(StoreError, match="is no name of a file in the store"):
                method(name)
    assert (tmp_path / "secret").read_text() == "keep out"
    assert files_below(tmp_path) == {"mine", "secret"}
    files.put(str(local), "p/20260301T000000-ab12/answers/00000-sha256.9c-ab.jsonl")
    assert files.names("") == {"p/20260301T000000-ab12/answers/00000-sha256.9c-ab.jsonl"}
    # What others put there is theirs.
    files.filesystem.pipe_file(f"{files.base}/p/[a]*.txt", b"theirs")
    assert len(files.names("p")) == 1


def test_a_root_that_duckdb_would_take_for_a_pattern_is_refused(tmp_path: Path) -> None:
    for root in ("data[1]", "data*", "a/d?ta"):
        with pytest.raises(StoreError, match=r"DuckDB reads as a pattern.*BatchStore\(root="):
            BatchStore(root=str(tmp_path / root)).open()
    BatchStore(root=str(tmp_path / "a b's {c} 50%#(d)")).open()


def test_a_part_of_a_name_is_the_text_or_stands_for_it() -> None:
    for text in ("msgbatch_01AbC-9", "a", "x" * 100):
        assert safe_part(text) == text
    odd = [
        "",
        ".",
        "..",
        "../../x",
        "a/b",
        "a b",
        "a\n",
        "é",
        "\ud800",
        "a.b",
        "x" * 101,
        "x" * 10_000,
    ]
    parts = [safe_part(text) for text in odd]
    assert parts == [safe_part(text) for text in odd]
    assert len({*parts, *odd}) == 2 * len(odd)
    for part in parts:
        assert len(part) == 39 and part.startswith("sha256.") and part[7:].isalnum()


@pytest.mark.parametrize("hostile", ["x" * 3_000, "a b;'\"$(touch up)", "-rf"])
def test_a_batch_id_of_any_form_names_no_file_as_it_stands(
    hostile: str, claude_emulator: EmulatorProcess, tmp_path: Path, clock: HandClock
) -> None:
    """The server says which id a batch has: here it says what no server should."""
    duckdb.connect(str(tmp_path / "w.duckdb")).execute(
        "create table t as select i as k, 'text' as s from range(3) as r (i)"
    ).close()
    source = DuckDBSource(database=str(tmp_path / "w.duckdb"), table="t", key="k")
    template = {"prompt": "{{ s }} {{ k }}", "output": None}
    run = nights(claude_emulator, tmp_path, source, template=template)
    lie = {"fields": {"id": hostile}, "times": None}
    claude_emulator.fault("create", "change_fields", **lie)
    run.submit()
    (batch,) = claude_emulator.batches()
    now = {**batch, "id": hostile, "processing_status": "ended", "results_url": "/x"}
    now["request_counts"] = {
        "processing": 0,
        "succeeded": 3,
        "errored": 0,
        "canceled": 0,
        "expired": 0,
    }
    lines = [
        json.dumps({"custom_id": request["custom_id"], "result": {"type": "canceled"}})
        for request in claude_emulator.requests(batch["id"])
    ]
    page = {"data": [now], "has_more": False, "first_id": hostile, "last_id": hostile}
    for call, body in (
        ("list", json.dumps(page)),
        ("retrieve", json.dumps(now)),
        ("results", "\n".join(lines)),
    ):
        claude_emulator.fault(call, "replace_body", body=body, times=None)
    run.tick()
    run.collect()
    assert [row["_status"] for row in run.rows().values()] == ["canceled"] * 3
    written = files_below(tmp_path)
    assert {name.split("/")[0] for name in written} == {"store", "w.duckdb"}
    (answers,) = [name for name in written if "/answers/" in name]
    assert safe_part(hostile) in answers and max(map(len, answers.split("/"))) <= 110


def test_source_files_are_read_by_their_names_and_not_by_patterns(tmp_path: Path) -> None:
    names = ["a1.parquet", "a[1].parquet", "*.parquet", "q?.parquet", "it's; --.parquet"]
    for number, name in enumerate(names):
        plain = tmp_path / "made"
        with duckdb.connect() as connection:
            connection.execute(f"copy (select {number} as k) to '{plain}' (format parquet)")
        (tmp_path / "lake").mkdir(exist_ok=True)
        plain.rename(tmp_path / "lake" / name)
    with open_source(ParquetSource(path=str(tmp_path / "lake"), key="k")) as connection:
        found = connection.execute("select k from source order by k").fetchall()
    assert found == [(number,) for number in range(len(names))]
