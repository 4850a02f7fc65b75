"""The command `batch-pipeline labels`: labels that people gave, taken into the store."""

from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.deployments import in_project, used_store
from batch_pipeline.cli.output import errors_shown, say
from batch_pipeline.cli.preview import declared_as
from batch_pipeline.errors import InputError, counted

if TYPE_CHECKING:
    from batch_pipeline.cli.project import Project


@click.command(epilog="Exit code: 0 fine; 1 an error, and nothing was kept; 2 wrong usage.")
@click.argument("pipeline", metavar="NAME")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@errors_shown
@in_project
def labels(project: "Project", pipeline: str, path: str) -> None:
    """Take the labels of FILE, a CSV file of `batch-pipeline sample`, for NAME.

    They count where the source has no label; of a record that was labelled twice the later one. Rows without a label
    are left out.
    """
    from batch_pipeline.definitions.labelling import read

    one = declared_as(project, pipeline)
    store = used_store(one.store)
    if store is None:
        raise InputError(f"Nothing of {pipeline} was ever asked, so there is nothing to label.")
    count, strange, name = read(one.pipeline, store, path)
    if not count:
        raise InputError(f"{path} has no label: its last column is empty. Nothing was kept.")
    say(
        f"{counted(count, 'label')} kept in {name}. They count when {pipeline}/scores is made next."
    )
    if strange:
        named = ", ".join(strange[:5]) + (" ..." if len(strange) > 5 else "")
        say(
            f"No answer is any of: {named}. Where that is a slip, correct the file and read it again."
        )
