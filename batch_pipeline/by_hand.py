"""The commands by which a person looks at stores and decides: held, reconcile, cancel, rebuild-ledger.

Dagster takes seconds to import, so each command imports what it needs.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.place import Places, is_empty, placed
from batch_pipeline.reports import (
    settled_json,
    show_canceled,
    show_cancellable,
    show_held,
    show_rebuilt,
    show_settled,
)
from batch_pipeline.show import RefusedError, confirm, say, speaking

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from batch_pipeline.batches.settle import Settlement
    from batch_pipeline.store.store import Store

WAITS = 3
EXIT_CODES = "Exit code: 0 done, or nothing to do; 1 an error; 2 wrong usage; 3 something waits for a person."
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")


@click.command(epilog=EXIT_CODES)
@click.argument("pipeline", metavar="[NAME]", required=False)
@click.option(
    "--resend", "resent", multiple=True, metavar="FILE", help="Send this held file again."
)
@click.option(
    "--drop",
    "dropped",
    multiple=True,
    metavar="FILE",
    help="Give it up; its records are asked anew.",
)
@click.option("--release", "released", is_flag=True, help="Let the held pipeline NAME send again.")
@_JSON
@speaking
@placed(api=False)
def held(
    places: Places,
    pipeline: str | None,
    resent: tuple[str, ...],
    dropped: tuple[str, ...],
    released: bool,
    as_json: bool,
) -> None:
    """List what waits for a person to decide, of all pipelines or of NAME; or decide it."""
    from batch_pipeline.batches.held import drop, list_held, release, resend

    decides = bool(resent or dropped or released)
    if as_json and decides:
        raise click.UsageError("--json lists; it does not go with a decision.")
    if released and pipeline is None:
        raise click.UsageError("--release needs the name of the pipeline.")
    stores = places.stores(pipeline)
    found = [(store, list_held(store, pipeline)) for store in stores]
    if not decides:
        show_held(found, as_json)
        if any(held.files or held.pipelines for _, held in found):
            raise SystemExit(WAITS)
        return
    holding = {file.id: store for store, held in found for file in held.files}
    for file in resent:
        resend(holding.get(file, stores[0]), file)
        click.echo(f"{file} is ready; its status sensor has it sent.")
    for file in dropped:
        drop(holding.get(file, stores[0]), file)
        click.echo(
            f"{file} is given up; its records are asked anew, as far as max_attempts allows."
        )
    if released and pipeline is not None:
        holders = [store for store, held in found if held.pipelines]
        for store in holders or stores[:1]:
            release(store, pipeline)
        click.echo(f"{pipeline} sends again.")


@click.command(epilog=EXIT_CODES)
@click.argument("pipeline", metavar="[NAME]", required=False)
@_JSON
@speaking
@placed(api=True)
def reconcile(places: Places, pipeline: str | None, as_json: bool) -> None:
    """Look at the API, and settle what is open or held, of all pipelines or of NAME.

    A file whose reply was lost is looked for in the API's batch list. Nothing is sent: what is found to be due, the
    status sensor has sent and collected.
    """
    settled, errors = _settle(places, places.stores(pipeline), pipeline)
    if as_json:
        settled_json(settled, errors)
    elif settled or not errors:
        show_settled(settled)
    if errors:
        raise RefusedError("\n".join(errors))
    if any(one.waits_for_a_person for _, one in settled):
        raise SystemExit(WAITS)


def _settle(
    places: Places, stores: "list[Store]", pipeline: str | None
) -> "tuple[list[tuple[Store, Settlement]], list[str]]":
    """Settle some stores; return what came out, and the errors of what could not be settled."""
    from batch_pipeline.batches.settle import Settlement, settle

    settled, errors = [], []
    for store in stores:
        parts: list[Settlement] = []
        for place, names in places.work(store, pipeline):
            try:
                with place.api() as (api, policy):
                    parts.extend(settle(store, api, policy, name) for name in names)
            except BatchPipelineError as error:
                errors.append(f"Not settled in the store {store.files.root}: {error}")
        if parts:
            # What waits for a person comes first. A file that several APIs were asked about is shown
            # by the one that has nothing to complain of: it is its own.
            lines = [line for part in parts for line in part.lines]
            lines.sort(key=lambda line: line.todo is None)
            once = {(line.pipeline, line.file): line for line in lines}
            notes = dict.fromkeys(note for part in parts for note in part.notes)
            costs = dict.fromkeys(cost for part in parts for cost in part.costs_unknown)
            settled.append((store, Settlement([*once.values()], [*notes], [*costs])))
    return settled, errors


@click.command(epilog=EXIT_CODES)
@click.argument("pipeline", metavar="NAME")
@click.option("--partition", metavar="KEY", help="Only this partition.")
@click.option("--yes", is_flag=True, help="Cancel without asking.")
@speaking
@placed(api=True)
def cancel(places: Places, pipeline: str, partition: str | None, yes: bool) -> None:
    """Cancel what NAME has on its way, on purpose; cancelling a run in Dagster never does that.

    What the API has answered by then is paid for, and is still collected.
    """
    from batch_pipeline.batches.cancel import cancel as cancel_files
    from batch_pipeline.batches.cancel import cancellable
    from batch_pipeline.batches.held import list_held

    stores = places.stores(pipeline)
    files = [file for store in stores for file in cancellable(store, pipeline, partition)]
    where = f"{pipeline}, partition {partition}" if partition else pipeline
    if not any(map(_can_be_cancelled, files)):
        already = ", except for what is cancelled already" if files else ""
        click.echo(f"There is nothing to cancel: {where} has nothing on its way{already}.")
        return
    with ExitStack() as connections:
        # A key that is not there is said before anybody is asked.
        apis = [(place, connections.enter_context(place.api())) for place in places.of(pipeline)]
        show_cancellable(where, files)
        confirm("Cancel it?", yes, "Nothing was cancelled.")
        done, errors = [], []
        for place, (api, _policy) in apis:
            try:
                done.append(cancel_files(place.store, api, pipeline, partition))
            except BatchPipelineError as error:
                errors.append(str(error))
    show_canceled(pipeline, done)
    if any(list_held(store, pipeline).files for store in stores):
        say(f"Held files are not cancelled: `batch-pipeline held {pipeline}` shows them.")
    if failed := [*errors, *(line for one in done for line in one.failed)]:
        raise RefusedError("Not cancelled:\n" + "\n".join(failed))


def _can_be_cancelled(file: "RowMapping") -> bool:
    """Return whether there is more to do: the API may not have been told of an earlier cancelling."""
    from batch_pipeline.store.tables import FileState

    is_told = file["state"] != FileState.IN_PROGRESS or file["cancel_sent_at"] is not None
    return file["cancel_requested_at"] is None or not is_told


@click.command("rebuild-ledger", epilog=EXIT_CODES)
@click.option("--yes", is_flag=True, help="Rebuild without asking.")
@speaking
@placed(api=True, lost=True)
def rebuild_ledger(places: Places, yes: bool) -> None:
    """Make a lost ledger anew, from the store's files and the API's batch list.

    Nothing is bought again: a file without kept answers is looked for in the API's list first.
    """
    from batch_pipeline.results.rebuild import rebuild

    stores = places.stores()
    if len(stores) > 1:
        stores = [store for store in stores if is_empty(store)] or stores
    skipped: list[str] = []
    for store in stores:
        question = f"Rebuild the ledger {store.ledger.shown} from the files of the store {store.files.root}?"
        confirm(question, yes, "Nothing was rebuilt.")
        rebuilt = rebuild(store)
        show_rebuilt(store, rebuilt)
        skipped += rebuilt.skipped
    settled, errors = _settle(places, stores, None)
    show_settled(settled)
    for error in errors:
        say(f"{error} Put that right, then: batch-pipeline reconcile")
    say(
        "The status sensors go on from here: kept answers are collected, and a file that the API's list does not have "
        "is sent again, or held if on_unknown says so. `batch-pipeline reconcile` shows how far that is."
    )
    if errors or skipped or any(one.waits_for_a_person for _, one in settled):
        raise SystemExit(WAITS)
