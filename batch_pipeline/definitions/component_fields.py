"""The mappings that a pipeline's YAML is made of, field by field: what ``dg`` and an editor show and check.

What they check is handed on as it was written: ``component_values`` makes the objects of it.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, JsonValue, Strict, Tag, WithJsonSchema

from batch_pipeline.definitions.component_problems import Fields
from batch_pipeline.definitions.component_templates import ByType, OrTemplate

Text = Annotated[str, Strict()]
Texts = Annotated[Text | list[Text], OrTemplate()]
Whole = Annotated[Annotated[int, Strict()], OrTemplate()]
AtLeastOne = Annotated[Annotated[int, Strict(), Field(ge=1)], OrTemplate()]
Number = Annotated[Annotated[float, Strict()], OrTemplate()]
Flag = Annotated[Annotated[bool, Strict()], OrTemplate()]
Words = Annotated[dict[str, Text | int | float | bool], OrTemplate()]
OptionalText = Annotated[Text | None, OrTemplate()]
OptionalNumber = Annotated[Annotated[float, Strict()] | None, OrTemplate()]
OptionalWhole = Annotated[Annotated[int, Strict()] | None, OrTemplate()]
Status = Annotated[
    Annotated[
        Literal["running", "stopped"],
        BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
        WithJsonSchema({"enum": ["running", "stopped", "RUNNING", "STOPPED"]}),
    ],
    OrTemplate(),
]
Anything = Annotated[dict[str, JsonValue], OrTemplate()]
OwnText = Annotated[Text, OrTemplate()]
Date = OwnText
PipelineName = Annotated[
    Annotated[
        Text, WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z][A-Za-z0-9_]*$|\{[{%]"})
    ],
    OrTemplate(),
]


class DuckDBSourceFields(Fields):
    """Records in a DuckDB database."""

    database: Text = Field(description="A DuckDB file; it is only read.")
    query: OptionalText = Field(None, description="One SELECT; or give table.")
    table: OptionalText = Field(
        None, description="A table or view, optionally as schema.table; or give query."
    )
    key: Texts = Field(description="The column that names a record, or several.")
    lock_wait_seconds: Number = Field(
        60.0, description="How long to wait while another program holds the file."
    )
    changes: OptionalText = Field(
        None,
        description="A column that grows with every insert and update; arrivals are told by it, without reading the rest.",
    )


class ParquetSourceFields(Fields):
    """Records in Parquet files."""

    path: Text = Field(
        description="A file, a glob, a folder (all *.parquet below it), or an object-store URL."
    )
    key: Texts = Field(description="The column that names a record, or several.")


class ResultsSourceFields(Fields):
    """The results of another pipeline of the project."""

    results: Text = Field(
        description="The name of the other pipeline, another component of the project."
    )
    where: OptionalText = Field(
        None, description="A SQL condition over its results' columns, such as _status = 'answered'."
    )
    key: Annotated[Text | list[Text] | None, OrTemplate()] = Field(
        None, description="The column that names a record, or several. None: the other's key."
    )


class RequestFilesFields(Fields):
    """Ready requests in files of JSON lines; there is no request then."""

    request_files: Text = Field(
        description='A file, a glob, a folder (all *.jsonl below it), or an object-store URL; {"custom_id": ..., '
        '"params": {...}} a line.',
        examples=["requests/*.jsonl"],
    )
    betas: Annotated[list[Text], OrTemplate()] = Field(
        [], description="What the header anthropic-beta of the batches names."
    )


def _by_path(value: Any) -> str:
    return "parquet" if isinstance(value, dict) and "path" in value else "duckdb"


def _by_source(value: Any) -> str:
    told = (one for one in ("results", "request_files") if isinstance(value, dict) and one in value)
    return next(told, _by_path(value))


SourceValue = Annotated[
    Annotated[
        Annotated[ResultsSourceFields, Tag("results")]
        | Annotated[RequestFilesFields, Tag("request_files")]
        | Annotated[ParquetSourceFields, Tag("parquet")]
        | Annotated[DuckDBSourceFields, Tag("duckdb")],
        Discriminator(_by_source),
    ],
    OrTemplate(),
]


class DuckDBTableFields(Fields):
    """A table of a DuckDB database, one row per record."""

    database: Text = Field(description="A DuckDB file; made when missing.")
    table: Text = Field(description="The table, optionally as schema.table; made when missing.")
    lock_wait_seconds: Number = Field(
        60.0, description="How long to wait while another program holds the file."
    )


class ParquetDatasetFields(Fields):
    """A folder of Parquet files behind one manifest, one row per record."""

    path: Text = Field(description="A folder, or an object-store URL.")
    rows_per_bucket: AtLeastOne = Field(100_000, description="Rows that a file should hold.")
    grace_seconds: Number = Field(
        21_600.0,
        description="How long replaced files stay, for readers that have already asked for the list.",
    )


DestinationValue = Annotated[
    Annotated[
        Annotated[ParquetDatasetFields, Tag("parquet")]
        | Annotated[DuckDBTableFields, Tag("duckdb")],
        Discriminator(_by_path),
    ]
    | None,
    OrTemplate(),
]


class MessageFields(Fields):
    """One turn of a conversation, as the API has it."""

    role: Literal["user", "assistant", "system"] = Field(description="Whose turn it is.")
    content: Annotated[Text | list[dict[str, JsonValue]], ByType()] = Field(
        description="A text, or the API's content blocks; every text is Jinja of the record's columns."
    )


class RequestFields(Fields):
    """What is asked about each record: give one of prompt, prompt_file, messages and build."""

    model: Text = Field(description="The Claude model.", examples=["claude-haiku-4-5"])
    max_tokens: AtLeastOne = Field(description="The longest answer, in tokens (thinking included).")
    prompt: Annotated[Text | None, ByType()] = Field(
        None,
        description="The user's message: Jinja of the record's columns, never rendered by Dagster.",
        examples=["Supplier: {{ supplier }}"],
    )
    prompt_file: OptionalText = Field(
        None, description="A file beside the YAML with the prompt.", examples=["prompt.md"]
    )
    messages: Annotated[list[MessageFields] | None, ByType()] = Field(
        None,
        description="The API's messages, in the place of a prompt; every text in them is Jinja.",
    )
    build: OptionalText = Field(
        None,
        description="The dotted path of a function record -> params; it needs columns and version.",
    )
    columns: Annotated[list[Text], OrTemplate()] = Field(
        [], description="The columns that build reads."
    )
    system: Annotated[Text | None, ByType()] = Field(
        None, description="The system prompt: Jinja, never rendered by Dagster."
    )
    cache: Annotated[Literal["5m", "1h"] | None, OrTemplate()] = Field(
        None, description="How long the API caches the system prompt that all requests share."
    )
    files_root: OptionalText = Field(
        None,
        description="The folder or URL below which the files are that messages name by a path.",
    )
    keep_thinking: Flag = Field(
        False,
        description="Whether what the model thought is kept, in the column thinking.",
    )
    cache_seed: Flag = Field(
        False,
        description="The first request is sent by itself, and the others when it has filled the cache.",
    )
    cache_by: Annotated[list[Text], OrTemplate()] = Field(
        [],
        description="Columns whose text many records share: it stands before the prompt, cached where that pays, and "
        "records that share it are sent together. Needs prompt and cache.",
        examples=[["document"]],
    )
    output: Annotated[dict[str, JsonValue] | Text | None, OrTemplate()] = Field(
        None,
        description="The JSON Schema of an answer, or the dotted path of a pydantic model. None: plain text in the "
        "column answer.",
    )
    output_file: OptionalText = Field(
        None,
        description="A JSON file beside the YAML with the JSON Schema of an answer.",
        examples=["output.json"],
    )
    output_mode: Annotated[Literal["json_schema", "tool"], OrTemplate()] = Field(
        "json_schema", description="Structured outputs, or one strict, forced tool."
    )
    version: OptionalText = Field(
        None,
        description="Stands for the question instead of its computed hash: another one asks every record again.",
    )
    params: Anything = Field(
        {},
        description="Further parameters of the API, passed through: thinking, metadata, tools, ...",
    )
    max_tokens_limit: OptionalWhole = Field(
        None,
        description="An answer that was cut short is asked again with twice as many tokens, up to this many. None: up "
        "to 8 times max_tokens, and 32,000 at most.",
    )
    betas: Annotated[list[Text], OrTemplate()] = Field(
        [],
        description="What the header anthropic-beta of the batches names. Another set asks every record again.",
        examples=[["context-management-2025-06-27"]],
    )


class VariantFields(RequestFields):
    """What differs in the request of a variant."""

    model: OptionalText = Field(None, description="The Claude model.", examples=["claude-sonnet-5"])  # pyright: ignore[reportIncompatibleVariableOverride]
    max_tokens: OptionalWhole = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, description="The longest answer, in tokens (thinking included)."
    )


VariantsValue = Annotated[dict[str, VariantFields], OrTemplate()]


class ScheduleFields(Fields):
    """When the pipeline is submitted by itself."""

    cron: Text = Field(description="A cron string of five fields.", examples=["0 23 * * *"])
    timezone: Text = Field("UTC", description="The IANA name of the zone that cron is in.")
    status: Status = Field("stopped", description="Whether it runs from the start.")


ScheduleValue = Annotated[Text | ScheduleFields | None, OrTemplate()]


class SendBetweenFields(Fields):
    """The hours in which batches are sent."""

    hours: Text = Field(description="From when to when.", examples=["22:00-06:00"])
    timezone: Text = Field("UTC", description="The IANA name of the zone that hours is in.")


class AnswerByFields(Fields):
    """By when answers are wanted."""

    time: Text = Field(
        description="The time of day; of a submission it is the first after it.", examples=["07:00"]
    )
    timezone: Text = Field("UTC", description="The IANA name of the zone that time is in.")
    late: Text = Field(
        "report",
        description="What becomes of what is late: report (it is said), or live (its batches are cancelled, and what "
        "they leave unanswered is asked through the Messages API, at full price, within the budget).",
        examples=["live"],
    )


AnswerByValue = Annotated[Text | AnswerByFields | None, OrTemplate()]
SendBetweenValue = Annotated[Text | SendBetweenFields | None, OrTemplate()]


class ArrivalsFields(Fields):
    """That the pipeline is also submitted when records arrive."""

    min_records: Whole = Field(
        1, description="A run is requested once so many records need an answer."
    )
    cooldown_minutes: Number = Field(
        60.0, description="How long after a submit run began the next is requested at the earliest."
    )
    status: Status = Field("stopped", description="Whether the sensor runs from the start.")


ArrivalsValue = Annotated[ArrivalsFields | None, OrTemplate()]


class BudgetFields(Fields):
    """What the pipeline may spend; give one of the caps, or both."""

    per_submission_usd: OptionalNumber = Field(
        None, description="For one submission: what one submit run selects."
    )
    per_month_usd: OptionalNumber = Field(
        None, description="For the pipeline in a calendar month, UTC."
    )
    reserve: Annotated[Literal["p99", "max"], OrTemplate()] = Field(
        "p99",
        description="What is set aside for what is not answered yet: answers as long as the longest hundredth of the "
        "earlier ones, or of max_tokens.",
    )
    over: Annotated[Literal["hold", "trim"], OrTemplate()] = Field(
        "hold",
        description="A submission that does not fit is held whole until a person approves it, or trimmed to what fits.",
    )


class ThresholdFields(Fields):
    """How far a check may go before it fails."""

    limit: Number = Field(
        description="A share from 0 to 1: of error_rate the largest that passes, of schema_valid the smallest."
    )
    severity: Annotated[Literal["WARN", "ERROR"], OrTemplate()] = Field(
        "WARN", description="How bad it is when it fails."
    )
    blocking: Flag = Field(
        False, description="Assets downstream are not made in a run in which it fails; needs ERROR."
    )


class ChecksFields(Fields):
    """Asset checks on the results, each with a share from 0 to 1, or limit, severity and blocking."""

    error_rate: Annotated[Number | ThresholdFields | None, OrTemplate()] = Field(
        None, description="The largest share of records that may have no answer."
    )
    schema_valid: Annotated[Number | ThresholdFields | None, OrTemplate()] = Field(
        None, description="The smallest share of answers that must fit the output schema."
    )


ChecksValue = Annotated[ChecksFields, OrTemplate()]


class BoundsFields(Fields):
    """Between which numbers a figure of the results' metadata must be; give one of min and max, or both."""

    min: OptionalNumber = Field(None, description="The smallest number that passes.")
    max: OptionalNumber = Field(None, description="The largest number that passes.")
    severity: Annotated[Literal["WARN", "ERROR"], OrTemplate()] = Field(
        "WARN", description="How bad it is when it fails."
    )


