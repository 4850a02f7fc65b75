"""A pipeline in YAML: the fields of ``BatchPipeline``, as a Dagster component.

Dagster renders ``{{ ... }}`` in a component's YAML itself and would blank a prompt's ``{{ supplier }}``
without a word. So ``prompt``, ``system`` and ``messages`` are taken as they stand in the file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import dagster as dg
from dagster.components.resolved.core_models import AssetAttributesModel, OpSpec
from dagster.components.utils.translation import TranslatorResolvingInfo
from dagster_shared.record import copy
from pydantic import PrivateAttr, SkipValidation

from batch_pipeline.batches.deadline import AnswerBy
from batch_pipeline.batches.hours import SendBetween
from batch_pipeline.definitions import component_fields as fields
from batch_pipeline.definitions import component_values as values
from batch_pipeline.definitions.assets.define import execute, stage_specs
from batch_pipeline.definitions.build import build_definitions
from batch_pipeline.definitions.component_bounds import Bounds, bounds_checks
from batch_pipeline.definitions.component_problems import Fields
from batch_pipeline.definitions.component_scaffold import PipelineScaffolder
from batch_pipeline.definitions.component_stages import staged
from batch_pipeline.definitions.component_tasks import RequestValue
from batch_pipeline.definitions.component_templates import OrTemplate
from batch_pipeline.definitions.component_values import Written
from batch_pipeline.definitions.component_yaml import YamlComponent
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import Arrivals, BatchPipeline, Budget, Schedule
from batch_pipeline.records.sources import ResultsSource, Source
from batch_pipeline.requests.escalate import Escalate
from batch_pipeline.requests.tasks.task import Task
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset

Translation = Callable[[dg.AssetSpec, str], dg.AssetSpec]


class TranslationFields(Fields, AssetAttributesModel):  # pyright: ignore[reportGeneralTypeIssues]
    """What each asset's spec has instead; in templates ``stage`` is records, requests, batches or results."""


def _translation(context: dg.ResolutionContext, raw: Any) -> Any:
    if raw is None or callable(raw):
        return raw
    attributes = raw if isinstance(raw, str) else TranslationFields.model_validate(raw)
    outside = copy(context, path=context.path[:-1])  # what resolves it adds the field's name
    info = TranslatorResolvingInfo(attributes, outside, model_key="translation")
    return lambda spec, stage: info.get_asset_spec(spec, {"stage": stage, "spec": spec})


