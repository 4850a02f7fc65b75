"""`batch-pipeline publish`: the results table, put right by hand."""

import json
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from batch_pipeline.cli.main import main
from batch_pipeline.cli.project import inside
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.user_project import CODE, TWO, UserProject

TABLE = """
defs = build_definitions(
    pipeline("notes", destination=DuckDBTable(database="warehouse.duckdb", table="said")),
    claude=claude(), store=store,
)
"""


def night(project: UserProject, name: str = "notes") -> None:
    with inside(project.folder):
        nights = project.nights(name)
        nights.submit()
        project.emulator.end()
        project.clock.advance(300)
        nights.collect()


def sql(project: UserProject, *statements: str) -> list[tuple]:
    rows: list[tuple] = []
    with duckdb.connect(str(project.folder / "warehouse.duckdb")) as con:
        for statement in statements:
            rows = con.execute(statement).fetchall()
    return rows


@pytest.fixture
def project(user_project: UserProject) -> UserProject:
    user_project.write("pipelines.py", CODE + TABLE)
    night(user_project)
    return user_project


def test_a_dropped_table_comes_back_at_no_cost(project: UserProject) -> None:
    whole = sql(project, "select id, answer, _status, _custom_id from said order by id")
    sql(project, "drop table said")
    result = project.run("publish", "notes")
    assert result.exit_code == 0, result.output
    assert "10 rows were gone" in " ".join(result.output.split())
    assert sql(project, "select id, answer, _status, _custom_id from said order by id") == whole
    assert project.emulator.bill()["requests"] == 10
    assert "put right" not in project.run("publish", "notes").output


@only_whole
def test_values_that_somebody_changed_are_written_anew_with_all(project: UserProject) -> None:
    sql(project, "update said set answer = 'better'")
    assert project.run("publish", "notes").exit_code == 0
    assert sql(project, "select count(*) from said where answer = 'better'") == [(10,)]
    result = project.run("publish", "notes", "--all", "--json")
    (table,) = json.loads(result.stdout)["tables"]
    assert (table["updated"], table["records"], table["missing"]) == (10, 10, 0)
    assert sql(project, "select count(*) from said where answer = 'better'") == [(0,)]


@only_whole
def test_json_tells_what_was_wrong_and_a_row_of_nobodys_waits_for_a_person(
    project: UserProject,
) -> None:
    sql(project, "delete from said where id < 3", "insert into said from said where id = 5",
        "insert into said (id, _custom_id, _status) values (77, 'mine', 'answered')")  # fmt: skip
    result = project.run("publish", "notes", "--json")
    assert result.exit_code == 3
    (table,) = json.loads(result.stdout)["tables"]
    assert {name: table[name] for name in ("lost", "doubled", "came_back", "unexpected")} == {
        "lost": 3, "doubled": 1, "came_back": 0, "unexpected": 1,
    }  # fmt: skip
    assert sql(project, "select count(*), count(distinct id) from said") == [(11, 11)]


def test_a_pipeline_that_nobody_knows_is_an_error(project: UserProject) -> None:
    result = project.run("publish", "letters")
    assert result.exit_code == 1 and "There is no pipeline letters" in result.output


@only_whole
def test_without_code_only_a_table_in_the_store_is_known(user_project: UserProject) -> None:
    user_project.write("pipelines.py", CODE + TWO)
    night(user_project)
    store = str(user_project.folder / "data" / "batches")
    for file in (Path(store) / "notes" / "table" / "data").iterdir():
        file.unlink()
    result = CliRunner().invoke(main, ["publish", "notes", "--store", store, "--json"])
    assert result.exit_code == 0, result.output
    (table,) = json.loads(result.stdout)["tables"]
    assert (table["lost"], table["records"]) == (10, 10)


def test_without_code_a_destination_of_its_own_is_said_to_be_missing(project: UserProject) -> None:
    store = str(project.folder / "data" / "batches")
    result = CliRunner().invoke(main, ["publish", "notes", "--store", store])
    assert result.exit_code == 1
    assert "stands in its code" in " ".join(result.output.split())