BoundsValue = Annotated[dict[str, BoundsFields], OrTemplate()]


class EscalateToFields(Fields):
    """The better model, and what differs in its request."""

    model: Text = Field(description="The better model.", examples=["claude-opus-5-5"])
    max_tokens: OptionalWhole = Field(
        None, description="The longest answer, in tokens (thinking included)."
    )
    max_tokens_limit: OptionalWhole = Field(
        None, description="How many tokens an answer that was cut short may get at most."
    )
    params: Anything = Field({}, description="Further parameters of the request.")
    cache: OptionalText = Field(None, description="Cache the shared prefix: 5m or 1h.")
    output_mode: OptionalText = Field(None, description="json_schema or tool.")
    version: OptionalText = Field(None, description="A version of the question of one's own.")


class EscalateFields(Fields):
    """Which answers a better model is asked for, in the same night."""

    to: Annotated[Text | EscalateToFields, OrTemplate()] = Field(
        description="The better model, or what differs in its request.",
        examples=["claude-opus-5-5"],
    )
    when: Annotated[Text | list[Text], OrTemplate()] = Field(
        "invalid",
        description="invalid, refused or truncated, after all attempts; a SQL condition over the results' columns; or a "
        "list of these.",
        examples=["confidence < 0.8", ["invalid", "confidence < 0.8"]],
    )
    audit: Number = Field(
        0.0,
        description="A share of the answered records that both are asked, to say how often they agree.",
        examples=[0.02],
    )