@dg.scaffold_with(PipelineScaffolder)
class BatchPipelineComponent(YamlComponent):
    """Asks Claude one question about every record of a table, every night, through the Message Batches API.

    Four assets, three jobs, a schedule and sensors; see ``batch_pipeline.BatchPipeline`` for what each
    field means. The resources ``claude`` and ``store`` are the project's: define each once, beside the
    components, in Python or with ``batch_pipeline.ClaudeBatchesComponent``.
    """

    listed_tags: ClassVar[list[str]] = ["anthropic", "claude", "llm", "batch", "duckdb", "parquet"]
    listed_produces: ClassVar[list[str]] = ["asset", "asset_check", "job", "schedule", "sensor"]

    name: Annotated[
        str,
        Written(
            fields.PipelineName,
            "Names the assets, jobs and sensors, and the folder in the store: letters, digits, underscores.",
            values.name,
        ),
    ]
    source: Annotated[
        SkipValidation[Source],
        Written(
            fields.SourceValue,
            "Where the records are: a DuckDB database, with a path Parquet files, with results another pipeline's, "
            "with request_files ready requests.",
            values.source,
            examples=[{"results": "reviews", "where": "label = 'complaint'"}],
        ),
    ]
    request: Annotated[
        SkipValidation[MessageTemplate | Task | None],
        Written(
            RequestValue,
            "What is asked about each record: with a task (classify, extract, summarize, translate, score) its fields, "
            "else those of a template. Left out where the source is request_files.",
            values.request,
            None,
        ),
    ] = None
    destination: Annotated[
        SkipValidation[DuckDBTable | ParquetDataset | None],
        Written(
            fields.DestinationValue,
            "What gets one row per record: a table of a DuckDB database, or with a path a Parquet dataset. None: "
            "Parquet under the store.",
            values.destination,
            None,
        ),
    ] = None
    schedule: Annotated[
        SkipValidation[str | Schedule | None],
        Written(
            fields.ScheduleValue,
            "When it is submitted by itself: a cron string in UTC, or cron, timezone and status.",
            values.schedule,
            None,
            ["0 23 * * *"],
        ),
    ] = None
    arrivals: Annotated[
        SkipValidation[Arrivals | None],
        Written(
            fields.ArrivalsValue, "That it also runs when records arrive.", values.arrivals, None
        ),
    ] = None
    partitions: Annotated[
        SkipValidation[dg.PartitionsDefinition | None],
        Written(
            fields.PartitionsValue,
            "Dagster's partitions by type; each partition is selected, asked and collected by itself.",
            values.partitions,
            None,
            [{"type": "daily", "start_date": "2026-01-01"}],
        ),
    ] = None
    partition_column: Annotated[
        str | dict[str, str] | None,
        Written(
            fields.ColumnValue,
            "The source's column that tells a record's partition; of several dimensions a column each.",
            shown=None,
        ),
    ] = None
    upstream: Annotated[
        Sequence[str | list[str]],
        Written(
            fields.UpstreamValue,
            "Asset keys that the source comes from, for lineage and arrivals.",
            shown=[],
        ),
    ] = ()
    refresh: Annotated[
        Literal["changed", "new"],
        Written(
            Annotated[Literal["changed", "new"], OrTemplate()],
            "Ask again when content or question change, or ask each key once.",
            shown="changed",
        ),
    ] = "changed"
    on_deleted: Annotated[
        Literal["keep", "drop"],
        Written(
            Annotated[Literal["keep", "drop"], OrTemplate()],
            "What becomes of the row of a key that left the source.",
            shown="keep",
        ),
    ] = "keep"
    max_attempts: Annotated[
        int, Written(fields.AtLeastOne, "How often a record is asked at most.", shown=3)
    ] = 3
    output_prefix: Annotated[
        str,
        Written(fields.OwnText, "Put before the names of the output's columns.", shown=""),
    ] = ""
    key_prefix: Annotated[
        str | list[str] | None,
        Written(fields.OptionalTexts, "Put before the asset keys.", shown=None),
    ] = None
    group_name: Annotated[
        str | None,
        Written(fields.OptionalText, "Dagster's group. None: the pipeline's name.", shown=None),
    ] = None
    tags: Annotated[
        dict[str, str],
        Written(fields.Words, "Tags of the assets and jobs.", values.tags, {}),
    ] = {}  # noqa: RUF012 - pydantic copies defaults
    owners: Annotated[
        Sequence[str],
        Written(
            fields.ListOfTexts,
            "Who owns the assets: e-mail addresses, or teams as team:NAME.",
            shown=[],
            examples=[["team:finance"]],
        ),
    ] = ()
    kinds: Annotated[
        Sequence[str],
        Written(
            fields.ListOfTexts,
            "Kinds of the assets besides their own; Dagster shows three at most.",
            shown=[],
        ),
    ] = ()
    automation_condition: Annotated[
        SkipValidation[dg.AutomationCondition | None],
        Written(
            fields.OptionalText,
            "A template that makes a condition, of the assets that NAME_submit makes: records, requests, batches. "
            "Results are collected by the status sensor.",
            values.automation_condition,
            None,
            ["{{ dg.AutomationCondition.eager() }}"],
        ),
    ] = None
    backfill_policy: Annotated[
        SkipValidation[dg.BackfillPolicy | None],
        Written(
            fields.BackfillValue,
            "How a backfill is divided into runs: single_run, or how many partitions a run takes at most. None: a run "
            "for each partition.",
            values.backfill_policy,
            None,
        ),
    ] = None
    status_sensor: Annotated[
        SkipValidation[dg.DefaultSensorStatus],
        Written(
            fields.Status,
            "Whether the status sensor runs from the start.",
            values.sensor_status,
            "running",
        ),
    ] = dg.DefaultSensorStatus.RUNNING
    claude_key: Annotated[
        str, Written(fields.OwnText, "The key of the resource ClaudeBatches.", shown="claude")
    ] = "claude"
    store_key: Annotated[
        str, Written(fields.OwnText, "The key of the resource BatchStore.", shown="store")
    ] = "store"
    renamed_from: Annotated[
        str | None,
        Written(
            fields.OptionalText,
            "The name that the pipeline had before: what was asked and answered under it counts.",
            shown=None,
        ),
    ] = None
    budget: Annotated[
        SkipValidation[Budget | None],
        Written(
            fields.BudgetValue,
            "What it may spend: nothing is sent that would pass it. None: no cap of its own.",
            values.budget,
            None,
        ),
    ] = None
    prices: Annotated[
        SkipValidation[dict[str, Any]],
        Written(
            fields.PricesValue,
            "Prices by model, of an own contract or of a model that no price list knows.",
            values.prices,
            {},
            [{"claude-haiku-4-5": {"input": 0.5, "output": 2.5}}],
        ),
    ] = {}  # noqa: RUF012 - pydantic copies defaults
    notify: Annotated[
        SkipValidation[Sequence[str]],
        Written(
            fields.SecretTexts,
            "Who gets a report on each settled submission: Apprise URLs. {{ env.NAME }} is read when it is sent.",
            values.notify,
            [],
            [["{{ env.REPORT_URL }}"]],
        ),
    ] = ()
    notify_when: Annotated[
        Literal["always", "trouble"],
        Written(
            Annotated[Literal["always", "trouble"], OrTemplate()],
            "Always, or only when rows have no answer or are flagged, or a cost is unknown.",
            shown="always",
        ),
    ] = "always"
    notify_rows: Annotated[
        str | None,
        Written(
            fields.OptionalText,
            "One SELECT from results, the rows of the submission; the first 20 stand in the report.",
            shown=None,
            examples=["select invoice_id, amount from results where amount > 100000"],
        ),
    ] = None
    dedupe: Annotated[
        bool,
        Written(
            fields.Flag,
            "Records of one submission that would ask the same are asked once, and all get that answer.",
            shown=True,
        ),
    ] = True
    correct_invalid: Annotated[
        bool,
        Written(
            fields.Flag,
            "A record whose answer did not fit is asked again with that answer and what was wrong with it; else with "
            "the same request as before.",
            shown=True,
        ),
    ] = True
    send_between: Annotated[
        SkipValidation[str | SendBetween | None],
        Written(
            fields.SendBetweenValue,
            "The hours in which batches are sent: in UTC, or hours and timezone. None: at any time.",
            values.send_between,
            None,
            ["22:00-06:00", {"hours": "22:00-06:00", "timezone": "Europe/Berlin"}],
        ),
    ] = None
    checks: Annotated[
        SkipValidation[dict[str, Any]],
        Written(
            fields.ChecksValue,
            "Asset checks on the results with a threshold each: error_rate, schema_valid.",
            values.checks,
            {},
            [{"error_rate": 0.02, "schema_valid": {"limit": 0.98, "severity": "ERROR"}}],
        ),
    ] = {}  # noqa: RUF012 - pydantic copies defaults
    bounds: Annotated[
        SkipValidation[dict[str, Bounds]],
        Written(
            fields.BoundsValue,
            "Asset checks that a figure of the results' metadata is within bounds: Dagster's metadata bounds checks.",
            values.bounds,
            {},
            [{"cost_usd": {"max": 5}}],
        ),
    ] = {}  # noqa: RUF012 - pydantic copies defaults
    answer_by: Annotated[
        SkipValidation[str | AnswerBy | None],
        Written(
            fields.AnswerByValue,
            "By when answers are wanted, in UTC, or time, timezone and late (report or live). None: at any time.",
            values.answer_by,
            None,
            ["07:00", {"time": "07:00", "timezone": "Europe/Berlin"}],
        ),
    ] = None
    skip_when: Annotated[
        str | None,
        Written(
            fields.OptionalText,
            "A SQL condition over a record's columns: what it holds for is kept as skipped, and not asked.",
            shown=None,
            examples=["amount < 5"],
        ),
    ] = None
    answer_when: Annotated[
        SkipValidation[dict[str, Any] | None],
        Written(
            fields.AnswersValue,
            "Answers by such conditions: what one holds for gets its answer, and is not asked.",
            values.answers,
            None,
            [{"amount = 0": {"category": "empty"}}],
        ),
    ] = None
    variants: Annotated[
        SkipValidation[dict[str, dict[str, Any]]],
        Written(
            fields.VariantsValue,
            "Ways to ask, by name: the fields of the request in which each differs. Each record is asked once by each.",
            values.variants,
            {},
            [{"base": {}, "short": {"prompt": "{{ summary }}"}}],
        ),
    ] = {}  # noqa: RUF012 - pydantic copies defaults
    escalate: Annotated[
        SkipValidation[Escalate | None],
        Written(
            fields.EscalateValue,
            "A better model, and which answers it is asked for in the same night: what the first one does not settle.",
            values.escalate,
            None,
            [{"to": "claude-opus-5-5", "when": "confidence < 0.8", "audit": 0.02}],
        ),
    ] = None
    label: Annotated[
        str | dict[str, str] | None,
        Written(
            fields.ColumnValue,
            "The source's column with the right answer; of several output fields, field: column. Makes NAME/scores.",
            shown=None,
            examples=["section", {"section": "section_by_hand"}],
        ),
    ] = None
    executor: Annotated[
        SkipValidation[dg.ExecutorDefinition | None],
        Written(
            fields.ExecutorValue,
            "Of the jobs: in_process, multiprocess, or the dotted path of an executor. None: in process.",
            values.executor,
            None,
        ),
    ] = None
    asset_spec: Annotated[
        SkipValidation[Callable[[dg.AssetSpec], dg.AssetSpec] | None],
        Written(
            fields.OptionalText,
            "The dotted path of a function that gets each asset's AssetSpec and returns the one to use.",
            values.function("asset_spec"),
            None,
        ),
    ] = None
    translation: Annotated[
        SkipValidation[Translation | None],
        Written(
            Annotated[TranslationFields | None, OrTemplate()],
            "What each asset's spec has instead. In templates, stage is records, requests, batches or results, and "
            "spec what the asset has so far.",
            _translation,
            None,
            [{"description": "{{ stage }} of the invoices"}],
        ),
    ] = None
    op: Annotated[
        SkipValidation[OpSpec | None],
        Written(
            fields.OpValue,
            "How Dagster's ops are defined: name, tags, pool.",
            values.op,
            None,
            [{"pool": "warehouse"}],
        ),
    ] = None

    _found: ResultsSource | None = PrivateAttr(None)

    def check(self) -> None:
        """Refuse a pipeline that cannot be."""
        self.staged_pipeline()

    def pipeline(self) -> BatchPipeline:
        """Return the pipeline that the YAML declares. Override it to set what YAML cannot say."""
        policy = self.op.backfill_policy if self.op else None
        return BatchPipeline(
            name=self.name,
            source=self._found or self.source,
            request=self.request,
            destination=self.destination,
            schedule=self.schedule,
            arrivals=self.arrivals,
            partitions=self.partitions,
            partition_column=self.partition_column,
            upstream=self.upstream,
            refresh=self.refresh,
            on_deleted=self.on_deleted,
            max_attempts=self.max_attempts,
            output_prefix=self.output_prefix,
            key_prefix=self.key_prefix or (),
            group_name=self.group_name,
            tags=self.tags,
            asset_spec=self.asset_spec,
            executor=self.executor,
            status_sensor=self.status_sensor,
            claude_key=self.claude_key,
            store_key=self.store_key,
            backfill_policy=self.backfill_policy or policy,
            renamed_from=self.renamed_from,
            budget=self.budget,
            prices=self.prices,
            notify=self.notify,
            notify_when=self.notify_when,
            notify_rows=self.notify_rows,
            dedupe=self.dedupe,
            correct_invalid=self.correct_invalid,
            skip_when=self.skip_when,
            answer_when=self.answer_when,
            send_between=self.send_between,
            variants=self.variants,
            checks=self.checks,
            label=self.label,
            answer_by=self.answer_by,
            escalate=self.escalate,
        )

    def get_asset_spec(self, stage: str) -> dg.AssetSpec:
        """Return the spec of a stage's asset. Override it to change one.

        Args:
            stage: records, requests, batches or results; with a label also scores.
        """
        spec = stage_specs(self.pipeline())[stage]
        spec = spec.replace_attributes(
            owners=[*spec.owners, *self.owners], kinds={*spec.kinds, *self.kinds}
        )
        if self.automation_condition is not None and stage not in ("results", "scores"):
            spec = spec.replace_attributes(automation_condition=self.automation_condition)
        return self.translation(spec, stage) if self.translation is not None else spec

    def execute(self, context: dg.AssetExecutionContext, stage: str) -> Any:
        """Do the work of a stage. Override it to do something before or after.

        Args:
            context: the step's.
            stage: records, requests, batches or results; with a label also scores.
        """
        return execute(context, self.staged_pipeline(), stage)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the pipeline's definitions, without resources."""
        self.find_first(context, [])
        pipeline = self.staged_pipeline()
        built = build_definitions(pipeline)
        if not self.bounds:
            return built
        checks = bounds_checks(pipeline.asset_key("results"), self.bounds)
        return dg.Definitions.merge(built, dg.Definitions(asset_checks=checks))

    def find_first(self, context: dg.ComponentLoadContext, second: Sequence[str]) -> None:
        """Look up the pipeline whose results are the source, among the project's components.

        Args:
            context: of the project.
            second: the pipelines that read this one's results, the last one first.

        Raises:
            InputError: there is none of that name, or it reads this one's results itself.
        """
        source = self.source
        if not isinstance(source, ResultsSource) or not isinstance(source.results, str):
            return
        chain = [self.name, *second]
        if source.results in chain:
            raise InputError(
                f"Pipeline {self.name}: its source is the results of {source.results}, whose source is this one's: "
                f"{' reads '.join([*reversed(chain), source.results])}. One of them must read something else."
            )
        others = context.component_tree.get_all_components(BatchPipelineComponent)
        first = next((one for one in others if one.name == source.results), None)
        if first is None:
            from batch_pipeline.records.reading import closest

            names = sorted(one.name for one in others if one.name != self.name)
            raise InputError(
                f"Pipeline {self.name}: its source is the results of {source.results!r}, and the project has no component "
                f"of that name.{closest(source.results, names)} It has: {', '.join(names) or 'no others'}. For the results "
                "of a pipeline in Python give the source from Python, too: its results()."
            )
        first.find_first(context, chain)
        self._found = replace(source, results=first.staged_pipeline())

    def staged_pipeline(self) -> BatchPipeline:
        """Return the pipeline with what ``get_asset_spec``, ``op`` and ``execute`` make of its stages."""
        op: Mapping[str, Any] = {}
        if self.op is not None:
            op = {"name": self.op.name, "op_tags": self.op.tags, "pool": self.op.pool}
            op = {**op, "description": self.op.description}
        return staged(self.pipeline(), self.get_asset_spec, op, self.execute)
