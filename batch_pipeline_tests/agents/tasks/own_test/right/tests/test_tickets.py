"""A night of the pipeline, against the emulated API."""

from dataclasses import replace

import dagster as dg
import duckdb
from definitions import tickets

from batch_pipeline import BatchStore, ClaudeBatches, DuckDBTable, build_definitions


def test_every_ticket_is_answered(claude_emulator, tmp_path):
    table = DuckDBTable(database=str(tmp_path / "answers.duckdb"), table="answers")
    defs = build_definitions(
        replace(tickets, destination=table),
        claude=ClaudeBatches(api_key="any", base_url=claude_emulator.base_url),
        store=BatchStore(root=str(tmp_path / "store")),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        for job in ("tickets_submit", "tickets_collect"):
            assert defs.resolve_job_def(job).execute_in_process(instance=instance).success
    with duckdb.connect("shop.duckdb", read_only=True) as shop:
        expected = shop.sql("select ticket_id from tickets order by all").fetchall()
    with duckdb.connect(table.path, read_only=True) as answers:
        found = answers.sql(
            "select ticket_id from answers where _status = 'answered' order by all"
        ).fetchall()
    assert found == expected
