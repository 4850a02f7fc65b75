"""Pipelines whose code is gone while batches are open: said everywhere, fetched and published without it."""

import json
from datetime import timedelta

import duckdb
import pytest
from click.testing import CliRunner

from batch_pipeline.cli.main import main
from batch_pipeline.cli.project import inside
from batch_pipeline.results.fetch import find_keys
from batch_pipeline_tests.support.user_project import CODE, UserProject

ONE = """
defs = build_definitions(pipeline("letters"), claude=claude(), store=store)
"""
TABLE = """
notes = pipeline("notes", destination=DuckDBTable(database="results.duckdb", table="answers"))
defs = build_definitions(notes, claude=claude(), store=store)
"""


def table(project: UserProject, name: str = "notes") -> list[tuple]:
    path = project.folder / "data" / "batches" / name / "table"
    with duckdb.connect() as connection:
        return connection.execute(
            f"select id, _status from read_parquet('{path}/**/*.parquet') order by id"
        ).fetchall()


@pytest.fixture
def removed(user_project: UserProject) -> UserProject:
    """A project that has asked about its notes, and then forgot that pipeline."""
    user_project.submit()
    user_project.write("pipelines.py", CODE + ONE)
    return user_project


def test_collect_fetches_and_publishes_without_code(removed: UserProject):
    removed.emulator.end()
    result = removed.run("collect", "notes")
    assert result.exit_code == 0, result.output
    assert "notes: collected 10 rows of 4 files (10 answered)" in result.stdout
    assert table(removed) == [(number, "answered") for number in range(10)]
    again = removed.run("collect", "notes")
    assert "nothing is at the API, and nothing waits to be published" in again.stdout
    assert removed.emulator.bill()["requests"] == 10


def test_collect_says_what_is_not_done_yet(removed: UserProject):
    removed.emulator.end()
    removed.emulator.fault("results", "drop_before", times=None)
    told = json.loads(removed.run("collect", "notes", "--json").stdout)["pipelines"][0]
    assert told["open"] == 4 and told["rows"] == 0
    result = removed.run("collect", "notes")
    assert "still at the API, or to be fetched again: run this again later" in result.stdout
    removed.emulator.clear_faults()
    removed.clock.advance(600)
    assert removed.run("collect", "notes").exit_code == 0
    assert len(table(removed)) == 10


def test_collect_works_on_a_store_that_is_named(
    removed: UserProject, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "shop-key")
    words = ["--store", str(removed.folder / "data" / "batches")]
    words += ["--base-url", removed.emulator.base_url]
    removed.emulator.end()
    result = CliRunner().invoke(main, ["collect", "notes", *words])
    assert result.exit_code == 0, result.output
    assert len(table(removed)) == 10


def test_rows_whose_table_only_the_code_knows_stay_in_the_store(user_project: UserProject):
    user_project.write("pipelines.py", CODE + TABLE)
    user_project.submit()
    user_project.emulator.end()
    assert user_project.run("collect", "notes").exit_code == 0
    with duckdb.connect(str(user_project.folder / "warehouse.duckdb")) as connection:
        connection.execute("update notes set text = text || '!' where id < 3")
    user_project.submit()
    user_project.emulator.end()
    user_project.write("pipelines.py", CODE + ONE)
    result = user_project.run("collect", "notes")
    assert result.exit_code == 3
    assert "earlier ones went into a table that only the pipeline's code names" in result.stdout
    # With its code back, they go where they belong.
    user_project.write("pipelines.py", CODE + TABLE)
    assert user_project.run("collect", "notes").exit_code == 0
    with duckdb.connect(str(user_project.folder / "results.duckdb"), read_only=True) as connection:
        found = connection.execute("select count(*), count(*) filter (text like '%!') from answers")
        assert found.fetchone() == (10, 3)
    assert user_project.emulator.bill()["requests"] == 13


def test_the_key_is_found_by_its_hashes(removed: UserProject):
    assert find_keys(removed.store(), "notes") == ("id",)


def test_a_name_that_the_ledger_does_not_know_is_refused(removed: UserProject):
    result = removed.run("collect", "nots")
    assert result.exit_code == 1 and "There is no pipeline nots" in result.output


def test_status_says_that_the_code_is_gone_and_names_no_job(removed: UserProject):
    result = removed.run("status")
    assert "No code of this project has this pipeline" in result.stdout
    assert "`batch-pipeline collect notes`" in result.stdout
    assert "notes_" not in result.stdout and "sensor" not in result.stdout
    (one,) = json.loads(removed.run("status", "notes", "--json").stdout)["pipelines"]
    assert one["has_code"] is False


def test_reconcile_names_no_job_that_there_is_not(removed: UserProject):
    removed.emulator.end()
    result = removed.run("reconcile", "notes")
    assert (
        "notes_collect" not in result.stdout and "`batch-pipeline collect notes`" in result.stdout
    )


def test_doctor_says_it(removed: UserProject):
    told = json.loads(removed.run("doctor", "--json").stdout)["checks"]
    (check,) = (one for one in told if "no code has the pipeline notes" in one["found"])
    assert check["level"] == "warning" and "4 batches to be collected" in check["found"]
    assert check["todo"].startswith("batch-pipeline collect notes")


def test_the_sensors_of_other_pipelines_say_it_in_a_sentence(removed: UserProject):
    with inside(removed.folder):
        nights = removed.nights("letters")
        assert (
            "No sensor looks after" not in nights.tick().skip_message
        )  # it may have one elsewhere
        removed.clock.advance(timedelta(minutes=16).total_seconds())
        said = nights.tick().skip_message
        assert said.count("No sensor looks after notes (4 batches to be collected)") == 1
        assert "`batch-pipeline collect notes`" in said
        removed.emulator.end()
        removed.run("collect", "notes")
        removed.clock.advance(timedelta(minutes=16).total_seconds())
        assert "No sensor looks after" not in nights.tick().skip_message


def test_a_pipeline_with_code_is_collected_by_hand_as_by_its_job(user_project: UserProject):
    user_project.submit()
    user_project.emulator.end()
    assert user_project.run("collect", "notes").exit_code == 0
    assert len(table(user_project)) == 10
