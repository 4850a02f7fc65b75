"""The step of ``NAME/records``: what needs an answer."""

import functools
from collections.abc import Callable, Sequence

import dagster as dg

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.held import resend_answered
from batch_pipeline.batches.outcome import ApiUnavailable
from batch_pipeline.definitions import lineage, metadata
from batch_pipeline.definitions.assets.look import allow
from batch_pipeline.definitions.assets.step import count_rows, make_again, step, with_lost_files
from batch_pipeline.definitions.partition import filter_of
from batch_pipeline.definitions.question import bound
from batch_pipeline.definitions.rows import (
    destination_of,
    earlier_names,
    source_of,
    wanted_of,
)
from batch_pipeline.definitions.variants import check_together, table_keys, with_earlier
from batch_pipeline.errors import HeldError, InputError, LostFileError, StoreError, counted
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.connections import (
    SMALL_MEMORY,
    memory_connection,
    quote_files,
    quote_text,
)
from batch_pipeline.records.reask import Destination
from batch_pipeline.records.selection import Ask
from batch_pipeline.records.sources import ESCALATED as ESCALATED_COLUMN
from batch_pipeline.records.sources import VARIANT, ResultsSource, only_among
from batch_pipeline.records.submission import SelectedSubmission, select_submission
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.join import write_parquet
from batch_pipeline.results.lost_answers import state_of
from batch_pipeline.results.publish import Published, publish
from batch_pipeline.store.addresses import same_address
from batch_pipeline.store.escalation import SEEN, files_settled
from batch_pipeline.store.renaming import check_not_renamed, went_over
from batch_pipeline.store.seen import knows_all
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import (
    Scope,
    abandon_unbuilt,
    asked_elsewhere,
    latest_prefix,
    unsent,
)
from batch_pipeline.store.variants import ESCALATED

ONCE = ("source_rows", "in_flight", "settled", "exhausted", "left_out", "ruled", "by_rule")
"""Counts of a selection that are about records of the source, whether they are asked or not."""


