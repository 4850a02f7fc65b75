"""A dataset in a folder whose name is a pattern to DuckDB is a dataset like any other."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from batch_pipeline import ParquetDataset
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.dagster_nights import Nights

pytestmark = pytest.mark.played


def test_nights_into_a_folder_with_a_pattern_for_a_name(
    nights: Callable[..., Nights],
    claude_emulator: EmulatorProcess,
    warehouse: Path,
    tmp_path: Path,
) -> None:
    run = nights(destination=ParquetDataset(path=str(tmp_path / "answers [2026] all*")))
    run.night()
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "update packages set summary = summary || '!' where package in "
            "(select package from packages order by package limit 7)"
        )
    run.night()
    rows = run.rows()
    assert len(rows) == 300 and {row["_status"] for row in rows.values()} == {"answered"}
    assert sum(row["summary"].endswith("!") for row in rows.values()) >= 7
    assert claude_emulator.bill()["requests"] == 307
