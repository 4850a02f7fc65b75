"""`init` writes a first project, which runs a night on the emulator as it is."""

from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from batch_pipeline.cli.main import main
from batch_pipeline.cli.project import inside, load_project
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.stage_calls import StageCalls


def run(*words: str) -> Any:
    return CliRunner().invoke(main, ["init", *words])


def night(folder: Path, emulator: EmulatorProcess) -> dict[Any, dict[str, Any]]:
    """Play a night of what was written, with the example's variables, but for the port."""
    text = (folder / ".env.example").read_text()
    (folder / ".env").write_text(text.replace("http://127.0.0.1:8787", emulator.base_url))
    with inside(folder):
        [one] = load_project(folder).declared
        nights = StageCalls(one.pipeline, one.claude, one.store)
        nights.submit()
        nights.collect()
        return nights.rows()


def test_in_an_empty_folder_it_runs_a_night_unedited(
    tmp_path: Path, claude_emulator: EmulatorProcess
) -> None:
    folder = tmp_path / "shop"
    done = run(str(folder))
    assert done.exit_code == 0 and "five reviews" in " ".join(done.output.split()), done.output
    rows = night(folder, claude_emulator)
    assert {row["_status"] for row in rows.values()} == {"answered"} and len(rows) == 5
    assert {"ai_topic", "ai_summary", "body"} <= rows[1].keys()
    # What the emulator made up stays apart from real answers.
    with duckdb.connect(str(folder / "warehouse.duckdb")) as con:
        assert con.sql("show tables").fetchall() == [("reviews",), ("reviews_emulated",)]
    assert (folder / "data" / "emulated").is_dir() and not (folder / "data" / "batches").exists()
    assert len((folder / "README.md").read_text().splitlines()) <= 10
    assert {"data/", ".env"} <= {*(folder / ".gitignore").read_text().splitlines()}
    # Once more it changes nothing.
    (folder / "prompt.md").write_text("mine")
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    again = run(str(folder), "--table", "reviews")
    assert again.exit_code == 0 and "Written" not in again.output
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == before


@only_whole
def test_a_table_of_ones_own(tmp_path: Path, claude_emulator: EmulatorProcess) -> None:
    with duckdb.connect(str(tmp_path / "shop.db")) as con:
        con.execute("create schema sales")
        con.execute(
            'create table sales."my notes" as select 1 as "a key", 2 as other, \'x\' as text'
        )
    words = [str(tmp_path), "--database", "shop.db", "--key", "a key,other", "--model", "claude-sonnet-5"]  # fmt: skip
    assert run(*words).exit_code == 0
    assert [*night(tmp_path, claude_emulator)] == [(1, 2)]
    assert "text: {{ text }}" in (tmp_path / "prompt.md").read_text()


@pytest.mark.every_form
@pytest.mark.parametrize(
    ("sql", "words", "why"),
    [
        ("", ["--database", "no.duckdb"], "There is no database"),
        ("create table a as select 1 as id; create table b as select 1 as id", [], "There are: a, b"),
        ("create table a as select 1 as n from range(2)", [], "--key COLUMN"),
        ("create table a as select 1 as n", ["--table", "b"], "no table b. There are: a"),
        ("", [], "dg scaffold defs batch_pipeline.BatchPipelineComponent"),
    ],
    ids=["no database", "two tables", "no key", "no such table", "a project of create-dagster"],
)  # fmt: skip
def test_what_cannot_be_told_is_said_and_nothing_is_written(
    tmp_path: Path, sql: str, words: list[str], why: str
) -> None:
    if sql:
        with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as con:
            con.execute(sql)
    elif not words:
        (tmp_path / "pyproject.toml").write_text("[tool.dg.project]\nroot_module = 'x'\n")
    before = {*tmp_path.iterdir()}
    done = run(str(tmp_path), *words)
    assert done.exit_code == 1 and why in done.output and "Nothing was written" in done.output
    assert {*tmp_path.iterdir()} == before
