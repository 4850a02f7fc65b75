"""Every example loads, says in its README how to play it, and has its answers, paid once, when it is."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.docs.pages import ROOT
from batch_pipeline_tests.docs.test_links import links
from batch_pipeline_tests.support.extent import every_form, only_whole
from examples.stage import EXAMPLES, Stage

FOLDERS = ROOT / "examples"
# What each asks in all, and of how many records it says why it has no answer.
PLAYED = {
    "contracts": (4, {"answered": 3, "invalid": 1}),
    "daily": (7, {"answered": 7}),
    "evaluation": (48, {"answered": 48}),
    "invoices": (7, {"answered": 6}),
    "products": (4, {"answered": 5}),
    "scans": (5, {"answered": 5, "rejected": 1}),
    "shared_prompt": (6, {"answered": 6}),
    "tickets": (7, {"answered": 7, "skipped": 1}),
    "tools": (4, {"answered": 4}),
    "translation": (10, {"answered": 10}),
    "two_stages": (12, {"answered": 9}),
    "yaml_alone": (8, {"answered": 8}),
}
TABLES = "select table_name from duckdb_columns() where column_name = '_status'"


@contextmanager
def staged(name: str, folder: Path, base_url: str) -> Iterator[Stage]:
    """Give an example, copied to a folder; what was imported of it is forgotten in the end."""
    before, place = {*sys.modules}, folder / name
    shutil.copytree(FOLDERS / name, place, ignore=shutil.ignore_patterns("data", "__pycache__"))
    try:
        yield Stage(place, base_url)
    finally:
        for module in {*sys.modules} - before:
            if module.partition(".")[0] == "shop" or module.startswith("example_"):
                del sys.modules[module]


@every_form
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_loads_and_its_page_says_how_to_play_it(name: str, tmp_path: Path) -> None:
    with staged(name, tmp_path, "http://127.0.0.1:9") as stage, stage.at_home():
        jobs = {job.name for job in stage.definitions.resolve_all_job_defs()}
    assert any(job.endswith("_submit") for job in jobs)
    page = FOLDERS / name / "README.md"
    text = page.read_text()
    assert f"`make example NAME={name}`" in text
    assert len(text.splitlines()) <= 12
    for link in links(page):
        assert (page.parent / link.partition("#")[0]).exists(), f"{page}: {link}"
    assert f"../examples/{name}" in (ROOT / "docs" / "pipelines.md").read_text()


def test_each_example_has_a_night_that_is_judged() -> None:
    assert set(EXAMPLES) == set(PLAYED)


@only_whole
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_played_example_has_its_answers_and_asks_nothing_twice(
    name: str, tmp_path: Path, claude_emulator: EmulatorProcess
) -> None:
    requests, statuses = PLAYED[name]
    with staged(name, tmp_path, claude_emulator.base_url) as stage:
        stage.play()
        assert claude_emulator.bill()["requests"] == requests
        stage.play()
        # What is invalid may be asked again; what is answered may not.
        assert claude_emulator.bill()["requests"] == requests + statuses.get("invalid", 0)
        with stage.at_home():
            assert found_statuses(stage) == statuses


def found_statuses(stage: Stage) -> dict[str, int]:
    """Return how many rows of each status all results of an example have."""
    tables = [row[0] for row in stage.sql(TABLES)[1]]
    relations = tables or ["read_parquet('data/descriptions/**/*.parquet')"]
    found: dict[str, int] = {}
    for relation in relations:
        for status, count in stage.sql(f"select _status, count(*) from {relation} group by 1")[1]:
            found[status] = found.get(status, 0) + count
    return found


@only_whole
def test_make_example_plays_one_from_the_shell_and_names_them_all() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "examples"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert all(name in done.stderr for name in EXAMPLES)