EscalateValue = Annotated[EscalateFields | None, OrTemplate()]


BudgetValue = Annotated[BudgetFields | None, OrTemplate()]


class PriceFields(Fields):
    """Prices of one model in a batch, in USD for a million tokens."""

    input: Number = Field(description="Of the input.")
    output: Number = Field(description="Of the output.")
    cache_read: Number = Field(0.0, description="Of input that is read from the cache.")
    cache_write_5m: Number = Field(0.0, description="Of input that is cached for five minutes.")
    cache_write_1h: Number = Field(0.0, description="Of input that is cached for an hour.")
    web_search: Number = Field(0.0, description="Of a thousand web searches.")


PricesValue = Annotated[dict[str, PriceFields], OrTemplate()]


AnswersValue = Annotated[dict[str, Any] | None, OrTemplate()]


class _WindowFields(Fields):
    end_date: OptionalText = Field(None, description="Where the partitions end; None: now.")
    timezone: OptionalText = Field(None, description="The IANA name of a zone. None: UTC.")
    fmt: OptionalText = Field(None, description="How the dates are written, as of strftime.")
    end_offset: Whole = Field(0, description="How many partitions past the present one there are.")
    minute_offset: Whole = Field(
        0, description="Minutes past the hour at which a partition begins."
    )


