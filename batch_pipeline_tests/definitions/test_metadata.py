"""What the UI shows of a run: the same numbers under the same names, and rows that it can show."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from batch_pipeline.definitions.metadata import ALWAYS_THERE, SAMPLE_ROWS, SHOWN_CHARACTERS
from batch_pipeline.definitions.rows import destination_of
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.dagster_nights import Nights

STAGES = ("records", "requests", "batches", "results")


def numbers(run: Nights) -> dict[str, dict[str, type]]:
    """The numeric metadata of each stage's newest materialization: name to type."""
    return {
        stage: {
            name: type(value)
            for name, value in run.metadata(stage).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for stage in STAGES
    }


def values(run: Nights, stage: str) -> dict[str, dg.MetadataValue]:
    event = run.instance.get_latest_materialization_event(run.pipeline.asset_key(stage))
    assert event is not None and event.asset_materialization is not None
    return dict(event.asset_materialization.metadata)


def test_numbers_have_the_same_names_and_types_in_every_run(
    nights, claude_emulator: EmulatorProcess
) -> None:
    run = nights(claude={"max_batch_requests": 5})
    run.submit(limit=0)
    run.collect()
    nothing = numbers(run)
    claude_emulator.configure(rates={"errored": 0.5})
    run.submit(limit=8)
    run.collect()
    something = numbers(run)
    # What is seldom anything but 0 is there once it is not: a plot that never moves hides the others.
    seldom = set(something["results"]) - set(nothing["results"])
    assert seldom == {"errored"}
    assert set(nothing["results"]) == set(ALWAYS_THERE)
    assert nothing == something | {"results": nothing["results"]}
    assert something["results"] == something["results"] | nothing["results"]
    assert something["records"]["selected"] is int and something["results"]["cost_usd"] is float
    records, requests = run.metadata("records"), run.metadata("requests")
    assert records["asked"] == records["selected"] == records["new"] == 8
    assert records["source_rows"] == 300 and records["left_out"] == 292
    assert requests["requests"] == 8 and requests["files"] == 2 and requests["bytes"] > 1000
    assert requests["estimated_usd_at_most"] > 0
    batches, results = run.metadata("batches"), run.metadata("results")
    assert batches["batches"] == 2 and batches["files_waiting"] == 0
    assert results["answered"] + results["errored"] == 8 == results["rows_collected"]
    assert results["failed"] == results["errored"]
    assert f"| errored | {results['failed']} | {results['failed']} |" in results["statuses"]
    asked = requests["first_request"]
    assert asked.startswith("claude-haiku-4-5, at most 200 tokens") and "**user**" in asked
    assert results["rows_inserted"] == results["dagster/row_count"] == 8
    bill = claude_emulator.bill()
    assert results["input_tokens"] > 0 and abs(results["cost_usd"] - float(bill["usd"])) < 0.0001


def test_a_sample_of_rows_is_short_and_plain(nights, warehouse: Path) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "create table odd as select package, repeat('<b>&', 500) as summary, description,"
            " 'nan'::double as share, [1.5, 'inf'::double] as list, {'a': [1, 2]} as pair,"
            " 12345678901234567890123456789012345678::hugeint as huge, 1.10::decimal(9,2) as price,"
            " 'x'::blob as bytes, date '2026-03-01' as day, timestamptz '2026-03-01 12:00+00' as at,"
            " null as nothing, uuid() as id, interval '1 day' as span, true as flag"
            " from packages limit 30"
        )
    source = type(nights().pipeline.source)(database=str(warehouse), table="odd", key="package")
    run = nights({"prompt": "{{ summary }}"}, source=source)
    run.night()
    table = values(run, "results")["sample"]
    assert isinstance(table, dg.TableMetadataValue)
    assert len(table.records) == SAMPLE_ROWS
    for record in table.records:
        row = record.data
        json.dumps(row, allow_nan=False)  # what the UI's GraphQL can carry
        assert len(row["summary"]) == SHOWN_CHARACTERS and row["summary"].startswith("<b>&<b>&")
        assert row["share"] == "nan" and row["nothing"] is None and row["flag"] is True
        assert row["price"] == "1.10" and row["day"] == "2026-03-01"
    schema = values(run, "results")["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    columns = {column.name: column.type for column in schema.columns}
    assert list(columns)[:3] == ["package", "summary", "description"]
    assert columns["answer"] == "varchar" and columns["_cost_usd"] == "double"


def test_a_sample_that_cannot_be_shown_fails_no_run(nights, monkeypatch, caplog) -> None:
    def fails(_self: object, _rows: int) -> None:
        raise OverflowError("days=2147483647")

    run = nights()
    monkeypatch.setattr(type(destination_of(run.pipeline, run.store.open())), "sample", fails)
    run.night()
    assert "sample" not in run.metadata("results") and run.metadata("results")["answered"] > 0
    assert "is not shown" in caplog.text


def test_long_requests_are_cut_in_the_sample_and_sent_whole(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("update packages set summary = repeat('long ', 20000)")
    run = nights({"prompt": "{{ summary }}"}, dedupe=False)
    run.submit(limit=4)
    sample: Any = values(run, "requests")["sample_requests"].value
    assert len(sample) == 3
    text = json.dumps(sample[0]["messages"])
    assert len(text) < 5000 and "(100,000 characters)" in text
    assert sample[0]["model"] == "claude-haiku-4-5" and sample[0]["max_tokens"] == 200
    (batch,) = claude_emulator.batches()
    sent = claude_emulator.requests(batch["id"])
    assert all("long " * 20000 in json.dumps(request["params"]) for request in sent)


def test_what_was_sent_is_named_and_what_waits_says_why(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    run = nights(claude={"max_batch_requests": 4, "max_queued_requests": 5})
    run.submit(limit=6)
    metadata = values(run, "batches")
    assert metadata["files_waiting"].value == 1
    assert "4 requests are queued" in str(metadata["waiting_because"].value)
    (sent,) = metadata["sent"].records
    assert sent.data["batch"] == claude_emulator.batches()[0]["id"] and sent.data["requests"] == 4
