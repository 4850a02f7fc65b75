"""The command `batch-pipeline init`: the first project in a folder."""

import tomllib
from pathlib import Path

import click

from batch_pipeline.cli.output import RefusedError, errors_shown, say

PROJECTS = {"pyproject.toml": ("tool", "dg", "project"), "dg.toml": ("project",)}


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False))
@click.option("--database", metavar="FILE", help="The DuckDB file with the records, relative to DIR.")  # fmt: skip
@click.option("--table", metavar="TABLE", help="The table with the records; by default the only one.")  # fmt: skip
@click.option("--key", metavar="COLUMN", help="The column that names a record, several with commas; by default one that does.")  # fmt: skip
@click.option("--model", metavar="MODEL", default="claude-haiku-4-5", show_default=True, help="The Claude model.")  # fmt: skip
@errors_shown
def init(folder: str, database: str | None, table: str | None, key: str | None, model: str) -> None:
    """Write a first project into DIR: a pipeline that runs a night on the emulator as it is.

    Nothing is asked, and no file that is there is overwritten. Without a database, an example of five reviews is made.
    """
    where = Path(folder)
    _refuse_dg_project(where, database, table, key, model)
    from batch_pipeline.definitions.first_project import write_first_project

    done = write_first_project(where, database, table, key, model)
    for name in done.written:
        click.echo(f"Written: {where / name}")
    for name in done.left:
        click.echo(f"Left as it is: {where / name}")
    if done.example:
        say(f"There was no database, so {where / 'warehouse.duckdb'} is an example: five reviews.")
    if "workspace.yaml" in done.left:
        say("Your workspace.yaml has to name the code, too: `- python_file: definitions.py` under load_from.")  # fmt: skip
    if ".gitignore" in done.left:
        say("Your .gitignore has to have `data/` and `.env`: they hold records, answers and the key.")  # fmt: skip
    if "definitions.py" in done.written:
        say(f"What next: {where / 'README.md'}. First `cp .env.example .env` there, then `batch-pipeline doctor`.")  # fmt: skip


def _refuse_dg_project(
    folder: Path, database: str | None, table: str | None, key: str | None, model: str
) -> None:
    """Leave a project of `create-dagster` to `dg scaffold defs`, which knows where its files belong."""
    for name, keys in PROJECTS.items():
        if not (folder / name).is_file():
            continue
        try:
            found = tomllib.loads((folder / name).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RefusedError(f"{folder / name} cannot be read: {error}. Nothing was written.") from error  # fmt: skip
        for one in keys:
            found = found.get(one) if isinstance(found, dict) else None
        if found is not None:
            given = {"database": database, "table": table, "key": key, "model": model}
            options = " ".join(f"--{one} {value}" for one, value in given.items() if value)
            raise RefusedError(
                f"{folder.absolute()} is a project of create-dagster. There, write a pipeline by: dg scaffold defs "
                f"batch_pipeline.BatchPipelineComponent {table or 'NAME'} {options}. Nothing was written."
            )