def materialize(
    context: dg.AssetExecutionContext, pipeline: BatchPipeline, ask: Ask
) -> dg.MaterializeResult:
    """Select what needs an answer, partition by partition, and commit each selection as a submission."""
    with (
        step(context, pipeline, offline=True) as (store, _claude, api, scopes),
        store.files.scratch() as folder,
    ):
        if ask.limit is not None and ask.limit < 0:
            raise InputError(f"The limit of this run is {ask.limit}; it must be 0 or more.")
        if not (ask.force or ask.allow_reask):
            check_not_renamed(store.ledger, pipeline.name)
        check_together(store, pipeline)
        for scope in set(with_earlier(store, scopes)) - set(scopes):
            abandon_unbuilt(store.ledger, scope)
        _check_account(store, pipeline, scopes, ask)
        # What cannot be written is not asked for.
        destination = destination_of(pipeline, store)
        source = source_of(pipeline, store)
        if isinstance(source, ResultsSource) and (not_yet := source.not_yet()) is not None:
            context.log.warning(f"{pipeline.name}: {not_yet} Nothing to ask.")
            _put_right(context, store, api, pipeline, destination)
            count_rows(context, pipeline, scopes, [0] * len(scopes))
            return dg.MaterializeResult(
                metadata=metadata.of_selection([], []) | {"not_yet": not_yet}
            )
        destination.check(wanted_of(pipeline, store))
        among = f"{folder}/unsettled.parquet"
        partial = ask.limit is not None or bool(ask.where)
        first_scopes = [scope for scope in scopes if scope.variant != ESCALATED]
        if partial:  # what the better model is asked about, a whole run says
            scopes = first_scopes
        lookup = _lookup(store, pipeline, destination, folder)
        against = _other_prefix(store, pipeline)
        selections = []
        escalate = pipeline.escalate
        looked_at = 0
        better = (
            (lambda columns: bound(pipeline.by_scope[ESCALATED], columns)) if escalate else None
        )
        for scope in scopes:
            is_better = scope.variant == ESCALATED
            if escalate is not None and not is_better:
                looked_at = files_settled(store.ledger, pipeline.name, scope.partition)

            def selected_in(scope: Scope, is_better: bool, looked_at: int) -> SelectedSubmission:
                asked = pipeline.as_asked(scope.variant)
                read = source_of(asked, store)
                return select_submission(
                    store,
                    scope,
                    only_among(read, among) if is_better else read,
                    lambda columns: bound(asked, columns),
                    partition_filter=filter_of(pipeline, scope.key),
                    refresh=pipeline.refresh,
                    max_attempts=pipeline.max_attempts,
                    on_deleted="keep" if is_better else pipeline.on_deleted,
                    ask=Ask(allow_reask=ask.allow_reask) if is_better else ask,
                    dedupe=pipeline.dedupe,
                    correct=pipeline.correct_invalid,
                    rules=() if is_better else asked.rules,
                    destination=lookup and lookup(scope),
                    against=against,
                    unsettled=escalate.unsettled if escalate and not is_better else None,
                    unsettled_into=among,
                    noted={SEEN: looked_at} if is_better else None,
                    compile_better=None if is_better else better,
                )

            # A file of an earlier night may be gone or damaged: it can be made again.
            selected = with_lost_files(
                context,
                store,
                api,
                pipeline,
                functools.partial(selected_in, scope, is_better, looked_at),
            )
            selections.append(selected.selection)
            if ask.force or ask.allow_reask:
                allow(store, pipeline, scope)
                for file in resend_answered(store, pipeline.name, scope.partition):
                    context.log.info(f"{file} was held, and is sent with this run")
            context.log.info(_selection_line(pipeline, scope, selected.number, selected.selection))
        # Not earlier: a store that was restored from before the last night would put back old rows.
        _put_right(context, store, api, pipeline, destination)
    count_rows(
        context, pipeline, scopes, [one.asked + one.reused + one.ruled for one in selections]
    )
    hidden = ESCALATED_COLUMN if escalate else VARIANT if "" not in pipeline.by_variant else None
    columns = [
        column for column in selections[0 if escalate else -1].columns if column[0] != hidden
    ]
    shown = metadata.of_selection(selections, columns)
    if escalate is not None:
        # The better model's records are some of the same: they are counted once.
        first = [
            one for scope, one in zip(scopes, selections, strict=True) if scope.variant != ESCALATED
        ]
        once = metadata.of_selection(first, columns)
        shown |= {name: once[name] for name in ONCE}
        shown["escalated"] = shown["asked"] - once["asked"]
    return dg.MaterializeResult(
        metadata=shown | lineage.of_records(pipeline, [name for name, _ in columns])
    )


def _lookup(
    store: Store,
    pipeline: BatchPipeline,
    destination: DuckDBTable | ParquetDataset,
    folder: str,
) -> Callable[[Scope], Destination] | None:
    """Return what tells of answers that the store lost; None for a table that is lost with the store."""
    if pipeline.destination is None:
        return None

    @functools.cache
    def rows() -> str | None:
        there = destination.snapshot(table_keys(pipeline, store), f"{folder}/there.parquet")
        owners = (pipeline.name, *earlier_names(pipeline))
        is_ours = there.owner in owners or went_over(store.ledger, there.owner, pipeline.name)
        return there.path if is_ours else None

    @functools.cache
    def rows_of_variant(variant: str) -> str | None:
        path = rows()
        if variant in ("", ESCALATED) or path is None:
            return path
        only = f"{folder}/there-{variant}.parquet"
        with memory_connection(SMALL_MEMORY) as con:
            write_parquet(
                con,
                f"select * from read_parquet({quote_files([path])}) where {VARIANT} = {quote_text(variant)}",
                only,
            )
        return only

    @functools.cache
    def state() -> str:
        return state_of(destination, destination.whose()[0])

    def of(scope: Scope) -> Destination:
        return Destination(
            destination.describe(),
            lambda: (
                None
                if knows_all(store.ledger, scope.pipeline, scope.partition, state())
                else rows_of_variant(scope.variant)
            ),
            unsent(store.ledger, pipeline.name),
        )

    return of


