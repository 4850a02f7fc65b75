"""What a run would cost, and what it did: from the emulator's bill to the cent."""

import csv
import json
from decimal import Decimal

import pyarrow.parquet as pq
import pytest

from batch_pipeline_tests.support.user_project import UserProject, inside


def test_costs_are_the_bill_by_whatever_they_are_added_up(user_project: UserProject) -> None:
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
