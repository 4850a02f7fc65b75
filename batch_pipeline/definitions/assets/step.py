"""What every step of a pipeline works with: the store, the endpoint, the partitions it is about."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TypeVar

import dagster as dg

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.outcome import ApiUnavailable
from batch_pipeline.batches.whose import expect, refusals_noted, whose
from batch_pipeline.definitions.failures import as_failures
from batch_pipeline.definitions.partition import partitions_of
from batch_pipeline.definitions.resources import BatchStore, ClaudeBatches
from batch_pipeline.definitions.variants import scopes_of
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.results import lost
from batch_pipeline.results.question import Question
from batch_pipeline.store.refusals import forget_refusal
from batch_pipeline.store.renaming import take_over, take_over_as_noted
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint, Scope, known_endpoints

Result = TypeVar("Result")


@contextmanager
def step(
    context: dg.AssetExecutionContext, pipeline: BatchPipeline, *, offline: bool = False
) -> Iterator[tuple[Store, ClaudeBatches, BatchesApi, list[Scope]]]:
    """Give a step its store, its endpoint and the scopes it works on.

    Args:
        context: the step's.
        pipeline: whose step it is.
        offline: the step can do its work while the API does not answer, so that one bad minute
            does not cost the night; the sensor sees to the sending later.
    """
    claude: ClaudeBatches = getattr(context.resources, pipeline.claude_key)
    resource: BatchStore = getattr(context.resources, pipeline.store_key)
    with as_failures():
        store = resource.open()
        if goes_on_with_old_name(store, pipeline):
            context.log.info(
                f"What was asked as {pipeline.renamed_from or 'another name'} belongs to {pipeline.name} from now on"
            )
        with closing(claude.api()) as api, refusals_noted(store, api, pipeline.name):
            endpoint = _identify(store, api, pipeline.name, offline=offline)
            yield store, claude, api, scopes_of(pipeline, partitions_of(context), endpoint)


def goes_on_with_old_name(store: Store, pipeline: BatchPipeline) -> bool:
    """Let a renamed pipeline go on with what the ledger has under its old name; whether it was there."""
    in_store = pipeline.destination is None
    return take_over(
        store, pipeline.name, pipeline.renamed_from, republish=in_store
    ) or take_over_as_noted(store, pipeline.name, republish=in_store)


def _identify(store: Store, api: BatchesApi, pipeline: str, *, offline: bool) -> Endpoint:
    """Ask the API who it is; while it does not answer, an offline step goes by who it always was."""
    try:
        endpoint = whose(store, api)
        forget_refusal(store.ledger, pipeline)
        return endpoint
    except ApiUnavailable:
        known = known_endpoints(store.ledger, api.base_url, *api.aliases)
        if not offline or len(known) != 1:
            raise
        expect(api, known)
        return known[0]


def count_rows(
    context: dg.AssetExecutionContext,
    pipeline: BatchPipeline,
    scopes: Sequence[Scope],
    rows: Sequence[int],
) -> None:
    """Say how many rows each partition of the step has, where there are partitions."""
    if pipeline.partitions is None:
        return
    counts: dict[str, int] = {}
    for scope, count in zip(scopes, rows, strict=True):
        counts[scope.key] = counts.get(scope.key, 0) + count
    for key, count in counts.items():
        context.add_asset_metadata({"dagster/partition_row_count": count}, partition_key=key)


def question_of(pipeline: BatchPipeline) -> Question:
    """Return the question of today's code: what judges the answers."""
    first, *others = (
        Question(
            OutputSchema.stored(one.request.output),
            pipeline.output_prefix,
            one.request.calls_tools,
            pipeline.prices,
            one.request.cites,
            one.request.keep_thinking,
        )
        for one in pipeline.by_scope.values()
    )
    return replace(first, others=tuple(others))


def make_again(
    context: dg.AssetExecutionContext,
    store: Store,
    api: BatchesApi,
    pipeline: BatchPipeline,
    *,
    thorough: bool = False,
) -> bool:
    """Make files that are gone from the store again; whether there were any.

    Args:
        context: the step's.
        store: where the files and the ledger are.
        api: the endpoint.
        pipeline: whose files.
        thorough: read every file, to find those that are damaged in their middle.

    Raises:
        LostFileError: some cannot be made again.
    """
    return lost.make_again(
        store,
        api,
        pipeline.name,
        pipeline.max_attempts,
        question_of(pipeline),
        context.log.warning,
        thorough=thorough,
    )


def with_lost_files(
    context: dg.AssetExecutionContext,
    store: Store,
    api: BatchesApi,
    pipeline: BatchPipeline,
    action: Callable[[], Result],
) -> Result:
    """Return what ``action`` returns; files of the store that are in its way are made again first.

    Raises:
        LostFileError: they cannot be.
    """
    return lost.with_lost_files(
        store,
        api,
        pipeline.name,
        pipeline.max_attempts,
        action,
        question_of(pipeline),
        context.log.warning,
    )
