"""The command `batch-pipeline sample`: records for people to label."""

import os
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import in_project, used_store
from batch_pipeline.cli.output import errors_shown, say
from batch_pipeline.cli.preview import declared_as
from batch_pipeline.errors import InputError, counted

if TYPE_CHECKING:
    from batch_pipeline.cli.project import Project


@click.command(epilog="Exit code: 0 fine; 1 an error; 2 wrong usage.")
@click.argument("pipeline", metavar="NAME")
@click.option("--stratified", type=click.IntRange(1), metavar="N", help="N records: what variants answer differently first, then in turn one of each answer.")  # fmt: skip
@click.option("--random", type=click.IntRange(1), metavar="N", help="N records by chance: figures of these hold for all.")  # fmt: skip
@click.option("--csv", "path", type=click.Path(dir_okay=False), required=True, help="The file to write; it must not be there yet.")  # fmt: skip
@click.option("--answers", is_flag=True, help="Show the answers, too. Whoever sees them is led by them.")  # fmt: skip
@errors_shown
@in_project
def sample(
    project: "Project",
    pipeline: str,
    stratified: int | None,
    random: int | None,
    path: str,
    answers: bool,
) -> None:
    """Write records of NAME without a label to a CSV file, with an empty column for it.

    Fill the column, and hand the file to `batch-pipeline labels NAME FILE`. Nothing is asked, and nothing is paid.
    """
    if (stratified is None) == (random is None):
        raise click.UsageError("Give one of --stratified N and --random N.")
    if os.path.exists(path):
        raise InputError(f"{path} is there already, and may hold labels. Name another file.")
    from batch_pipeline.definitions.labelling import write

    one = declared_as(project, pipeline)
    store = used_store(one.store)
    if store is None:
        raise InputError(f"Nothing of {pipeline} was ever asked, so there is nothing to label.")
    how, number = ("random", random) if stratified is None else ("stratified", stratified)
    found = write(one.pipeline, store, how, number or 0, path, answers=answers)
    if not found.rows:
        say(f"{pipeline}: every answered record has a label. {path} has none to fill.")
        return
    differ = f", {found.differ:,} of which the variants answer differently" if found.differ else ""
    say(
        f"{path}: {counted(found.rows, 'record')} to label{differ}. Fill the last column, then run `batch-pipeline labels "
        f"{pipeline} {path}`."
    )
