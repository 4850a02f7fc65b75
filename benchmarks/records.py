"""Records that look real: descriptions of Debian's packages, as many as are asked for."""

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from batch_pipeline.demo.packages import PACKAGES
from benchmarks.night import TABLE, Night

DESCRIPTION_LETTERS = 880  # with the other columns, about 1 KB a record
DOCUMENT_LETTERS = 200_000
WORDS = 4  # in a row, of one description
LETTERS_A_PIECE = 20  # at least, on average
BYTES_AT_ONCE = 50_000_000
SEED = 20
CHANGED = "' It was packaged anew.'"
RECORDS = """
    select texts.id, package, summary, installed_kb,
           date '2020-01-01' + (texts.id % 2000)::integer as added_on, texts.description
    from texts join packages on place = texts.id % 2000
    order by texts.id
"""


def make_records(path: Path, rows: int, *, wide: bool) -> None:
    """Write records to a Parquet file, and the same ones to a DuckDB file beside it.

    Args:
        path: of the Parquet file; the DuckDB file has the suffix ``.duckdb``.
        rows: how many.
        wide: documents of 200 KB; else records of 1 KB.
    """
    letters = DOCUMENT_LETTERS if wide else DESCRIPTION_LETTERS
    with duckdb.connect(str(path.with_suffix(".duckdb"))) as warehouse:
        warehouse.execute(
            "create temp table packages as "
            "select row_number() over (order by package) - 1 as place, * from read_parquet(?)",
            [str(PACKAGES)],
        )
        found = warehouse.execute("select description from packages order by package").fetchall()
        described = _descriptions([text for (text,) in found], letters)
        at_once = max(1, BYTES_AT_ONCE // letters)
        for start in range(0, rows, at_once):
            some = range(start, min(start + at_once, rows))
            texts = pa.table({"id": list(some), "description": [next(described) for _ in some]})
            warehouse.register("texts", texts)
            do = f"insert into {TABLE}" if start else f"create table {TABLE} as"
            warehouse.execute(f"{do} {RECORDS}")
        size = "row_group_size 2048" if wide else "row_group_size 122880"
        warehouse.execute(f"copy {TABLE} to '{path}' (format parquet, compression zstd, {size})")


def _descriptions(given: Sequence[str], letters: int) -> Iterator[str]:
    """Yield texts without end, strung together of pieces of descriptions; always the same ones.

    They read like descriptions, no two are alike, and they compress as prose does.
    """
    words = " ".join(given).split(" ")
    pieces = [" ".join(words[place : place + WORDS]) for place in range(len(words) - WORDS)]
    draw = random.Random(SEED)
    while True:
        yield " ".join(draw.choices(pieces, k=letters // LETTERS_A_PIECE))[:letters]


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
