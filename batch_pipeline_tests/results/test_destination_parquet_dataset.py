"""Results as bucketed Parquet files behind one manifest."""

import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from batch_pipeline.errors import InputError
from batch_pipeline.results.destinations import ParquetDataset

PUBLIC = "'c' || id AS _custom_id, 'answered' AS _status"


def rows_file(tmp_path: Path, query: str) -> str:
    path = str(tmp_path / f"rows{len(list(tmp_path.iterdir()))}.parquet")
    with duckdb.connect() as con:
        con.execute(f"COPY (SELECT *, {PUBLIC} FROM ({query})) TO '{path}' (FORMAT parquet)")
    return path


def ids(first: int, last: int, text: str = "x") -> str:
    return f"SELECT range AS id, '{text}' AS text FROM range({first}, {last})"


def read(files: list[str]) -> pd.DataFrame:
    return pd.concat(map(pd.read_parquet, files))


def data_files(dataset: ParquetDataset) -> set[str]:
    return {str(path) for path in Path(dataset.path, "data").iterdir()}


def test_the_files_are_read_with_plain_tools(tmp_path: Path) -> None:
    dataset = ParquetDataset(path=str(tmp_path / "out"), rows_per_bucket=20)
    dataset.merge(rows_file(tmp_path, ids(0, 100)), ["id"], None)
    assert len(dataset.files()) > 1
    assert sorted(read(dataset.files())["id"]) == list(range(100))
    found = duckdb.connect().execute(
        "SELECT count(*) FROM read_parquet($f)", {"f": dataset.files()}
    )
    assert found.fetchone() == (100,)


def test_only_the_buckets_that_change_are_written(tmp_path: Path) -> None:
    dataset = ParquetDataset(path=str(tmp_path / "out"), rows_per_bucket=10)
    dataset.merge(rows_file(tmp_path, ids(0, 100)), ["id"], None)
    before = set(dataset.files())
    dataset.merge(rows_file(tmp_path, ids(7, 8, "new")), ["id"], None)
    assert len(before - set(dataset.files())) == 1
    dataset.merge(None, ["id"], rows_file(tmp_path, ids(500, 501)))
    assert dataset.row_count() == 100


def test_buckets_grow_with_the_rows(tmp_path: Path) -> None:
    dataset = ParquetDataset(path=str(tmp_path / "out"), rows_per_bucket=100)
    dataset.merge(rows_file(tmp_path, ids(0, 90)), ["id"], None)
    assert len(dataset.files()) == 1
    merged = dataset.merge(rows_file(tmp_path, ids(80, 1000, "new")), ["id"], None)
    assert (merged.inserted, merged.updated, merged.total) == (910, 10, 1000)
    assert 10 <= len(dataset.files()) <= 16
    assert read(dataset.files())["id"].is_unique


def test_unused_files_are_deleted_only_after_the_grace(tmp_path: Path) -> None:
    path = str(tmp_path / "out")
    patient, hasty = ParquetDataset(path=path), ParquetDataset(path=path, grace_seconds=0)
    patient.merge(rows_file(tmp_path, ids(0, 10)), ["id"], None)
    reader = patient.files()
    patient.merge(rows_file(tmp_path, ids(0, 10)), ["id"], None)
    assert len(read(reader)) == 10
    assert len(data_files(patient)) == 2
    time.sleep(0.02)
    hasty.merge(rows_file(tmp_path, ids(0, 10)), ["id"], None)
    assert data_files(hasty) == set(hasty.files())
    assert len(list(Path(path, "_manifests").iterdir())) == 1


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "lake"
    foreign.mkdir()
    (foreign / "part-0.parquet").write_bytes(b"precious")
    dataset = ParquetDataset(path=str(foreign))
    with pytest.raises(InputError, match=r"part-0\.parquet.*Name an empty"):
        dataset.check()
    with pytest.raises(InputError, match="did not write"):
        dataset.merge(rows_file(tmp_path, ids(0, 1)), ["id"], None)
    assert [path.name for path in foreign.iterdir()] == ["part-0.parquet"]
    with pytest.raises(InputError, match="is a file"):
        ParquetDataset(path=str(foreign / "part-0.parquet")).check()


KILLED = """
import os, sys
from batch_pipeline.results.manifest import ManifestFolder
from batch_pipeline.results.destinations import ParquetDataset
ManifestFolder.publish = lambda *_: os._exit(9)
ParquetDataset(path=sys.argv[1]).merge(sys.argv[2], ["id"], None)
"""


def test_a_writer_killed_before_the_manifest_changes_nothing(tmp_path: Path) -> None:
    dataset = ParquetDataset(path=str(tmp_path / "out"), grace_seconds=0)
    dataset.merge(rows_file(tmp_path, ids(0, 10, "old")), ["id"], None)
    new = rows_file(tmp_path, ids(5, 20, "new"))
    assert subprocess.run([sys.executable, "-c", KILLED, dataset.path, new]).returncode == 9
    assert len(data_files(dataset)) == 2
    assert set(read(dataset.files())["text"]) == {"old"}
    merged = dataset.merge(new, ["id"], None)
    assert (merged.inserted, merged.updated) == (10, 5)


def test_a_first_writer_killed_before_the_manifest_does_not_block_the_next(tmp_path: Path) -> None:
    dataset = ParquetDataset(path=str(tmp_path / "out"))
    new = rows_file(tmp_path, ids(0, 20))
    assert subprocess.run([sys.executable, "-c", KILLED, dataset.path, new]).returncode == 9
    assert not dataset.exists()
    assert dataset.merge(new, ["id"], None).total == 20


def test_no_results_yet_is_an_input_error_to_a_reader(tmp_path: Path) -> None:
    with duckdb.connect() as con, pytest.raises(InputError, match="no results yet"):
        ParquetDataset(path=str(tmp_path / "out")).relation(con)
