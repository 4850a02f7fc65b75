"""Records that look real: descriptions of Debian's packages, as many as are asked for."""

import shutil
from pathlib import Path

import duckdb

from batch_pipeline.demo.packages import PACKAGES
from benchmarks.night import TABLE, Night

DESCRIPTION_LETTERS = 880  # with the other columns, about 1 KB a record
DOCUMENT_LETTERS = 200_000
CHANGED = "' It was packaged anew.'"

# Three descriptions in a row, which are other ones in each round through the packages.
RECORDS = """
    select number as id, one.package, one.summary, one.installed_kb,
           date '2020-01-01' + (number % 2000)::integer as added_on,
           left(one.description || ' ' || two.description || ' ' || three.description, {letters})
               as description
    from range({rows}) as numbers (number)
    join packages as one on one.place = number % 2000
    join packages as two on two.place = (number * 7 + number // 2000 + 1) % 2000
    join packages as three on three.place = (number * 13 + number // 2000 + 2) % 2000
    order by id
"""
DOCUMENTS = """
    select number as id, package, summary, installed_kb,
           date '2020-01-01' + (number % 2000)::integer as added_on,
           substr(whole, 1 + (number * 977) % 400000, {letters}) as description
    from range({rows}) as numbers (number)
    join packages on place = number % 2000
    cross join (select string_agg(description, ' ' order by place) as whole from packages)
    order by id
"""


def make_records(path: Path, rows: int, *, wide: bool) -> None:
    """Write records to a Parquet file, and the same ones to a DuckDB file beside it.

    Args:
        path: of the Parquet file; the DuckDB file has the suffix ``.duckdb``.
        rows: how many.
        wide: documents of 200 KB; else records of 1 KB.
    """
    letters = DOCUMENT_LETTERS if wide else DESCRIPTION_LETTERS
    query = (DOCUMENTS if wide else RECORDS).format(rows=rows, letters=letters)
    with duckdb.connect(str(path.with_suffix(".duckdb"))) as warehouse:
        warehouse.execute(
            "create temp table packages as "
            "select row_number() over (order by package) - 1 as place, * from read_parquet(?)",
            [str(PACKAGES)],
        )
        warehouse.execute(f"create table {TABLE} as {query}")
        size = "row_group_size 2048" if wide else "row_group_size 122880"
        warehouse.execute(f"copy {TABLE} to '{path}' (format parquet, compression zstd, {size})")


def place_records(made: Path, night: Night) -> None:
    """Put made records where a night reads them."""
    Path(night.folder).mkdir(parents=True)
    if night.destination == "duckdb":
        shutil.copyfile(made.with_suffix(".duckdb"), night.warehouse)
    else:
        shutil.copyfile(made, night.records)


def change_records(night: Night, count: int) -> None:
    """Change the text of the first records of a night."""
    if night.destination == "duckdb":
        with duckdb.connect(night.warehouse) as warehouse:
            warehouse.execute(
                f"update {TABLE} set description = description || {CHANGED} where id < ?", [count]
            )
        return
    changed = f"{night.records}.changed"
    duckdb.execute(
        "copy (select * replace (description || case when id < "
        f"{int(count)} then {CHANGED} else '' end as description) from '{night.records}') "
        f"to '{changed}' (format parquet, compression zstd)"
    )
    Path(changed).rename(night.records)
