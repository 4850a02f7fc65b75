"""The first project in a folder: what `batch-pipeline init` writes. It runs a night on the emulator as it is."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from batch_pipeline.definitions.component_scaffold import (
    OUTPUT,
    VARIABLE,
    columns_to_name,
    pipeline_name,
    prompt_about,
    write_new,
)
from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import first_line, quote_name

WAREHOUSE = "warehouse.duckdb"
MOST_NAMED = 20
EXAMPLE = """
create table reviews (review_id integer, body text);
insert into reviews values
    (1, 'Arrived a day early, and the colour is exactly as on the picture.'),
    (2, 'The zip broke after a week. I want my money back.'),
    (3, 'Does it come in a size for children?'),
    (4, 'My third one. Still the best bag I have had.'),
    (5, 'One strap was missing when I opened the parcel.');
"""
DEFINITIONS = '''"""One question about every record of a table, asked each night in a batch."""

import json
import os
from pathlib import Path

import dagster as dg

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
    build_definitions,
)

HERE = Path(__file__).parent
# The emulator makes its answers up: they get a store and a table of their own.
EMULATED = "127.0.0.1" in os.environ.get("ANTHROPIC_BASE_URL", "")

pipeline = BatchPipeline(
    name={name},
    source=DuckDBSource(database={database}, table={table}, key={key}),
    request=MessageTemplate(
        model={model},
        max_tokens=256,
        prompt=(HERE / "prompt.md").read_text(encoding="utf-8"),
        output=json.loads((HERE / "output.json").read_text(encoding="utf-8")),
    ),
    output_prefix="ai_",
    destination=DuckDBTable(
        database={database}, table={emulated} if EMULATED else {answers}
    ),
    schedule="0 23 * * *",
)
defs = build_definitions(
    pipeline,
    claude=ClaudeBatches(api_key=dg.EnvVar("{variable}")),
    store=BatchStore(root="data/emulated" if EMULATED else "data/batches"),
)
'''
WORKSPACE = "load_from:\n  - python_file: definitions.py\n"
IGNORED = "# Records, requests, answers and the ledger; the key.\ndata/\n.env\n__pycache__/\n"
ENVIRONMENT = f"""# Copy this to .env. The emulator costs nothing: batch-pipeline emulator --port 8787
ANTHROPIC_BASE_URL=http://127.0.0.1:8787
{VARIABLE}=any
# For real answers, and money: take the first line away, and put your key in the second.
"""
README = """# {name}

Each night Claude is asked about what is new in the table `{table}` of `{database}`, in a batch. The answers are in `{answers}`.

1. `cp .env.example .env`, and in a terminal of its own `batch-pipeline emulator --port 8787`: answers that are made up, and cost nothing.
2. `batch-pipeline doctor`, then `batch-pipeline preview {name}`: what would be asked. `prompt.md` is the question, `output.json` the answer's form.
3. `dagster dev`: launch `{name}_submit`; the sensor `{name}_status` does the rest. The emulator's answers are in `{emulated}`.
4. For real: your key in `.env` in the place of the emulator. `batch-pipeline estimate {name}`, then `{name}_submit` with `limit: 20`.

