"""The variants of a pipeline: which scopes a step works on, and what the ledger has of others."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from batch_pipeline.errors import HeldError, counted
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.sources import VARIANT
from batch_pipeline.results.publish import table_key
from batch_pipeline.store.scopes import names_in
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint, Scope
from batch_pipeline.store.tables import FileState, request_files
from batch_pipeline.store.variants import ESCALATED, partition_of, scope_name, variant_of


def scopes_of(pipeline: BatchPipeline, partitions: Sequence[str], at: Endpoint) -> list[Scope]:
    """Return what a step asks about: each variant that is declared, of each partition."""
    return [
        Scope(pipeline.name, scope_name(partition, variant), at)
        for partition in partitions
        for variant in pipeline.by_scope
    ]


def with_earlier(store: Store, scopes: Sequence[Scope]) -> list[Scope]:
    """Return scopes, and those of the same partitions' variants that are not declared (any more)."""
    known = {scope.partition for scope in scopes}
    keys = {scope.key for scope in scopes}
    return [
        *scopes,
        *(
            replace(scopes[0], partition=name)
            for name in sorted(names_in(store.ledger, scopes[0].pipeline))
            if name not in known and partition_of(name) in keys
        ),
    ]


def is_declared(pipeline: BatchPipeline) -> Callable[[str], bool]:
    """Return what tells of a name in the ledger whether its variant is declared."""
    return lambda name: variant_of(name) in pipeline.by_scope


def table_keys(pipeline: BatchPipeline, store: Store) -> tuple[str, ...]:
    """Return the key's columns of the results table: with what the ledger has, which goes before the code."""
    keys = pipeline.source.keys
    if "" not in pipeline.by_variant and not names_in(store.ledger, pipeline.name):
        return (*keys, VARIANT)
    return table_key(store, pipeline.name, keys)


def why_not_together(store: Store, pipeline: BatchPipeline) -> str | None:
    """Return why nothing is asked of a pipeline whose answers of before are with variants, and now without, or the other way."""
    names = {
        name for name in names_in(store.ledger, pipeline.name) if variant_of(name) != ESCALATED
    }
    varied = "" not in pipeline.by_variant
    if not names or any(bool(variant_of(name)) == varied for name in names):
        return None
    before, now = ("without", "with") if varied else ("with", "without")
    rows = ("one row per record", "one per record and variant")
    one, other = rows if varied else rows[::-1]
    return (
        f"{pipeline.name} was asked {before} variants until now, so its table has {one}. {now.capitalize()} variants it "
        f"has {other}, and all would be asked and paid again. Nothing was sent or changed. Declare "
        f"the pipeline {now} variants under another name, with a destination of its own; or go on {before} variants here."
    )


def check_together(store: Store, pipeline: BatchPipeline) -> None:
    """Refuse to ask with variants what was asked without them, and the other way round.

    Raises:
        HeldError: it says how to go on.
    """
    if (why := why_not_together(store, pipeline)) is not None:
        raise HeldError(why)


def left_unsent(store: Store, pipeline: BatchPipeline) -> str | None:
    """Say which variants that are not declared (any more) have files that wait; None when none do."""
    declared = is_declared(pipeline)
    rows = store.ledger.rows(
        request_files.select().where(
            request_files.c.pipeline == pipeline.name, request_files.c.state == FileState.READY
        )
    )
    left = [variant_of(row["partition"]) for row in rows if not declared(row["partition"])]
    if not left:
        return None
    said = {"": "the request without variants", ESCALATED: "the better model of escalate"}
    names = ", ".join(sorted({said.get(name, name) for name in left}))
    return (
        f"{counted(len(left), 'file')} of what {pipeline.name} does not ask (any more) ({names}) will not be sent: "
        f"declare it again, or give it up with `batch-pipeline cancel {pipeline.name}`"
    )
