"""What a run would cost, and what it did: from the emulator's bill to the cent."""

import csv
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import dagster as dg
import duckdb
import pyarrow.parquet as pq
import pytest

from batch_pipeline import BatchStore, DuckDBTable, batch_costs
from batch_pipeline.definitions.batch_costs import write
from batch_pipeline.errors import InputError
from batch_pipeline.results.judge import Counts, judge_file
from batch_pipeline_tests.support.extent import every_form
from batch_pipeline_tests.support.user_project import UserProject, inside


def test_costs_are_the_bill_by_whatever_they_are_added_up(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (user_project.folder / "pipelines.py").read_text()
    assert "ClaudeBatches(" in code
    user_project.write(
        "pipelines.py", code.replace("ClaudeBatches(", 'ClaudeBatches(label="ours", ')
    )
    before = user_project.run("estimate", "notes")
    assert "10 records would be asked now" in before.output and "at most" in before.output
    found = json.loads(user_project.run("estimate", "notes", "--json").stdout)["estimate"]
    user_project.submit()
    pending = json.loads(user_project.run("costs", "notes", "--json").stdout)["costs"]
    assert [one["open"] for one in pending] == [10] and pending[0]["cost_usd"] == 0
    user_project.emulator.end()
    with inside(user_project.folder):
        user_project.nights("notes").until_quiet()
    bill = float(user_project.emulator.bill()["usd"])
    assert 0 < bill <= found["usd_max"]
    names = {}
    for by in ("day", "month", "model", "label", "pipeline", "submission", "batch"):
        table, rows = f"{user_project.folder}/{by}.csv", f"{user_project.folder}/{by}.parquet"
        shown = user_project.run(
            "costs", "notes", "--by", by, "--json", "--csv", table, "--parquet", rows
        )
        lines = json.loads(shown.stdout)["costs"]
        assert sum(one["cost_usd"] for one in lines) == pytest.approx(bill, abs=1e-6)
        assert sum(one["unknown"] + one["open"] for one in lines) == 0
        with open(table) as file:
            written = sum(Decimal(row["cost_usd"]) for row in csv.DictReader(file))
        assert float(written) == pytest.approx(bill, abs=1e-6)
        assert pq.read_table(rows).num_rows == len(lines)
        names[by] = {one[by] for one in lines}
    assert names["model"] == {"claude-haiku-4-5"} and names["label"] == {"ours"}
    assert "this month" in user_project.run("status").output
    assert "$" in user_project.run("costs").output
    later = json.loads(user_project.run("costs", "--since", "2099-01-01", "--json").stdout)
    assert later["costs"] == []
    check_table(user_project, bill)
    check_comparison(user_project, bill, monkeypatch)


def check_comparison(
    user_project: UserProject, bill: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Console's reports stand beside the ledger, with what explains a difference."""
    compared = ("costs", "--compare", "--json")
    missing = user_project.run(*compared)
    assert missing.exit_code == 1 and "ANTHROPIC_ADMIN_KEY" in missing.stderr
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", "shop-key")
    refused = user_project.run(*compared)
    assert refused.exit_code == 1 and "does not accept the key" in refused.stderr
    assert "shop-key" not in refused.output
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", "sk-ant-admin01-test")
    monkeypatch.setattr("batch_pipeline.batches.console.MOST_DAYS", 2)  # so there are pages
    [same] = json.loads(user_project.run(*compared).stdout)["days"]
    assert same["ledger_usd"] == pytest.approx(bill, abs=1e-6)
    assert same["console_batch_usd"] == pytest.approx(bill, abs=1e-6)
    assert same["why"] == [] and same["console_other_usd"] == 0
    # Somebody else uses the account, in a batch of another model and without a batch.
    client = anthropic.Anthropic(api_key="k", base_url=user_project.emulator.base_url)
    turn = {"role": "user", "content": "long " * 20_000}
    params: Any = {"model": "claude-opus-5", "max_tokens": 9, "messages": [turn]}
    client.messages.create(**params)
    client.messages.batches.create(requests=[{"custom_id": "a", "params": params}])
    user_project.emulator.end()
    [other] = json.loads(user_project.run(*compared).stdout)["days"]
    assert other["console_other_usd"] == pytest.approx(2 * other["difference_usd"])
    assert "Other uses of the account" in other["why"][0] and "claude-opus-5" in other["why"][0]
    assert "Other uses" in user_project.run("costs", "--compare").output
    assert user_project.run("costs", "notes", "--compare").exit_code == 2


def check_table(user_project: UserProject, bill: float) -> None:
    """The asset writes the same into a table for dashboards, each time anew, and over nothing else."""
    table = DuckDBTable(database="warehouse.duckdb", table="money.batch_costs")
    made = dg.Definitions.merge(
        batch_costs(table, upstream=[["notes", "results"]]),
        dg.Definitions(resources={"store": BatchStore(root="data/batches")}),
    )
    job = made.resolve_job_def("batch_costs_update")
    assert made.resolve_schedule_def("batch_costs_schedule").cron_schedule == "5 * * * *"
    store = BatchStore(root="data/batches")
    with inside(user_project.folder):
        assert job.execute_in_process().success
        shown = write(store, table)
        again = write(store, "costs.parquet")
        assert write(store, "costs.parquet") == again
    assert shown["rows"] == 4 and shown["cost_usd"] == pytest.approx(bill, abs=1e-6)
    assert shown["requests_of_unknown_cost"] == 0 and shown["requests_open"] == 0
    query = "select count(*), sum(cost_usd), any_value(label), sum(answered), min(day) from "
    with duckdb.connect(str(user_project.folder / "warehouse.duckdb")) as connection:
        rows = connection.execute(query + "money.batch_costs").fetchall()
        assert (
            rows == connection.execute(f"{query}'{user_project.folder}/costs.parquet'").fetchall()
        )
        assert rows[0][0] == 4 and rows[0][2:4] == ("ours", 10)
        assert rows[0][4] == user_project.clock.now().date()
        connection.execute("create schema others")
        connection.execute("create view others.batch_costs as select 1")
    notes = DuckDBTable(database="warehouse.duckdb", table="notes")
    view = DuckDBTable(database="warehouse.duckdb", table="others.batch_costs")
    (user_project.folder / "own.parquet").write_text("mine")
    with inside(user_project.folder):
        for place in (notes, view, "own.parquet"):
            with pytest.raises(dg.Failure, match="was not made by batch_pipeline"):
                write(store, place)
    assert (user_project.folder / "own.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("to", "schedule", "said"),
    [("costs.csv", None, "ends in .parquet"), ("a.parquet", "hourly", "cron"), ("a.parquet", 5, "schedule is 5")],
)  # fmt: skip
@every_form
def test_a_table_of_costs_that_cannot_be_is_refused_when_declared(to, schedule, said) -> None:
    with pytest.raises(InputError, match=said):
        batch_costs(to, schedule=schedule)


def test_what_was_written_to_the_cache_is_told_by_how_long_and_searches_are_counted(
    tmp_path: Path,
) -> None:
    usage = {
        "input_tokens": 5, "output_tokens": 7, "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    }  # fmt: skip
    searched = {
        "input_tokens": 5,
        "output_tokens": 7,
        "server_tool_use": {"web_search_requests": 2},
    }
    path = tmp_path / "answers.jsonl"
    lines = [answer_line("a", usage), answer_line("b", searched), answer_line("b", searched)]
    path.write_text("".join(lines))
    counts = Counts()
    at = datetime(2026, 11, 20, tzinfo=UTC)
    assert list(judge_file(str(path), None, priced_at=at, counts=counts, asked=["a", "b"]))
    assert counts.tokens == {
        "input": 10, "output": 14, "cache_read": 0, "cache_write": 30,
        "cache_write_5m": 10, "cache_write_1h": 20, "web_searches": 2,
    }  # fmt: skip


def answer_line(custom_id: str, usage: dict[str, Any]) -> str:
    message = {
        "model": "claude-haiku-4-5", "stop_reason": "end_turn", "usage": usage,
        "content": [{"type": "text", "text": "yes"}],
    }  # fmt: skip
    result = {"type": "succeeded", "message": message}
    return json.dumps({"custom_id": custom_id, "result": result}) + "\n"


def test_advice_on_the_command_line_is_that_of_the_store(user_project: UserProject) -> None:
    assert "no submission is settled" in user_project.run("advise", "notes").output
    said = json.loads(user_project.run("advise", "notes", "--json").stdout)
    assert said == {"pipeline": "notes", "submission": None, "advice": []}
    assert "There is no pipeline nots" in user_project.run("advise", "nots").stderr