class HourlyFields(_WindowFields):
    """A partition for each hour."""

    type: Literal["hourly"] = Field(description="Which kind of partitions.")
    start_date: Date = Field(description="Where the partitions begin, such as 2026-03-01-00:00.")


class DailyFields(_WindowFields):
    """A partition for each day."""

    type: Literal["daily"] = Field(description="Which kind of partitions.")
    start_date: Date = Field(description="Where the partitions begin, such as 2026-03-01.")
    hour_offset: Whole = Field(0, description="The hour at which a partition begins.")


class WeeklyFields(DailyFields):
    """A partition for each week."""

    type: Literal["weekly"] = Field(description="Which kind of partitions.")  # pyright: ignore[reportIncompatibleVariableOverride]
    day_offset: Whole = Field(0, description="The day at which a partition begins: 0 is Sunday.")


class MonthlyFields(DailyFields):
    """A partition for each month."""

    type: Literal["monthly"] = Field(description="Which kind of partitions.")  # pyright: ignore[reportIncompatibleVariableOverride]
    day_offset: Whole = Field(1, description="The day of the month at which a partition begins.")


class TimeWindowFields(Fields):
    """Partitions that begin by a cron string."""

    type: Literal["time_window"] = Field(description="Which kind of partitions.")
    start: Date = Field(description="Where the partitions begin, as fmt says.")
    fmt: Text = Field(
        description="How the dates are written, as of strftime.", examples=["%Y-%m-%d"]
    )
    end: OptionalText = Field(None, description="Where the partitions end; None: now.")
    cron_schedule: OptionalText = Field(None, description="When a partition begins.")
    schedule_type: Annotated[
        Literal["HOURLY", "DAILY", "WEEKLY", "MONTHLY"] | None, OrTemplate()
    ] = Field(None, description="Or how long a partition is, with the offsets.")
    timezone: OptionalText = Field(None, description="The IANA name of a zone. None: UTC.")
    end_offset: Whole = Field(0, description="How many partitions past the present one there are.")
    minute_offset: OptionalWhole = Field(None, description="With schedule_type.")
    hour_offset: OptionalWhole = Field(None, description="With schedule_type.")
    day_offset: OptionalWhole = Field(None, description="With schedule_type.")


