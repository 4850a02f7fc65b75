"""What a run of a pipeline would send now: the first requests, their tokens, the price of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.output import in_usd, warn
from batch_pipeline.errors import BatchPipelineError, InputError

if TYPE_CHECKING:
    from batch_pipeline.batches.api import BatchesApi
    from batch_pipeline.cli.project import Declared
    from batch_pipeline.records.preview import PreviewedRecord, RecordsPreview
    from batch_pipeline.requests.compiled import CompiledTemplate
    from batch_pipeline.requests.estimate import Estimate
    from batch_pipeline.requests.kept_rate import Counting
    from batch_pipeline.requests.sample import Rendered
    from batch_pipeline.results.judge import Judged
    from batch_pipeline.store.store import Store
    from batch_pipeline.store.submissions import Endpoint, Scope

MOST_WEIGHED = 10_000
"""Requests that are built to tell what all of them come to: a batch's worth, which takes a second."""


@dataclass(frozen=True)
class Shown:
    """One of the requests.

    Attributes:
        first: its record.
        rendered: the request, or why there is none.
        tokens: its input tokens, as they were counted.
        cost: what it may cost in a batch, by its size; None when it cannot be asked.
    """

    first: "PreviewedRecord"
    rendered: "Rendered"
    tokens: int
    cost: "Estimate | None"


@dataclass(frozen=True)
class Answered:
    """An answer that was asked for now, and what it cost at full price."""

    shown: Shown
    judged: "Judged"
    cost: Decimal | None


@dataclass(frozen=True)
class Preview:
    """What a run would send.

    Attributes:
        pipeline: its name.
        partition: the partition; "" without.
        records: what would be asked.
        shown: the first requests.
        counted_by: who counted their tokens: the API, or an estimate and why.
        cost: of all requests that would be sent, as the run will say it.
        weighed: how many of them it goes by, the first ones by key.
        at: when this is.
        variant: the way of asking; "" without.
        live_after: when what is not answered is asked live; "" when it is not.
    """

    pipeline: str
    partition: str
    records: "RecordsPreview[CompiledTemplate]"
    shown: Sequence[Shown]
    counted_by: str
    cost: "Estimate"
    weighed: int
    at: datetime
    variant: str = ""
    live_after: str = ""

    @property
    def late_said(self) -> str:
        """What is said of answers that are late; "" where they are only reported."""
        if not self.live_after or self.cost.usd_synchronous is None:
            return ""
        return (
            f"What is not answered by {self.live_after} is asked live, at full price: about "
            f"{in_usd(self.cost.usd_synchronous)} for all of it."
        )


@dataclass(frozen=True)
class Wanted:
    """What a person wants to see.

    Attributes:
        partition: the partition; None: the one that a night would ask about.
        where: as in a run's config.
        force: as in a run's config.
        number: how many requests; None: all.
        variant: which variant; "" of a pipeline without.
    """

    partition: str | None
    where: str | None
    force: bool
    number: int | None
    variant: str = ""


