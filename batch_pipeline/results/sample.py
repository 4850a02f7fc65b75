"""A sample of records for people to label, and the labels that they give: as CSV."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as parquet

from batch_pipeline.errors import InputError, counted
from batch_pipeline.records.columns import RESULT_COLUMNS
from batch_pipeline.records.connections import (
    first_line,
    let_read,
    quote_files,
    quote_name,
    quote_text,
)
from batch_pipeline.records.reading import closest
from batch_pipeline.records.sources import VARIANT
from batch_pipeline.requests.label import Label
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset

LABEL = ("label", "_label")
"""What the column to fill is called: the second where the source has the first."""
MOST_NAMED = 5

CHOSEN = """
-- Table chosen: the records to label, in order. Of those without a label: first those that the variants answer
-- differently, then the others; of both in turn one of each answer. Which of an answer is as good as random, and the
-- same each time.
create or replace temp table chosen as
with records as (
    select key, any_value(label) as label, arg_min(answer, place) as answer,
           count(distinct answer) > 1 as differ, map_from_entries(list((variant, answer))) as answers
    from compared join (values {variants}) as shown (variant, place) using (variant)
    where asked group by key
),
turns as (
    select *, hash(key::varchar) as chance,
           row_number() over (partition by differ, answer order by hash(key::varchar)) as turn
    from records where label is null and answer is not null
)
select key, answers, row_number() over (order by {order}) as place from turns
order by place limit {number}
"""
ORDERS = {"stratified": "not differ, turn, answer, chance", "random": "chance"}


@dataclass(frozen=True)
class Sample:
    """What was written for labelling.

    Attributes:
        rows: how many records.
        differ: how many of them the variants answer differently.
    """

    rows: int
    differ: int


def write_sample(
    con: duckdb.DuckDBPyConnection,
    folder: str,
    destination: DuckDBTable | ParquetDataset,
    keys: Sequence[str],
    outputs: Sequence[str],
    label: Label,
    variants: Sequence[str],
    how: Literal["stratified", "random"],
    number: int,
    path: str,
    *,
    answers: bool,
) -> Sample:
    """Write records to label to a CSV file: the source's columns, and an empty one for the label.

    Args:
        con: where ``compared`` is.
        folder: a local folder for what is needed between.
        destination: the results table.
        keys: the columns of the source's key.
        outputs: the columns of the answer, which are left out: whoever labels is not to be led.
        label: the label.
        variants: whose answers are compared.
        how: which records.
        number: how many at most.
        path: the CSV file; it must not be there yet.
        answers: show the answers all the same.
    """
    named = ", ".join(f"({quote_text(name)}, {place})" for place, name in enumerate(variants))
    con.execute(CHOSEN.format(variants=named, order=ORDERS[how], number=int(number)))
    con.execute(f"copy chosen to {quote_text(f'{folder}/chosen.parquet')} (format parquet)")
    chosen = con.execute("select place, answers from chosen order by place").fetchall()
    said = {place: dict(found) for place, found in chosen}
    left_out = {name.lower() for name in (*outputs, *RESULT_COLUMNS, VARIANT, label.column)}
    columns = [name for name in destination.columns() if name.lower() not in left_out]
    spelled = {name.lower(): name for name in destination.columns()}
    key = ", ".join(f"cast({quote_name(spelled[one.lower()])} as varchar)" for one in keys)
    own = {name.lower() for name in columns}
    with destination.connection() as reader:
        let_read(reader, [f"{folder}/chosen.parquet"])
        shown = ", ".join(f"any_value(cast(t.{quote_name(one)} as varchar))" for one in columns)
        rows = reader.execute(
            f"select c.place, {shown} from (select *, [{key}] as _bp_key from {destination.relation(reader)} as source) as t"
            f" join read_parquet({quote_files([f'{folder}/chosen.parquet'])}) as c on t._bp_key = c.key"
            " group by c.place order by c.place"
        ).fetchall()
    more = [f"answer {name}".strip() for name in variants] if answers else []
    with open(path, "x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *more, LABEL[1] if LABEL[0] in own else LABEL[0]])
        for place, *values in rows:
            known = [said[place].get(name) for name in variants] if answers else []
            writer.writerow([*values, *known, ""])
    differ = sum(
        len({one for one in found.values() if one is not None}) > 1 for found in said.values()
    )
    return Sample(len(rows), differ)


def read_labels(
    con: duckdb.DuckDBPyConnection, keys: Sequence[str], label: Label, path: str, to: str
) -> tuple[int, list[str]]:
    """Read a CSV file with labels, check it, and write it as a label file.

    Args:
        con: where ``compared`` is.
        keys: the columns of the source's key.
        label: the label.
        path: the CSV file.
        to: the label file to write.

    Returns:
        How many labels there are; and those that no answer has, which may be misspelt.

    Raises:
        InputError: the file is none of ours, or says what cannot be.
    """
    let_read(con, [path])
    read = f"read_csv({quote_text(path)}, all_varchar = true, header = true, nullstr = '')"
    try:
        columns = [row[0] for row in con.execute(f"describe select * from {read}").fetchall()]
    except duckdb.Error as error:
        raise InputError(
            f"{path} cannot be read as CSV. DuckDB says: {first_line(error)}"
        ) from error
    spelled = {name.lower(): name for name in columns}
    filled = next((spelled[name] for name in reversed(LABEL) if name in spelled), None)
    if filled is None:
        raise InputError(f"{path} has no column `label`. Its columns are: {', '.join(columns)}.")
    for one in keys:
        if one.lower() not in spelled:
            raise InputError(
                f"{path} has no column `{one}`, which names a record.{closest(one, columns)} Its columns are: "
                f"{', '.join(columns)}."
            )
    key = ", ".join(quote_name(spelled[one.lower()]) for one in keys)
    con.execute(
        f"create or replace temp table given as select distinct [{key}] as key, trim({quote_name(filled)}) as label"
        f" from {read} where trim({quote_name(filled)}) <> ''"
    )
    _refuse(con, path, "have two labels", "select key from given group by key having count(*) > 1")
    _refuse(
        con, path, "are not among the results (a spreadsheet may have changed keys, such as 007)",
        "select key from given anti join compared using (key)",
    )  # fmt: skip
    if label.kind == "number":
        wrong = "select key from given where try_cast(label as double) is null"
        _refuse(con, path, "have a label that is no number", wrong)
    strange = con.execute(
        "select distinct label from given where label not in (select answer from compared where answer is not null)"
        " order by all limit 6"
    ).fetchall()
    table = con.sql("select key, label from given order by key").to_arrow_table()
    parquet.write_table(table.cast(pa.schema([("key", pa.list_(pa.string())), ("label", pa.string())])), to)  # fmt: skip
    return table.num_rows, [text for (text,) in strange] if label.kind == "class" else []


def _refuse(con: duckdb.DuckDBPyConnection, path: str, what: str, query: str) -> None:
    found = con.execute(f"select key from ({query}) order by all").fetchall()
    if found:
        named = "; ".join(", ".join(map(str, key)) for (key,) in found[:MOST_NAMED])
        more = " ..." if len(found) > MOST_NAMED else ""
        raise InputError(
            f"{path}: {counted(len(found), 'record')} {what}: {named}{more}. Nothing was kept; correct the file, and "
            "read it again."
        )