`data/` holds what was asked and paid: keep it, back it up, never delete it to start anew.
"""


@dataclass(frozen=True)
class FirstProject:
    """What was written.

    Attributes:
        name: of the pipeline.
        written: files that were written.
        left: files that were there, and are left as they are.
        example: there was no table, so one was made.
    """

    name: str
    written: list[str]
    left: list[str]
    example: bool


def write_first_project(
    folder: Path, database: str | None, table: str | None, key: str | None, model: str
) -> FirstProject:
    """Write a pipeline, what makes a project of its folder, and a page; no file that is there is overwritten.

    Args:
        folder: where; it is made when it is missing.
        database: a DuckDB file, relative to the folder; None: ``warehouse.duckdb``, made with an example if neither
            it nor the table is named and it is not there.
        table: the table with the records; None: the only one of the database.
        key: the column that names a record, several with commas; None: one that does.
        model: the Claude model.

    Raises:
        InputError: which table, or which key, cannot be told; or the database cannot be read.
    """
    path = folder / (database or WAREHOUSE)
    example = not path.exists() and database is None and table is None
    if not path.exists() and not example:
        raise InputError(
            f"There is no database {path}. Name one with --database, relative to {folder}; without --database and --table "
            "an example is made. Nothing was written."
        )
    if example:
        table, key = "reviews", key or "review_id"
    else:
        table, full, named = _table(path, table)
        key = key or _key(path, table, full, named)
    keys = [one.strip() for one in key.split(",") if one.strip()]
    folder.mkdir(parents=True, exist_ok=True)
    if example:
        with duckdb.connect(str(path)) as con:
            con.execute(EXAMPLE)
    name = pipeline_name(Path(table.rsplit(".", 1)[-1]))
    values = {
        "name": json.dumps(name),
        "database": json.dumps(database or WAREHOUSE, ensure_ascii=False),
        "table": json.dumps(table, ensure_ascii=False),
        "key": json.dumps(keys[0] if len(keys) == 1 else keys, ensure_ascii=False),
        "model": json.dumps(model),
        "answers": json.dumps(f"{name}_answers"),
        "emulated": json.dumps(f"{name}_emulated"),
        "variable": VARIABLE,
    }
    columns = columns_to_name(folder, database or WAREHOUSE, table, keys)
    shown = {one: text.strip('"') for one, text in values.items()}
    files = {
        "definitions.py": DEFINITIONS.format(**values),
        "prompt.md": prompt_about(table, columns),
        "output.json": json.dumps(OUTPUT, indent=2) + "\n",
        "workspace.yaml": WORKSPACE,
        ".gitignore": IGNORED,
        ".env.example": ENVIRONMENT,
        "README.md": README.format(**shown),
    }
    done = {one: write_new(folder / one, text) for one, text in files.items()}
    return FirstProject(
        name,
        [one for one, is_new in done.items() if is_new],
        [one for one, is_new in done.items() if not is_new],
        example,
    )


def _tables(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Return the tables of a database by name, each with its name in SQL and its columns."""
    with _reading(path) as con:
        columns = con.execute(
            "select schema_name, table_name, column_name from duckdb_columns() where not internal"
            " and database_name = current_database() order by table_oid, column_index"
        ).fetchall()
    found: dict[str, tuple[str, list[str]]] = {}
    for schema, name, column in columns:
        full = f"{quote_name(schema)}.{quote_name(name)}"
        found.setdefault(_named(schema, name), (full, []))[1].append(column)
    return found


@contextmanager
def _reading(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        with duckdb.connect(str(path), read_only=True) as con:
            yield con
    except duckdb.Error as error:
        raise InputError(
            f"The database {path} cannot be read. DuckDB says: {first_line(error)}. Nothing was written."
        ) from error


def _named(schema: str, name: str) -> str:
    parts = [name] if schema == "main" else [schema, name]
    return ".".join(one if one.isidentifier() else quote_name(one) for one in parts)


def _table(path: Path, table: str | None) -> tuple[str, str, list[str]]:
    """Return the table with the records: its name, its name in SQL, and its columns."""
    tables = _tables(path)
    named = [one for one in tables if table is None or one.lower() == table.lower()]
    if len(named) != 1:
        there = ", ".join([*tables][:MOST_NAMED]) or "none"
        why = (
            "Which table holds the records? --table NAME"
            if table is None
            else f"There is no table {table}"
        )
        raise InputError(f"{path}: {why}. There are: {there}. Nothing was written.")
    return named[0], *tables[named[0]]


def _key(path: Path, table: str, full: str, columns: Sequence[str]) -> str:
    """Return a column that names a record: never NULL and never twice, one that is called so if there is one."""
    likely = sorted(columns, key=lambda one: not one.lower().endswith(("id", "key", "no")))
    with _reading(path) as con:
        for column in likely:
            query = f"select count(*) > 0 and count(*) = count(distinct {quote_name(column)}) from {full}"
            if con.execute(query).fetchone() == (True,):
                return column
    raise InputError(
        f"Which column of {table} in {path} names a record? None is never NULL and never twice by itself: --key COLUMN, "
        "several with commas. Nothing was written."
    )
