"""What a user declares: one question, asked about every record of a source."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any, Literal, cast

import dagster as dg

from batch_pipeline.batches.deadline import AnswerBy
from batch_pipeline.batches.hours import SendBetween, check_timezone
from batch_pipeline.errors import InputError
from batch_pipeline.records.rules import Rule
from batch_pipeline.records.sources import (
    DuckDBSource,
    ParquetSource,
    RequestFiles,
    ResultsSource,
    for_escalation,
    for_variant,
)
from batch_pipeline.requests.escalate import Escalate
from batch_pipeline.requests.label import Label, label_of
from batch_pipeline.requests.own_prices import check_prices
from batch_pipeline.requests.ready import ReadyLines, ready_lines
from batch_pipeline.requests.tasks.task import Task, template_of
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.requests.variants import variant_templates
from batch_pipeline.results.addressees import check_notify
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.rules import rules_of
from batch_pipeline.results.thresholds import Threshold, thresholds_of
from batch_pipeline.store.variants import ESCALATED

PACKAGE = "batch_pipeline"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check_cron(cron: object, field: str) -> None:
    """Refuse what is no cron string that Dagster can go by.

    Raises:
        InputError: it begins with ``field``.
    """
    try:
        # It refuses a cron string that it cannot go by.
        dg.ScheduleDefinition(name="check", job_name="check", cron_schedule=cast(str, cron))
    except Exception:
        raise InputError(
            f"{field} is {cron!r}; it must be a cron string of five fields (minute, hour, day of the month, month, "
            "weekday), such as 0 23 * * *."
        ) from None


@dataclass(frozen=True)
class Schedule:
    """When a pipeline's submit job runs by itself.

    Attributes:
        cron: a cron string, such as ``0 23 * * *``.
        timezone: the IANA name of the zone the cron string is in; daylight saving is Dagster's.
        status: whether it runs from the start, or waits to be switched on in the UI.

    Raises:
        InputError: the cron string or the zone is none.
    """

    cron: str
    timezone: str = "UTC"
    status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        check_timezone(self.timezone, "Schedule: timezone")
        check_cron(self.cron, "Schedule: cron")


@dataclass(frozen=True)
class Arrivals:
    """That a pipeline's submit job also runs when records arrive, and how often at most.

    Attributes:
        min_records: a run is requested once so many records need an answer.
        cooldown_minutes: how long after a submit run began, however it was started, the next one is
            requested at the earliest. What arrives meanwhile is asked for after that.
        status: whether the sensor runs from the start, or waits to be switched on in the UI.

    Raises:
        InputError: a number is out of range.
    """

    min_records: int = 1
    cooldown_minutes: float = 60
    status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        for name, least in (("min_records", 1), ("cooldown_minutes", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or value < least:
                raise InputError(f"Arrivals: {name} is {value!r}; it must be {least} or more.")


@dataclass(frozen=True)
class Budget:
    """What a pipeline may spend. Nothing is sent that would pass it.

    Attributes:
        per_submission_usd: for one submission: what one submit run selects.
        per_month_usd: for the pipeline in a calendar month, UTC, by when its files are sent.
        reserve: how much is set aside for what is not answered yet: ``p99`` for answers as long as the
            longest hundredth of the earlier ones (``max_tokens`` until there are 30), or ``max`` for
            answers of ``max_tokens``.
        over: what becomes of a submission that does not fit: ``hold`` it whole until a person lets it
            through, or ``trim`` it to the files that fit; the rest waits for the next night.

    Raises:
        InputError: a cap is no sum of money.
    """

    per_submission_usd: float | None = None
    per_month_usd: float | None = None
    reserve: Literal["p99", "max"] = "p99"
    over: Literal["hold", "trim"] = "hold"

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        caps = {"per_submission_usd": self.per_submission_usd, "per_month_usd": self.per_month_usd}
        for name, cap in caps.items():
            if cap is None:
                continue
            is_number = isinstance(cap, int | float) and not isinstance(cap, bool)
            if not is_number or not isfinite(cap) or cap <= 0:
                raise InputError(
                    f"Budget: {name} is {cap!r}; it must be a sum in USD, more than 0."
                )
        if all(cap is None for cap in caps.values()):
            raise InputError(
                "Budget: there is no cap in it. Give per_submission_usd or per_month_usd, in USD."
            )
        for name, words in (("reserve", ("p99", "max")), ("over", ("hold", "trim"))):
            if getattr(self, name) not in words:
                raise InputError(
                    f"Budget: {name} is {getattr(self, name)!r}; it must be {' or '.join(words)}."
                )


def _caller() -> tuple[str, int] | None:
    """Return the file and line outside of this package that is being run, if it is a file."""
    frame = sys._getframe(1)  # noqa: SLF001 - inspect.stack() reads the sources of all frames
    while frame and (frame.f_globals.get("__name__") or "").split(".")[0] == PACKAGE:
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith("<"):
        return None
    return frame.f_code.co_filename, frame.f_lineno


class _Request:
    """The field `request`: it is given a template or a front door, and holds the template."""

    def __get__(self, pipeline: Any, owner: type | None = None) -> MessageTemplate:
        if pipeline is None:
            return cast(MessageTemplate, None)  # the default; ready requests have no other
        return vars(pipeline)["request"]

    def __set__(self, pipeline: Any, request: MessageTemplate | Task | None) -> None:
        vars(pipeline)["request"] = None if request is None else template_of(request)


@dataclass(frozen=True, kw_only=True)
class BatchPipeline:
    """One question asked about every record of a source, by way of Message Batches.

    Attributes:
        name: names the assets, jobs, schedule and sensor, and the folder in the store.
        source: where the records are, and which columns are their key; or another pipeline's ``results()``.
        request: what is asked about a record, and what the answer must look like: a template, or a
            front door (``Classify``, ``Extract``, ``Summarize``, ``Translate``, ``Score``) that makes one. Left
            out where the source is ``RequestFiles``, whose lines are requests already.
        destination: the table that gets one row per record; None keeps it in the store, as Parquet.
        schedule: when it runs by itself: a cron string in UTC, or a ``Schedule``.
        arrivals: whether it also runs when records arrive; None: it does not, unless the source is
            another pipeline's results: then it has the sensor, which is to be switched on.
        partitions: any partitions definition; each partition is selected, asked and collected by
            itself.
        partition_column: the source's column that tells a record's partition; with a
            ``dg.MultiPartitionsDefinition`` a column for each of its dimensions, such as
            ``{"date": "day", "region": "region"}``.
        upstream: assets that the source comes from, for lineage and arrivals.
        refresh: ``changed`` asks again when a record's content or the question changes, ``new``
            asks
            each key once.
        on_deleted: what becomes of a row whose key left the source: ``keep`` it, or ``drop`` it.
        max_attempts: how often a record is asked at most before it keeps its last reason.
        output_prefix: put before the names of the output's columns.
        key_prefix: put before the asset keys, as Dagster means it; so are the next four.
        group_name: the assets' group; None: the pipeline's name.
        tags: of the assets and jobs.
        asset_spec: a callable that gets each asset's spec and returns the one to use.
        executor: of the jobs; in process unless another is given.
        status_sensor: whether the status sensor runs from the start.
        claude_key: the resource ``ClaudeBatches`` that this pipeline asks for.
        store_key: the resource ``BatchStore`` that it asks for.
        backfill_policy: how a backfill's partitions are divided into runs: None is a run each,
            ``dg.BackfillPolicy.single_run()`` one run for a range. Either way each partition is
            selected, asked and collected by itself, and nothing is asked twice.
        renamed_from: the name that this pipeline had before: what was asked and answered under it counts,
            and open batches are collected.
        budget: what it may spend; None: there is no cap of its own.
        prices: USD for a million tokens in a batch, by model: of an own contract, or of a model that no
            price list knows, such as ``{"claude-x": {"input": 0.5, "output": 2.5}}``.
        notify: who gets a report on each settled submission: Apprise URLs, or ``dg.EnvVar`` of such. They may
            hold passwords, and are shown nowhere.
        notify_when: ``always``, or only when there is ``trouble``: rows without an answer or flagged, an
            unknown cost.
        notify_rows: one SELECT from ``results``, the rows of the submission: these are flagged, and the
            first 20 stand in the report.
        dedupe: whether records of one submission that would ask the same are asked once, and all get
            that answer.
        correct_invalid: whether a record whose answer did not fit is asked again with that answer and what
            was wrong with it; else with the same request as before.
        skip_when: a SQL condition over a record's columns: nothing is asked about the records for which
            it holds; their rows say ``skipped``.
        answer_when: by such conditions the answer of the records for which one holds: a text, or with an
            ``output`` a dict of its fields. The first that holds counts, after ``skip_when``.
        send_between: the hours in which batches are sent: ``22:00-06:00`` in UTC, or a ``SendBetween`` with a
            zone. At others what is ready waits.
        variants: ways to ask, by name: the fields of the request in which each differs from ``request``. Each record
            is asked once by each of them, and by nothing else; the results say which in ``_variant``.
        checks: how good results must be, by asset check: ``error_rate``, the largest share of records without an
            answer, and ``schema_valid``, the smallest share of answers that fit; a share, or a ``Threshold``.
        label: the source's column with the right answer, where it is known; of an output with several fields
            ``{"field": "column"}``. The asset ``NAME/scores`` says how good the answers are. Needs the extra
            ``scores``.
        answer_by: by when answers are wanted: ``07:00`` in UTC, or an ``AnswerBy`` with a zone. What is late then
            is reported, and nothing is paid for that; with ``late="live"`` it is cancelled and asked at full price.
        escalate: which answers a better model is asked for in the same night, and which one: ``Escalate(to=...)``. Its
            answer takes the place of the first one; ``_escalated`` says why.

    Raises:
        InputError: a field cannot be what it is.
    """

    name: str
    source: DuckDBSource | ParquetSource | ResultsSource | RequestFiles
    request: _Request = _Request()
    destination: DuckDBTable | ParquetDataset | None = None
    schedule: str | Schedule | None = None
    arrivals: Arrivals | None = None
    partitions: dg.PartitionsDefinition | None = None
    partition_column: str | Mapping[str, str] | None = None
    upstream: Sequence[dg.AssetKey | str | Sequence[str]] = ()
    refresh: Literal["changed", "new"] = "changed"
    on_deleted: Literal["keep", "drop"] = "keep"
    max_attempts: int = 3
    output_prefix: str = ""
    key_prefix: str | Sequence[str] = ()
    group_name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    asset_spec: Callable[[dg.AssetSpec], dg.AssetSpec] | None = None
    executor: dg.ExecutorDefinition | None = None
    status_sensor: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING
    claude_key: str = "claude"
    store_key: str = "store"
    backfill_policy: dg.BackfillPolicy | None = None
    renamed_from: str | None = None
    budget: Budget | None = None
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notify: Sequence[str] = field(default=(), repr=False)
    notify_when: Literal["always", "trouble"] = "always"
    notify_rows: str | None = None
    dedupe: bool = True
    correct_invalid: bool = True
    skip_when: str | None = None
    answer_when: Mapping[str, Any] | None = None
    send_between: str | SendBetween | None = None
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checks: Mapping[str, float | Threshold] = field(default_factory=dict)
    label: str | Mapping[str, str] | None = None
    answer_by: str | AnswerBy | None = None
    escalate: Escalate | None = None

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        vars(self)["_declared_at"] = _caller()
        if not NAME.fullmatch(self.name):
            raise InputError(
                "A pipeline's name must start with a letter and hold only letters, digits and "
                "underscores; "
                f"{self.name!r} does not. Dagster builds job and sensor names from it."
            )
        if isinstance(self.source, RequestFiles):
            self._take_ready_lines(self.source)
        if not isinstance(self.request, MessageTemplate):
            given = "missing" if self.request is None else repr(self.request)
            raise InputError(
                f"Pipeline {self.name}: request is {given}; it must be MessageTemplate(...), or one of "
                "Classify(...), Extract(...), Summarize(...), Translate(...), Score(...). Only a source=RequestFiles(...), "
                "whose lines are requests already, has none."
            )
        try:
            _ = self.nightly  # a cron string that is none is refused here
        except InputError as error:
            raise InputError(f"Pipeline {self.name}: {error}") from None
        if self.renamed_from is not None and (
            not NAME.fullmatch(str(self.renamed_from)) or self.renamed_from == self.name
        ):
            raise InputError(
                f"Pipeline {self.name}: renamed_from is {self.renamed_from!r}; it must be the name that the pipeline "
                "had before."
            )
        self._check_chain()
        if (self.partitions is None) != (self.partition_column is None):
            raise InputError(
                f"Pipeline {self.name}: partitions and partition_column go together; "
                f"{'partitions' if self.partitions is None else 'partition_column'} is missing."
            )
        self._check_partition_column()
        for what, allowed in (("refresh", ("changed", "new")), ("on_deleted", ("keep", "drop"))):
            if getattr(self, what) not in allowed:
                raise InputError(
                    f"Pipeline {self.name}: {what} is {getattr(self, what)!r}; it must be "
                    f"{' or '.join(allowed)}."
                )
        if self.arrivals is not None and not isinstance(self.arrivals, Arrivals):
            raise InputError(
                f"Pipeline {self.name}: arrivals is {self.arrivals!r}; it must be Arrivals(...) or None."
            )
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise InputError(
                f"Pipeline {self.name}: budget is {self.budget!r}; it must be Budget(...) or None."
            )
        try:
            check_prices(self.prices)
            check_notify(self.notify, self.notify_when, self.notify_rows)
        except InputError as error:
            raise InputError(f"Pipeline {self.name}: {error}") from None
        for what in ("dedupe", "correct_invalid"):
            if not isinstance(getattr(self, what), bool):
                raise InputError(
                    f"Pipeline {self.name}: {what} is {getattr(self, what)!r}; it must be True or False."
                )
        try:
            _ = self.rules, self.sending_hours, self.deadline
            self._check_escalation()
            _ = self.by_scope, self.thresholds, self.compared
        except InputError as error:
            raise InputError(f"Pipeline {self.name}: {error}") from None
        if self.max_attempts < 1:
            raise InputError(
                f"Pipeline {self.name}: max_attempts is {self.max_attempts}; it must be 1 or more."
            )
        if self.deadline is not None and self.deadline.late == "live" and self.max_attempts < 2:
            raise InputError(
                f'Pipeline {self.name}: answer_by has late="live", and max_attempts is {self.max_attempts}: what is '
                "cancelled because it is late would not be asked again. Set max_attempts to 2 or more."
            )

    def _check_chain(self) -> None:
        """Refuse results of another pipeline that could not be found; take over its partition column."""
        source = self.source
        if not isinstance(source, ResultsSource) or isinstance(source.results, str):
            return
        first = source.results
        if not isinstance(first, BatchPipeline):
            raise InputError(
                f"Pipeline {self.name}: its source is the results of {first!r}, which is no pipeline; write "
                "source=first.results(...), where first is a BatchPipeline."
            )
        if self.name == first.name:
            raise InputError(
                f"Pipeline {self.name}: its source is the results of a pipeline of the same name; each needs a name of "
                "its own."
            )
        if first.variants and self.variants:
            raise InputError(
                f"Pipeline {self.name}: it has variants, and so has {first.name}, whose results are its source: both "
                "would write a column _variant. Ask the variants of one of them as a pipeline of its own."
            )
        if first.destination is None and first.store_key != self.store_key:
            raise InputError(
                f"Pipeline {self.name}: the results of {first.name} have no destination, so they are kept in the store "
                f"{first.store_key!r}, and this pipeline's is {self.store_key!r}. Give {first.name} a destination, or both "
                "the same store_key."
            )
        if self.partitions is not None and self.partition_column is None:
            object.__setattr__(self, "partition_column", first.partition_column)

    def _take_ready_lines(self, source: RequestFiles) -> None:
        """Let ready requests be asked as they are; refuse what goes with records alone."""
        if self.request is not None and not isinstance(self.request, ReadyLines):
            raise InputError(
                f"Pipeline {self.name}: source is RequestFiles(...), whose lines are requests already, and there is a "
                "request, too. Leave out request; or give the records as DuckDBSource(...) or ParquetSource(...)."
            )
        if self.escalate is not None:
            raise InputError(
                f"Pipeline {self.name}: source is RequestFiles(...), whose lines are asked as they are, and escalate asks "
                "a better model the same. Leave out escalate; or give the records as DuckDBSource(...) or ParquetSource(...)."
            )
        if self.variants:
            raise InputError(
                f"Pipeline {self.name}: source is RequestFiles(...), whose lines are asked as they are, and variants has "
                "fields of a request to ask otherwise with. Leave out variants; or write the lines of each way to ask, "
                "each with a custom_id of its own."
            )
        if self.partitions is not None:
            raise InputError(
                f"Pipeline {self.name}: source is RequestFiles(...), which has no column to tell partitions by. Leave "
                "out partitions and partition_column."
            )
        try:
            vars(self)["request"] = ready_lines(source.betas)
        except InputError as error:
            raise InputError(f"Pipeline {self.name}: RequestFiles: {error}") from None

    def _check_escalation(self) -> None:
        """Refuse what a better model cannot be asked beside."""
        if self.escalate is None:
            return
        if not isinstance(self.escalate, Escalate):
            raise InputError(f"escalate is {self.escalate!r}; it must be Escalate(...) or None.")
        if self.variants:
            raise InputError(
                "escalate asks a better model what the first one does not settle, and variants asks all records in "
                "several ways. Leave out one of them."
            )
        if self.refresh == "new":
            raise InputError(
                'escalate goes by the answer to a record as it is now, and refresh="new" keeps answers to what records '
                "were. Leave out one of them."
            )

    def _check_partition_column(self) -> None:
        """Refuse partitions that no column could be matched with: their runs would ask nothing."""
        definition, column = self.partitions, self.partition_column
        if definition is not None and not isinstance(definition, dg.PartitionsDefinition):
            raise InputError(
                f"Pipeline {self.name}: partitions is {definition!r}; it must be one of Dagster's"
                " partitions definitions."
            )
        named = column.values() if isinstance(column, Mapping) else [column]
        if column is not None and not all(isinstance(one, str) and one for one in named):
            raise InputError(
                f"Pipeline {self.name}: partition_column is {column!r}; it must be a column's name, or"
                " one for each dimension."
            )
        if not isinstance(definition, dg.MultiPartitionsDefinition):
            if isinstance(column, Mapping):
                raise InputError(
                    f"Pipeline {self.name}: partition_column names a column for each of several"
                    " dimensions, and partitions has one. Give it as text: the one column's name."
                )
            return
        dimensions = definition.partition_dimension_names
        if not isinstance(column, Mapping) or set(column) != set(dimensions):
            example = ", ".join(f'"{one}": "COLUMN"' for one in dimensions)
            raise InputError(
                f"Pipeline {self.name}: partitions has the dimensions {' and '.join(dimensions)}, each"
                f" of which needs a column of the source: partition_column={{{example}}}; it is"
                f" {column!r}."
            )

    @property
    def declared_at(self) -> tuple[str, int] | None:
        """The file and line that declares it; None where that is no file of Python."""
        return vars(self)["_declared_at"]

    def results(
        self, where: str | None = None, key: str | Sequence[str] | None = None
    ) -> ResultsSource:
        """Return this pipeline's results as the source of another one.

        What the other pipeline's request reads of them counts: a row that is answered again, and says the
        same, asks nothing.

        Args:
            where: a SQL condition over the results' columns, such as ``_status = 'answered'``; None: all
                rows, those without an answer among them.
            key: the column, or columns, that name a record; None: this pipeline's key.

        Raises:
            InputError: ``where`` is no condition over one row, or there is no key.
        """
        try:
            return ResultsSource(results=self, where=where, key=key)
        except InputError as error:
            raise InputError(f"{self.name}.results(): {error}") from None

    @property
    def upstream_keys(self) -> list[dg.AssetKey]:
        """The assets that the records depend on: those of ``upstream``, and the results that are the source."""
        keys = [dg.AssetKey.from_coercible(given) for given in self.upstream]
        if isinstance(self.source, ResultsSource) and not isinstance(self.source.results, str):
            keys.append(self.source.results.asset_key("results"))
        return list(dict.fromkeys(keys))

    @property
    def arrivals_in_force(self) -> Arrivals | None:
        """The arrivals: those declared, or those that a source of another pipeline's results has by itself."""
        if self.arrivals is None and isinstance(self.source, ResultsSource):
            return Arrivals()
        return self.arrivals

    @property
    def sending_hours(self) -> SendBetween | None:
        """The hours in which batches are sent; None: all."""
        hours = self.send_between
        return hours if hours is None or isinstance(hours, SendBetween) else SendBetween(hours)

    @property
    def deadline(self) -> AnswerBy | None:
        """By when answers are wanted; None: at any time."""
        by = self.answer_by
        return by if by is None or isinstance(by, AnswerBy) else AnswerBy(by)

    @cached_property
    def thresholds(self) -> dict[str, Threshold]:
        """What the results are checked against, by the name of the check."""
        return thresholds_of(self.checks, has_output=self.request.output is not None)

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """What settles records without asking, in the order in which it counts."""
        return rules_of(self.skip_when, self.answer_when, self.request.output)

    @cached_property
    def by_variant(self) -> "dict[str, BatchPipeline]":
        """The pipeline as each variant asks, by name; itself under "" when it has no variants."""
        if self.variants in (None, {}):
            if self.escalate is None:
                return {"": self}
            first = replace(self, source=for_escalation(self.source), escalate=None)
            return {"": first}
        if any("\t" in fmt for fmt in _formats(self.partitions)):
            raise InputError(
                "partitions writes its keys with a tab, which variants need for themselves. Set another fmt."
            )
        return {
            name: self._asking(template, name)
            for name, template in variant_templates(self.request, self.variants).items()
        }

    @cached_property
    def by_scope(self) -> "dict[str, BatchPipeline]":
        """The pipeline as each variant asks; of one that escalates also as the better model is asked."""
        if self.escalate is None or self.variants:
            return self.by_variant
        if any("\t" in fmt for fmt in _formats(self.partitions)):
            raise InputError(
                "partitions writes its keys with a tab, which escalate needs for itself. Set another fmt."
            )
        first = self.by_variant[""]
        better = replace(first, request=self.escalate.template(self.request))
        return {"": first, ESCALATED: better}

    def as_asked(self, variant: str) -> "BatchPipeline":
        """Return the pipeline as a variant asks; one that is not declared (any more) as its request is."""
        if variant in self.by_scope:
            return self.by_scope[variant]
        if variant == ESCALATED:  # it does not escalate any more
            return self
        return self._asking(self.request, variant) if variant else self

    @property
    def caches(self) -> bool:
        """Whether what requests share is cached, by any way of asking."""
        return any(one.request.cache for one in self.by_scope.values())

    @cached_property
    def compared(self) -> Label | None:
        """What answers are compared with; None: nothing."""
        if self.label is None:
            return None
        return label_of(self.label, self.request, self.output_prefix)

    def _asking(self, template: MessageTemplate, variant: str) -> "BatchPipeline":
        source = for_variant(self.source, variant)
        return replace(self, request=template, source=source, variants={})

    @property
    def prefix(self) -> list[str]:
        """What stands before a stage's name in its asset key."""
        before = [self.key_prefix] if isinstance(self.key_prefix, str) else list(self.key_prefix)
        return [*before, self.name]

    def asset_key(self, stage: str) -> dg.AssetKey:
        """Return the asset key of a stage: records, requests, batches or results."""
        return dg.AssetKey([*self.prefix, stage])

    def op_options(self, stage: str) -> dict[str, Any]:
        """Return how Dagster's op of a stage is defined: its name, and what else the op takes."""
        return {"name": self.asset_key(stage).to_python_identifier()}

    @property
    def execute_stage(self) -> "Callable[[dg.AssetExecutionContext, str], Any] | None":
        """What does a stage's work in the place of this package; None: this package does."""
        return None

    @property
    def nightly(self) -> Schedule | None:
        """The schedule, spelled out."""
        return Schedule(self.schedule) if isinstance(self.schedule, str) else self.schedule


def _formats(partitions: dg.PartitionsDefinition | None) -> list[str]:
    """Return how the keys of partitions are written, where that is declared."""
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        return [fmt for one in partitions.partitions_defs for fmt in _formats(one.partitions_def)]
    return [partitions.fmt] if isinstance(partitions, dg.TimeWindowPartitionsDefinition) else []