def build_preview(
    one: "Declared",
    store: "Store | None",
    api: "BatchesApi | None",
    why_not: str,
    wanted: Wanted,
    folder: str,
) -> Preview:
    """Return what a run would send now. It reads only.

    Args:
        one: the pipeline, and its resources.
        store: None when no run has made it yet.
        api: counts the tokens and says whose the key is; None when it cannot be asked.
        why_not: why it cannot.
        wanted: what to look at.
        folder: an empty local folder.

    Raises:
        InputError: the source, the question, the partition or the condition cannot be used.
        click.UsageError: a partition must be named.
    """
    from batch_pipeline.requests.cache_groups import read_groups
    from batch_pipeline.requests.estimate import estimate
    from batch_pipeline.requests.kept_rate import rate_of
    from batch_pipeline.requests.lengths import NO_ANSWERS, lengths_of
    from batch_pipeline.requests.prices import price_of, utc_day
    from batch_pipeline.requests.sample import alone, render, weigh
    from batch_pipeline.store.clock import process_clock

    now = process_clock().now()
    pipeline = one.pipeline.as_asked(wanted.variant)
    scope, records = select_wanted(
        one, store, api, wanted, folder, first=wanted.number or 0, most=MOST_WEIGHED, now=now
    )
    name, partition = scope.pipeline, scope.key
    template, limits = records.question, one.claude.limits
    lengths = NO_ANSWERS
    if store:
        lengths = lengths_of(store, name, template.version, template.template.max_tokens)
    path, price = records.selection.records_path, price_of(template.template.model, utc_day(now), pipeline.prices)  # fmt: skip
    groups = read_groups(path, template, lengths, price) if path else None
    rendered = [
        render(first.path, template, limits, f"{folder}/request-{place}", groups)
        for place, first in enumerate(records.first)
    ]
    counting = api.with_betas(template.template.betas).count_tokens if api else None
    tokens, counted_by = _tokens(rendered, counting, why_not)
    weighed = records.selection.asked - records.selection.duplicates
    built = weigh(path, template, limits, f"{folder}/all", records.requests, weighed, groups)
    rate = rate_of(
        store, name, template, [file.path for file in built.files], [file.bytes for file in built.files],
        sum(file.requests for file in built.files), counting, why_not, keep=False,
    )  # fmt: skip
    going_by = {"at": now, "lengths": lengths, "rate": rate, "prices": pipeline.prices}
    shown = [
        Shown(
            first,
            request,
            count,
            estimate(alone(request), template, **going_by) if request.params is not None else None,
        )
        for first, request, count in zip(records.first, rendered, tokens, strict=True)
    ]
    cost = estimate(built, template, **going_by)
    by = pipeline.deadline
    live_after = str(by) if by is not None and by.late == "live" else ""
    return Preview(
        pipeline.name, partition, records, shown, counted_by, cost, weighed, now, wanted.variant,
        live_after,
    )  # fmt: skip


def select_wanted(
    one: "Declared",
    store: "Store | None",
    api: "BatchesApi | None",
    wanted: Wanted,
    folder: str,
    *,
    first: int,
    most: int | None,
    now: datetime,
) -> "tuple[Scope, RecordsPreview[CompiledTemplate]]":
    """Select what a run would ask now, as a run does, and keep nothing of it.

    Args:
        one: the pipeline, and its resources.
        store: None when no run has made it yet.
        api: says whose the key is; None when it cannot be asked.
        wanted: what to look at.
        folder: an empty local folder; it gets the records.
        first: how many records to bring along, each by itself.
        most: how many to write together; None: all.
        now: when this is.

    Raises:
        InputError: the source, the question, the partition or the condition cannot be used.
        click.UsageError: a partition must be named.
    """
    from batch_pipeline.definitions.partition import filter_of
    from batch_pipeline.definitions.question import bound
    from batch_pipeline.definitions.rows import source_of
    from batch_pipeline.definitions.variants import why_not_together
    from batch_pipeline.records.preview import preview_records
    from batch_pipeline.store.renaming import name_in_ledger
    from batch_pipeline.store.submissions import Scope
    from batch_pipeline.store.variants import scope_name

    pipeline = one.pipeline.as_asked(wanted.variant)
    partition = partition_of(one, wanted.partition, now)
    name = (
        name_in_ledger(store.ledger, pipeline.name, pipeline.renamed_from)
        if store
        else pipeline.name
    )
    scope = Scope(name, scope_name(partition, wanted.variant), endpoint_of(one, store, api))
    if store is not None:
        if why := why_not_together(store, pipeline if not wanted.variant else one.pipeline):
            raise InputError(why)
        note_other_account(store, scope, wanted.force)
    records = preview_records(
        store,
        scope,
        source_of(pipeline, store),
        lambda columns: bound(pipeline, columns),
        partition_filter=filter_of(pipeline, partition),
        refresh=pipeline.refresh,
        max_attempts=pipeline.max_attempts,
        first=first,
        most=most,
        where=wanted.where,
        force=wanted.force,
        dedupe=pipeline.dedupe,
        correct=pipeline.correct_invalid,
        rules=pipeline.rules,
        folder=folder,
    )
    if records.selection.reask is not None and not wanted.force:
        warn(
            f"Note: {records.selection.reask} A run refuses that, unless it has allow_reask: true."
        )
    return scope, records


