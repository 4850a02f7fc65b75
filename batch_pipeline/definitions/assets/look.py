"""Looking at the table before what waits is sent: it may hold answers that the store lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import dagster as dg
import duckdb

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.claim import postpone
from batch_pipeline.batches.held import decided, hold_answered
from batch_pipeline.definitions.assets.step import with_lost_files
from batch_pipeline.definitions.rows import destination_of, earlier_names
from batch_pipeline.definitions.variants import table_keys
from batch_pipeline.errors import InputError, counted, sentence
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.connections import first_line, lost_files_told
from batch_pipeline.results.lost_answers import (
    Answered,
    answered,
    copy_answered,
    state_of,
    waiting,
)
from batch_pipeline.store.renaming import went_over
from batch_pipeline.store.seen import forget_vain, has_seen, in_vain_since, knows_all, see
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Scope
from batch_pipeline.store.tables import FileState

LONGEST_WAIT = timedelta(hours=1)
"""So long sending waits for a table that cannot be looked at."""
LOOK_AGAIN_SECONDS = 300.0


def may_send(
    context: dg.AssetExecutionContext,
    store: Store,
    api: BatchesApi,
    pipeline: BatchPipeline,
    scope: Scope,
) -> bool:
    """Hold what is ready and answered in the table by answers that the store does not know.

    Only a table that others than this ledger changed since the last look is read: else its mark tells.

    Returns:
        False when the table cannot be looked at now: what is ready waits for it, an hour at most.

    Raises:
        LostFileError: a file of the store cannot be read.
    """
    if pipeline.destination is None:
        return True  # it is lost with the store
    ready = [file for file in waiting(store, scope) if file["state"] == FileState.READY]
    if not ready:
        return True
    try:
        with store.files.scratch() as folder:
            if (read := _read(store, pipeline, scope, f"{folder}/there.parquet")) is not None:
                found, knows = _compare(context, store, api, pipeline, scope, read.path)
                if _hold(context, store, pipeline, scope, found):
                    see(store.ledger, scope.pipeline, scope.partition, read.state, knows=knows)
    except _UnreadableError as unreadable:
        error = unreadable.reason
        since = in_vain_since(store.ledger, scope.pipeline, scope.partition)
        place = destination_of(pipeline, store).describe()
        why = f"{place[0].upper()}{place[1:]} cannot be read since {since:%Y-%m-%d %H:%M} UTC ({sentence(first_line(error))})"
        if store.clock.now() - since >= LONGEST_WAIT:
            context.log.warning(
                f"{why} What is ready is sent now, without a look whether it is answered there already."
            )
            return True
        for file in ready:
            postpone(store.ledger, file["id"], LOOK_AGAIN_SECONDS)
        context.log.warning(
            f"{why} Nothing was sent: it may hold answers to {counted(len(ready), 'file')} that are ready. It is looked "
            f"at again in {LOOK_AGAIN_SECONDS / 60:.0f} min; from {since + LONGEST_WAIT:%H:%M} UTC on they are sent "
            "without."
        )
        return False
    forget_vain(store.ledger, scope.pipeline, scope.partition)
    return True


def allow(store: Store, pipeline: BatchPipeline, scope: Scope) -> None:
    """Take the table as it is now for looked through: a person said to ask all the same."""
    if pipeline.destination is not None:
        destination = destination_of(pipeline, store)
        generation, _ = destination.whose()
        state = state_of(destination, generation)
        # What it holds beside is refused as before, when another run would ask it.
        knows = knows_all(store.ledger, scope.pipeline, scope.partition, state)
        see(store.ledger, scope.pipeline, scope.partition, state, knows=knows)


class _UnreadableError(Exception):
    """The table cannot be read."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True)
class _Read:
    """What was read of a table: its answered rows, and which state of it they are of, or a later one."""

    path: str
    state: str


def _read(store: Store, pipeline: BatchPipeline, scope: Scope, path: str) -> _Read | None:
    """Copy the table's answered rows; None when it is not ours, or was looked through as it is."""
    destination = destination_of(pipeline, store)
    names = (pipeline.name, *earlier_names(pipeline))
    try:
        # In this order: what is merged after the state was read is looked at the next time.
        generation, owner = destination.whose()
        state = state_of(destination, generation)
        if not (owner in names or went_over(store.ledger, owner, pipeline.name)):
            return None
        if has_seen(store.ledger, scope.pipeline, scope.partition, state):
            return None
        return (
            _Read(path, state)
            if copy_answered(destination, table_keys(pipeline, store), path)
            else None
        )
    except (InputError, OSError, duckdb.Error) as error:
        raise _UnreadableError(error) from error


def _hold(
    context: dg.AssetExecutionContext,
    store: Store,
    pipeline: BatchPipeline,
    scope: Scope,
    found: Sequence[Answered],
) -> bool:
    """Hold what is answered, unless a person said to send it; whether there was nothing of the kind."""
    place = destination_of(pipeline, store).describe()
    undecided = [one for one in found if not decided(store, one.file["id"])]
    for one in undecided:
        if one.file["state"] == FileState.READY:
            said = hold_answered(store, one.file, one.records, place)
            if said:
                context.log.warning(said)
    return not undecided


def _compare(
    context: dg.AssetExecutionContext,
    store: Store,
    api: BatchesApi,
    pipeline: BatchPipeline,
    scope: Scope,
    there: str,
) -> tuple[list[Answered], bool]:
    def compared() -> tuple[list[Answered], bool]:
        with lost_files_told(
            pipeline.name, "Bring it back, from a backup if need be; nothing was sent or changed."
        ):
            return answered(store, scope, waiting(store, scope), there, table_keys(pipeline, store))

    # A file of an earlier night may be gone or damaged: it can be made again.
    return with_lost_files(context, store, api, pipeline, compared)
