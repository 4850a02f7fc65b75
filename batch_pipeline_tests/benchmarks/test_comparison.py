"""`make bench` with a few dozen records: both sides ask the same, get the same, and are measured."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline.demo.packages import PACKAGES
from batch_pipeline_tests.support.extent import WHOLE as WHOLE_TESTS
from batch_pipeline_tests.support.extent import extent, only_whole
from benchmarks import loop
from benchmarks.answers import write_answers
from benchmarks.comparison import CHANGED, LOOP, OURS, WHOLE, Plan, play
from benchmarks.hotspots import spent
from benchmarks.meter import Taken
from benchmarks.night import Night
from benchmarks.records import make_records, place_records
from benchmarks.report import json_of, tables_of
from benchmarks.server import serving
from benchmarks.sides import measure_apart, measure_here

ROWS = 30


@pytest.fixture
def url(tmp_path):
    write_answers(tmp_path)
    with serving(tmp_path) as url:
        yield url


@pytest.mark.parametrize(("kind", "destination"), [("text", "duckdb"), ("structured", "parquet")])
def test_both_sides_ask_and_write_the_same(tmp_path, url, kind, destination):
    seen = []

    def measure(side: str, night: Night) -> dict[str, Taken]:
        if side == "overhead" and not WHOLE_TESTS:
            return {}
        taken = measure_here(side, night)
        if side == "loop":
            compare(night)
            seen.append(night)
        return taken

    plan = Plan((ROWS,), kinds=(kind,), destinations=(destination,), changed=3)
    figures = play(plan, tmp_path, url, measure=measure)

    assert len(seen) == 1
    sides = {one.side for one in figures}
    assert {OURS, LOOP} <= sides and (CHANGED in sides) == (kind == "text")
    wholes = {one.side: one.taken for one in figures if one.stage == WHOLE}
    assert all(one.cpu_s > 0 and one.peak_mb > 0 and one.received > 0 for one in wholes.values())
    assert wholes[OURS].sent == pytest.approx(wholes[LOOP].sent, rel=0.05)
    assert len(list(tables_of(figures))) == extent(1, 2)
    assert set(json.loads(json.dumps(json_of(plan, figures)))["summary"]) == {
        f"records of 1 KB, {kind}, {destination}"
    }


def spelled(params: dict[str, Any]) -> dict[str, Any]:
    """Return a request with the system prompt as plain text, and of its schema the fields alone."""
    system = params["system"]
    plain = {**params, "system": system if isinstance(system, str) else system[0]["text"]}
    if "output_config" in plain:
        plain["output_config"] = sorted(params["output_config"]["format"]["schema"]["properties"])
    return plain


def compare(night: Night) -> None:
    """Assert that both sides sent the same requests, and wrote the same rows."""
    (requests,) = Path(night.folder, "store").rglob("requests/*.jsonl")
    asked = [json.loads(line)["params"] for line in requests.read_text().splitlines()]
    records = loop.read(night).to_dict("records")
    theirs = [loop.params(one, structured=night.structured) for one in records]
    assert [spelled(one) for one in asked] == [spelled(one) for one in theirs]
    fields = ["audience", "confidence", "is_library", "keywords", "said"]
    answer = ", ".join(fields if night.structured else ["answer"])
    shared = f"id, description, added_on::date, {answer}"
    tokens = (
        "input_tokens, {0}output_tokens, {0}cache_read_tokens, {0}stop_reason, {0}model, {0}status"
    )
    with duckdb.connect() as connection:
        if night.destination == "duckdb":
            connection.execute(f"attach '{night.warehouse}' as warehouse (read_only)")
            ours, theirs = "warehouse.answers", "warehouse.loop_answers"
        else:
            ours = f"read_parquet('{night.folder}/answers/**/*.parquet')"
            theirs = f"'{night.folder}/loop_answers.parquet'"
        rows = [
            connection.execute(
                f"select {shared}, {mark}{tokens.format(mark)}, round({mark}cost_usd, 9) "
                f"from {table} order by id"
            ).fetchall()
            for table, mark in ((ours, "_"), (theirs, ""))
        ]
    assert len(rows[0]) == night.rows
    assert rows[0] == rows[1]


@only_whole
def test_a_side_in_a_process_of_its_own_tells_where_its_time_goes(tmp_path, url):
    night = Night(str(tmp_path / "night"), url, ROWS, "text", "parquet")
    make_records(tmp_path / "made.parquet", ROWS, wide=True)
    place_records(tmp_path / "made.parquet", night)
    taken = measure_apart("loop", night, tmp_path / "profile")
    assert list(taken) == ["read", "build", "create", "wait", "results", "join"]
    assert taken["create"].sent > ROWS * 150_000
    assert all(took >= 0 for took in spent(tmp_path / "profile" / "create.json").values())


def test_odd_answers_are_among_them(tmp_path):
    write_answers(tmp_path)
    for kind in ("text", "structured"):
        lines = (tmp_path / f"{kind}.jsonl").read_bytes().splitlines()
        results = [json.loads(b'{"custom_id":"x"' + line)["result"] for line in lines]
        kinds = {one["type"] for one in results}
        assert kinds == {"succeeded", "errored", "expired"}
        assert sum(one["type"] == "succeeded" for one in results) > 0.99 * len(results)
    assert len(lines) == min(1_000, len(duckdb.read_parquet(str(PACKAGES)).fetchall()))
