"""A pipeline in YAML: the fields of ``BatchPipeline``, as a Dagster component.

Dagster renders ``{{ ... }}`` in a component's YAML itself and would blank a prompt's ``{{ supplier }}``
without a word. So ``prompt``, ``system`` and ``messages`` are taken as they stand in the file.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg

from batch_pipeline.definitions.build import build_definitions
from batch_pipeline.errors import InputError
from batch_pipeline.pipeline import BatchPipeline, Schedule
from batch_pipeline.records.sources import DuckDBSource, ParquetSource
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.results.duckdb_table import DuckDBTable
from batch_pipeline.results.parquet_dataset import ParquetDataset

AS_WRITTEN = ("prompt", "system", "messages")


def _source(context: dg.ResolutionContext, raw: Mapping[str, Any]) -> DuckDBSource | ParquetSource:
    fields = _fields(context.resolve_value(raw), "source")
    return ParquetSource(**fields) if "path" in fields else DuckDBSource(**fields)


def _destination(context: dg.ResolutionContext, raw: Any) -> DuckDBTable | ParquetDataset | None:
    if raw is None:
        return None
    fields = _fields(context.resolve_value(raw), "destination")
    return ParquetDataset(**fields) if "path" in fields else DuckDBTable(**fields)


def _request(context: dg.ResolutionContext, raw: Mapping[str, Any]) -> MessageTemplate:
    given = _fields(raw, "request")
    resolved = {name: value for name, value in given.items() if name not in AS_WRITTEN}
    fields = dict(_fields(context.resolve_value(resolved), "request"))
    fields |= {name: given[name] for name in AS_WRITTEN if name in given}
    if "prompt_file" in fields:
        fields["prompt"] = _read(context, fields.pop("prompt_file"))
    for name in ("output", "build"):
        if isinstance(fields.get(name), str):
            fields[name] = _imported(name, fields[name])
    return MessageTemplate(**fields)


def _schedule(context: dg.ResolutionContext, raw: Any) -> str | Schedule | None:
    value = context.resolve_value(raw)
    if not isinstance(value, Mapping):
        return value
    fields = dict(value)
    if "status" in fields:
        fields["status"] = dg.DefaultScheduleStatus[str(fields["status"]).upper()]
    return Schedule(**fields)


def _partitions(context: dg.ResolutionContext, raw: Any) -> dg.PartitionsDefinition | None:
    value = context.resolve_value(raw)
    if value is None or isinstance(value, dg.PartitionsDefinition):
        return value
    fields = dict(_fields(value, "partitions"))
    kind = fields.pop("type", None)
    kinds = {
        "hourly": dg.HourlyPartitionsDefinition,
        "daily": dg.DailyPartitionsDefinition,
        "weekly": dg.WeeklyPartitionsDefinition,
        "monthly": dg.MonthlyPartitionsDefinition,
        "time_window": dg.TimeWindowPartitionsDefinition,
        "static": dg.StaticPartitionsDefinition,
        "dynamic": dg.DynamicPartitionsDefinition,
    }
    if kind not in kinds:
        raise InputError(f"partitions: type is {kind!r}; it must be one of {', '.join(kinds)}.")
    return kinds[kind](**fields)


def _sensor_status(context: dg.ResolutionContext, raw: Any) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus[str(context.resolve_value(raw)).upper()]


class BatchPipelineComponent(dg.Component, dg.Resolvable, dg.Model):
    """A batch pipeline; see ``batch_pipeline.BatchPipeline`` for what each field means.

    The resources ``claude`` and ``store`` are the project's: define each once, beside the components.
    """

    name: str
    source: Annotated[Any, dg.Resolver(_source, model_field_type=dict)]
    request: Annotated[Any, dg.Resolver(_request, model_field_type=dict)]
    destination: Annotated[Any, dg.Resolver(_destination, model_field_type=dict | None)] = None
    schedule: Annotated[Any, dg.Resolver(_schedule, model_field_type=str | dict | None)] = None
    partitions: Annotated[Any, dg.Resolver(_partitions, model_field_type=dict | str | None)] = None
    partition_column: str | None = None
    upstream: Sequence[str | list[str]] = ()
    refresh: Literal["changed", "new"] = "changed"
    on_deleted: Literal["keep", "drop"] = "keep"
    max_attempts: int = 3
    output_prefix: str = ""
    key_prefix: str | list[str] | None = None
    group_name: str | None = None
    tags: dict[str, str] = {}  # noqa: RUF012 - pydantic copies defaults
    status_sensor: Annotated[Any, dg.Resolver(_sensor_status, model_field_type=str)] = (
        dg.DefaultSensorStatus.RUNNING
    )
    claude_key: str = "claude"
    store_key: str = "store"

    def pipeline(self) -> BatchPipeline:
        """Return the pipeline that the YAML declares. Override it to set what YAML cannot say."""
        return BatchPipeline(
            name=self.name,
            source=self.source,
            request=self.request,
            destination=self.destination,
            schedule=self.schedule,
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
            status_sensor=self.status_sensor,
            claude_key=self.claude_key,
            store_key=self.store_key,
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the pipeline's definitions, without resources."""
        return build_definitions(self.pipeline())


def _fields(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected a mapping of fields, found {type(value).__name__}.")
    return value


def _read(context: dg.ResolutionContext, name: str) -> str:
    """Read a prompt from a file beside the component's YAML."""
    path = context.resolve_source_relative_path(name)
    if path.is_file():
        return path.read_text(encoding="utf-8")
    raise InputError(f"prompt_file: there is no file {path}.")


def _imported(field: str, dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{field}: {dotted!r} cannot be imported ({error}). Write it as package.module.Name, or give the schema inline."
        ) from error
