"""The command `batch-pipeline cancel`: withdraw or cancel what a pipeline has on its way."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.deployments import Deployments, on_deployments
from batch_pipeline.cli.output import (
    DECISION_EXIT_CODES,
    RefusedError,
    Row,
    confirm,
    errors_shown,
    listing,
    say,
)
from batch_pipeline.errors import BatchPipelineError

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from batch_pipeline.batches.cancel import Canceled


@click.command(epilog=DECISION_EXIT_CODES)
@click.argument("pipeline", metavar="NAME")
@click.option("--partition", metavar="KEY", help="Only this partition.")
@click.option("--variant", metavar="VARIANT", help="Only this variant.")
@click.option("--yes", is_flag=True, help="Cancel without asking.")
@errors_shown
@on_deployments(api=True)
def cancel(
    deployments: Deployments, pipeline: str, partition: str | None, variant: str | None, yes: bool
) -> None:
    """Cancel what NAME has on its way, on purpose; cancelling a run in Dagster never does that.

    What the API has answered by then is paid for, and is still collected.
    """
    from batch_pipeline.batches.cancel import cancel as cancel_files
    from batch_pipeline.batches.cancel import cancellable
    from batch_pipeline.batches.held import list_held

    stores = deployments.stores(pipeline)
    files = [file for store in stores for file in cancellable(store, pipeline, partition, variant)]
    where = f"{pipeline}, partition {partition}" if partition else pipeline
    where += f", variant {variant}" if variant else ""
    if not any(map(_can_be_cancelled, files)):
        already = ", except for what is cancelled already" if files else ""
        click.echo(f"There is nothing to cancel: {where} has nothing on its way{already}.")
        return
    with ExitStack() as connections:
        # A key that is not there is said before anybody is asked.
        apis = [
            (deployment, connections.enter_context(deployment.api()))
            for deployment in deployments.of(pipeline)
        ]
        _show_cancellable(where, files)
        confirm("Cancel it?", yes, "Nothing was cancelled.")
        done, errors = [], []
        for deployment, (api, _policy) in apis:
            try:
                done.append(cancel_files(deployment.store, api, pipeline, partition, variant))
            except BatchPipelineError as error:
                errors.append(str(error))
    _show_canceled(pipeline, done)
    if any(list_held(store, pipeline).files for store in stores):
        say(f"Held files are not cancelled: `batch-pipeline held {pipeline}` shows them.")
    if failed := [*errors, *(line for one in done for line in one.failed)]:
        raise RefusedError("Not cancelled:\n" + "\n".join(failed))


def _can_be_cancelled(file: "RowMapping") -> bool:
    """Return whether there is more to do: the API may not have been told of an earlier cancelling."""
    from batch_pipeline.store.tables import FileState

    is_told = file["state"] != FileState.IN_PROGRESS or file["cancel_sent_at"] is not None
    return file["cancel_requested_at"] is None or not is_told


def _show_cancellable(where: str, files: Sequence[Any]) -> None:
    """Print what cancelling would be about, and what it costs."""
    from batch_pipeline.store.tables import FileState

    kinds: dict[str, list[Any]] = {}
    for file in files:
        if file["cancel_requested_at"] is not None:
            kind = "cancelled already, and on its way to an end"
        elif file["state"] == FileState.IN_PROGRESS:
            kind = "sent: the API works on it"
        elif file["state"] == FileState.READY:
            kind = "not sent: it is withdrawn, and costs nothing"
        else:
            kind = "perhaps sent: no reply yet"
        kinds.setdefault(kind, []).append(file)
    listing(
        f"On its way: {where}",
        ["files", "requests", "what"],
        [Row((len(of), sum(file["requests"] for file in of), kind)) for kind, of in kinds.items()],
    )
    say("What the API has answered by now is paid for, and is still collected.")


def _show_canceled(pipeline: str, done: Sequence["Canceled"]) -> None:
    """Print what cancelling did, and what happens next."""
    titles = {
        "canceled": "Cancelled batches",
        "withdrawn": "Files that were not sent, and are not sent any more",
        "waiting": "Files without a reply: withdrawn or cancelled as soon as their fate is known",
    }
    for name, title in titles.items():
        ids = [one for report in done for one in getattr(report, name)]
        listing(title, [""], [Row((one,)) for one in ids])
    if any(report.canceled or report.withdrawn or report.waiting for report in done):
        say(
            "The API ends cancelled batches within minutes. Then the status sensor has their answers collected. The "
            "other records count as canceled: the sensor does not ask them again, the next "
            f"{pipeline}_submit does, as far as max_attempts allows."
        )