def _other_prefix(store: Store, pipeline: BatchPipeline) -> str | None:
    """Return why nothing is asked when answers would get columns of other names than the earlier ones."""
    earlier = latest_prefix(store.ledger, pipeline.name)
    if earlier in (None, pipeline.output_prefix):
        return None
    return (
        f"{pipeline.name}: output_prefix was {earlier!r} when it last asked, and is {pipeline.output_prefix!r} now. New "
        "answers would stand in columns of other names, beside those of the earlier ones, which stay. Nothing was sent or "
        f"changed. Set output_prefix={earlier!r} back; a view gives the columns any name. To go on with both, launch "
        f"{pipeline.name}_submit once with allow_reask: true: that asks nothing again by itself. With force: true all is "
        "asked and paid again, and stands under the new names."
    )


def _put_right(
    context: dg.AssetExecutionContext,
    store: Store,
    api: BatchesApi,
    pipeline: BatchPipeline,
    destination: DuckDBTable | ParquetDataset,
) -> None:
    """Put right what somebody dropped, deleted or doubled: a night that asks nothing collects nothing."""

    def look(*, only_hurt: bool) -> Published:
        return publish(
            store,
            pipeline.name,
            destination,
            table_keys(pipeline, store),
            names=earlier_names(pipeline),
            only_hurt=only_hurt,
        )

    try:
        try:
            published = look(only_hurt=True)
        except LostFileError:
            # Its rows can be made again, as the next collect run would.
            if not make_again(context, store, api, pipeline, thorough=True):
                raise
            published = look(only_hurt=False)
    except (ApiUnavailable, HeldError, StoreError) as error:
        context.log.warning(f"The table was not compared with what it must hold: {error}")
        return
    if published.put_right:
        context.log.warning(
            f"Somebody changed {destination.describe()}: {published.put_right}. That is put right from "
            "the store's files, at no cost."
        )


def _check_account(
    store: Store, pipeline: BatchPipeline, scopes: Sequence[Scope], ask: Ask
) -> None:
    """Refuse to ask everything again for another account at the same address, unless that is wanted."""
    elsewhere = asked_elsewhere(store.ledger, scopes[0])
    if elsewhere is None or ask.force:
        return
    here = scopes[0].endpoint
    if not same_address(elsewhere.base_url, [here.base_url]):
        raise HeldError(
            f"{pipeline.name} was asked at {elsewhere}, and the base URL is {here.base_url} now: the same "
            "organization and workspace at another address. What was answered there would not count here, so "
            "everything would be asked and paid again; nothing was. If both addresses lead to the same API, say so: "
            f'ClaudeBatches(aliases=["{elsewhere.base_url}"]). Else set base_url back; or, to ask all of it here, on '
            f"purpose, launch {pipeline.name}_submit once with force: true."
        )
    raise HeldError(
        f"{pipeline.name} was asked at {elsewhere}, and the API key now belongs to "
        f"{here}. What was answered there does not count here, so everything would be "
        "asked and paid again; nothing was. Set ClaudeBatches(api_key=...) back to a key of that "
        f"workspace; what is open there is collected then. To ask all of it here, on purpose, launch "
        f"{pipeline.name}_submit once with force: true."
    )


def _selection_line(pipeline: BatchPipeline, scope: Scope, number: int, found) -> str:
    where = scope.title
    if not found.source_rows and scope.variant == ESCALATED:
        return f"{where}: no answer of the first model is to be asked of the better one now."
    if not found.source_rows:
        return f"{where}: the source has no rows. Nothing to ask."
    parts = {
        "new": found.new,
        "changed": found.changed,
        "asked anew because the question changed": found.version_changed,
        "to ask again": found.retried,
        "forced": found.forced,
    }
    known = {
        "settled by a rule, at no cost": found.ruled,
        "answered earlier and published again at no cost": found.reused,
        "deleted": found.deleted,
        "on their way": found.in_flight,
        "settled": found.settled,
        "out of attempts": found.exhausted,
        "erased by a person, and not asked": found.erased,
        "left out of this run": found.left_out,
    }
    asked = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count)
    if found.duplicates:
        asked += f"; {found.duplicates:,} of them by the request of another one that is the same"
    rest = ", ".join(f"{count:,} {name}" for name, count in known.items() if count)
    head = f"{found.asked:,} of {counted(found.source_rows, 'record')} need an answer ({asked})" if found.asked else (
        f"nothing of {counted(found.source_rows, 'record')} needs an answer"
    )  # fmt: skip
    return f"{where}: {head}; {rest or 'no others'}." + (f" Submission {number}." if number else "")