def wanted_variants(one: "Declared", given: str | None) -> list[str]:
    """Return the variants to look at: the one that is given, or all; "" alone for a pipeline without.

    Raises:
        InputError: there is no such variant.
    """
    declared = one.pipeline.by_variant
    if given is None:
        return [*declared]
    if given not in declared or not given:
        there = ", ".join(filter(None, declared)) or "none"
        raise InputError(f"{one.pipeline.name} has no variant {given}. Its variants are: {there}.")
    return [given]


def one_variant(one: "Declared", given: str | None) -> str:
    """Return the variant that a file or a batch of requests is of; "" for a pipeline without.

    Raises:
        InputError: there is no such variant.
        click.UsageError: there are several, and none is given.
    """
    names = wanted_variants(one, given)
    if len(names) > 1:
        raise click.UsageError(
            f"{one.pipeline.name} has variants, whose requests go into batches of their own: name one with --variant, "
            f"of {', '.join(names)}."
        )
    return names[0]


def endpoint_of(one: "Declared", store: "Store | None", api: "BatchesApi | None") -> "Endpoint":
    """Return whose answers count as answered: what was asked elsewhere would be asked again."""
    from batch_pipeline.store.submissions import Endpoint, known_as, known_endpoints

    if api is not None:
        seen = api.identify()
        return known_as(store.ledger, seen, api.aliases) if store else seen
    known = known_endpoints(store.ledger, *one.claude.addresses) if store else []
    if len(known) > 1:
        raise InputError(
            f"{one.claude.url} does not say who we are, and the ledger knows {len(known)} accounts there: what is "
            "answered differs. Set the API key, or wait until the API answers."
        )
    return known[0] if known else Endpoint(one.claude.url, "", "")


def note_other_account(store: "Store", scope: "Scope", force: bool) -> None:
    """Say so when all that is answered was answered elsewhere, and counts for nothing here."""
    from batch_pipeline.store.submissions import asked_at, asked_elsewhere

    if elsewhere := asked_elsewhere(store.ledger, scope):
        if not force:
            warn(
                f"Note: {scope.pipeline} was asked at {elsewhere}, and the key belongs to {scope.endpoint} now. A run "
                "refuses to ask all of it again there, unless it has force: true."
            )
        return
    asked = asked_at(store.ledger, scope.pipeline)
    if asked and scope.endpoint not in asked:
        warn(
            f"Note: {scope.pipeline} was asked at {asked[0]} and never at {scope.endpoint}: what was answered there "
            "does not count here."
        )


def partition_of(one: "Declared", given: str | None, now: datetime) -> str:
    """Return the partition to look at; the one that a night would ask about when none is given."""
    import dagster as dg

    from batch_pipeline.definitions.partition import is_dynamic, last_ended

    definition, name = one.pipeline.partitions, one.pipeline.name
    if definition is None:
        if given is not None:
            raise click.UsageError(f"{name} has no partitions.")
        return ""
    keys = None if is_dynamic(one.pipeline) else definition.get_partition_keys(current_time=now)
    if given is not None:
        if keys is not None and given not in keys:
            raise InputError(
                f"{name} has no partition {given}. Its last ones are: {', '.join(keys[-5:])}."
            )
        return given
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        if ended := last_ended(one.pipeline, keys or (), now):
            return ended[0]
        raise InputError(
            f"{name} has no partition that is complete yet. Name one: --partition KEY."
        )
    there = f" They are: {', '.join(keys[:10])}{' ...' if len(keys) > 10 else ''}." if keys else ""
    raise click.UsageError(f"{name} has partitions: name one, with --partition KEY.{there}")


def _tokens(
    rendered: "Sequence[Rendered]", counting: "Counting | None", why_not: str
) -> tuple[list[int], str]:
    """Return the input tokens of some requests, and who counted them."""
    from batch_pipeline.requests.sample import estimated_tokens

    if counting is not None:
        try:
            return [
                counting(one.params) if one.params is not None else 0 for one in rendered
            ], "counted by the API"
        except BatchPipelineError as error:
            why_not = str(error)
    return (
        [estimated_tokens(one) for one in rendered],
        f"estimated from the size of the requests, because the API did not count them ({why_not.rstrip('.')})",
    )