class StaticFields(Fields):
    """Partitions by name."""

    type: Literal["static"] = Field(description="Which kind of partitions.")
    partition_keys: Annotated[list[Text], OrTemplate()] = Field(description="Their names.")


class DynamicFields(Fields):
    """Partitions that are added while the project runs."""

    type: Literal["dynamic"] = Field(description="Which kind of partitions.")
    name: Text = Field(description="The name that they are added under.")


OneDimension = Annotated[
    HourlyFields
    | DailyFields
    | WeeklyFields
    | MonthlyFields
    | TimeWindowFields
    | StaticFields
    | DynamicFields,
    Field(discriminator="type"),
]


class MultiFields(Fields):
    """Partitions of several dimensions."""

    type: Literal["multi"] = Field(description="Which kind of partitions.")
    dimensions: Annotated[dict[str, Annotated[OneDimension, OrTemplate()]], OrTemplate()] = Field(
        description="The partitions of each dimension, by its name."
    )


PartitionsValue = Annotated[
    Annotated[
        HourlyFields
        | DailyFields
        | WeeklyFields
        | MonthlyFields
        | TimeWindowFields
        | StaticFields
        | DynamicFields
        | MultiFields,
        Field(discriminator="type"),
    ]
    | None,
    OrTemplate(),
]

BackfillValue = Annotated[
    Literal["single_run"] | Annotated[int, Strict(), Field(ge=1)] | None, OrTemplate()
]


class MultiprocessFields(Fields):
    """A process for each step."""

    type: Literal["multiprocess"] = Field(description="Which executor.")
    max_concurrent: OptionalWhole = Field(None, description="How many steps at a time.")


ExecutorValue = Annotated[Text | MultiprocessFields | None, OrTemplate()]

UpstreamValue = Annotated[list[Annotated[Text | list[Text], ByType()]], OrTemplate()]
ColumnValue = Annotated[Text | dict[str, Text] | None, OrTemplate()]
OptionalTexts = Annotated[Text | list[Text] | None, OrTemplate()]
ListOfTexts = Annotated[list[Text], OrTemplate()]


SecretTexts = Annotated[
    JsonValue, WithJsonSchema({"type": ["array", "string"], "items": {"type": "string"}})
]
"""Texts that may be secrets: what is wrong with them is said by whoever makes them, without showing them."""


class SingleRunFields(Fields):
    """One run for all partitions of a backfill."""

    type: Literal["single_run"] = Field(description="Which policy.")


class MultiRunFields(Fields):
    """Several runs for the partitions of a backfill."""

    type: Literal["multi_run"] = Field(description="Which policy.")
    max_partitions_per_run: AtLeastOne = Field(1, description="How many partitions a run takes.")


class OpFields(Fields):
    """How Dagster's ops of the four stages are defined."""

    name: OptionalText = Field(
        None, description="The ops are NAME__records and so on; None: as the assets are named."
    )
    tags: Words = Field({}, description="Tags of the ops, such as those of dagster-k8s.")
    description: OptionalText = Field(None, description="What the ops do.")
    pool: OptionalText = Field(
        None, description="Dagster's pool: it limits how many of its ops run at a time."
    )
    backfill_policy: Annotated[
        Annotated[SingleRunFields | MultiRunFields, Field(discriminator="type")] | None,
        OrTemplate(),
    ] = Field(
        None, description="As the pipeline's backfill_policy, in the words of Dagster's OpSpec."
    )


OpValue = Annotated[OpFields | None, OrTemplate()]
