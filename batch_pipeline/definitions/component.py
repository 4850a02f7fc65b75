"""A pipeline in YAML: the fields of ``BatchPipeline``, as a Dagster component.

Dagster renders ``{{ ... }}`` in a component's YAML itself and would blank a prompt's ``{{ supplier }}``
without a word. So ``prompt``, ``system`` and ``messages`` are taken as they stand in the file.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from importlib import import_module
from typing import Annotated, Any, Literal, TypeVar

import dagster as dg

from batch_pipeline.definitions.build import build_definitions
from batch_pipeline.definitions.task import question_of
from batch_pipeline.errors import InputError, plain
from batch_pipeline.pipeline import (
    Arrivals,
    BatchPipeline,
    Budget,
    Schedule,
    check_cron,
    check_timezone,
)
from batch_pipeline.records.sources import DuckDBSource, ParquetSource
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.requests.unsatisfiable import check_yaml
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset

AS_WRITTEN = ("prompt", "system", "messages")
Made = TypeVar("Made")
Status = TypeVar("Status", bound=Enum)


def _rendered(context: dg.ResolutionContext, value: Any) -> Any:
    """Let Dagster render what is a template; it would make a number of a plain text such as "1"."""
    match value:
        case str():
            return context.resolve_value(value) if "{{" in value or "{%" in value else value
        case Mapping():
            return {name: _rendered(context, inner) for name, inner in value.items()}
        case list() | tuple():
            return [_rendered(context, inner) for inner in value]
    return value


def _source(context: dg.ResolutionContext, raw: Mapping[str, Any]) -> DuckDBSource | ParquetSource:
    fields = _fields(_rendered(context, raw), "source")
    return _made(ParquetSource if "path" in fields else DuckDBSource, fields, "source")


def _destination(context: dg.ResolutionContext, raw: Any) -> DuckDBTable | ParquetDataset | None:
    if raw is None:
        return None
    fields = _fields(_rendered(context, raw), "destination")
    return _made(ParquetDataset if "path" in fields else DuckDBTable, fields, "destination")


def _request(context: dg.ResolutionContext, raw: Mapping[str, Any]) -> MessageTemplate:
    given = _fields(raw, "request")
    resolved = {name: value for name, value in given.items() if name not in AS_WRITTEN}
    fields = dict(_fields(_rendered(context, resolved), "request"))
    fields |= {name: given[name] for name in AS_WRITTEN if name in given}
    if "prompt_file" in fields:
        if "prompt" in fields:
            raise InputError("request: give prompt or prompt_file, not both.")
        fields["prompt"] = _read(context, fields.pop("prompt_file"))
    for name in ("output", "build"):
        if isinstance(fields.get(name), str):
            fields[name] = _imported(name, fields[name])
    check_yaml(fields.get("output"), "request: output")
    return question_of(fields, _made, _imported)


def _schedule(context: dg.ResolutionContext, raw: Any) -> str | Schedule | None:
    value = _rendered(context, raw)
    if not isinstance(value, Mapping):
        return value
    fields = dict(value)
    if "status" in fields:
        fields["status"] = _status(dg.DefaultScheduleStatus, fields["status"], "schedule: status")
    return _made(Schedule, fields, "schedule")


def _arrivals(context: dg.ResolutionContext, raw: Any) -> Arrivals | None:
    if raw is None:
        return None
    fields = dict(_fields(_rendered(context, raw), "arrivals"))
    if "status" in fields:
        fields["status"] = _status(dg.DefaultSensorStatus, fields["status"], "arrivals: status")
    return _made(Arrivals, fields, "arrivals")


def _budget(context: dg.ResolutionContext, raw: Any) -> Budget | None:
    if raw is None:
        return None
    return _made(Budget, _fields(_rendered(context, raw), "budget"), "budget")


def _prices(context: dg.ResolutionContext, raw: Any) -> dict[str, Any]:
    return dict(_fields(_rendered(context, raw), "prices"))


def _partitions(context: dg.ResolutionContext, raw: Any) -> dg.PartitionsDefinition | None:
    value = _rendered(context, raw)
    if value is None or isinstance(value, dg.PartitionsDefinition):
        return value
    fields = dict(_fields(value, "partitions"))
    kind = fields.pop("type", None)
    if kind == "multi":
        given = _fields(fields.get("dimensions"), "partitions: dimensions")
        made = {name: _partitions(context, one) for name, one in given.items()}
        return _made(
            dg.MultiPartitionsDefinition, {"partitions_defs": made}, "partitions (type multi)"
        )
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
        raise InputError(
            f"partitions: type is {kind!r}; it must be one of {', '.join([*kinds, 'multi'])}."
        )
    where = f"partitions (type {kind})"
    try:
        return _made(kinds[kind], fields, where)
    except InputError:
        raise
    except Exception as error:  # Dagster's own, which names no field
        if fields.get("timezone") is not None:
            check_timezone(fields["timezone"], f"{where}: timezone")
        if "cron_schedule" in fields:
            check_cron(fields["cron_schedule"], f"{where}: cron_schedule")
        given = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        raise InputError(
            f"{where} cannot be ({given}). Dagster says: {plain(str(error))}"
        ) from None


def _sensor_status(context: dg.ResolutionContext, raw: Any) -> dg.DefaultSensorStatus:
    return _status(dg.DefaultSensorStatus, _rendered(context, raw), "status_sensor")


def _backfill_policy(context: dg.ResolutionContext, raw: Any) -> dg.BackfillPolicy | None:
    match _rendered(context, raw):
        case None:
            return None
        case "single_run":
            return dg.BackfillPolicy.single_run()
        case int() as most if most > 0:
            return dg.BackfillPolicy.multi_run(most)
        case value:
            raise InputError(
                f"backfill_policy is {value!r}; it must be single_run, or how many partitions a run "
                "takes at most."
            )


def _tags(context: dg.ResolutionContext, raw: Any) -> dict[str, str]:
    given = _fields(_rendered(context, raw), "tags")
    return {str(name): str(value) for name, value in given.items()}


class BatchPipelineComponent(dg.Component, dg.Resolvable, dg.Model):
    """A batch pipeline; see ``batch_pipeline.BatchPipeline`` for what each field means.

    The resources ``claude`` and ``store`` are the project's: define each once, beside the components.
    """

    name: str
    source: Annotated[Any, dg.Resolver(_source, model_field_type=dict)]
    request: Annotated[Any, dg.Resolver(_request, model_field_type=dict)]
    destination: Annotated[Any, dg.Resolver(_destination, model_field_type=dict | None)] = None
    schedule: Annotated[Any, dg.Resolver(_schedule, model_field_type=str | dict | None)] = None
    arrivals: Annotated[Any, dg.Resolver(_arrivals, model_field_type=dict | None)] = None
    partitions: Annotated[Any, dg.Resolver(_partitions, model_field_type=dict | str | None)] = None
    partition_column: str | dict[str, str] | None = None
    upstream: Sequence[str | list[str]] = ()
    refresh: Literal["changed", "new"] = "changed"
    on_deleted: Literal["keep", "drop"] = "keep"
    max_attempts: int = 3
    output_prefix: str = ""
    key_prefix: str | list[str] | None = None
    group_name: str | None = None
    tags: Annotated[dict[str, str], dg.Resolver(_tags, model_field_type=dict)] = {}  # noqa: RUF012 - pydantic copies defaults
    status_sensor: Annotated[Any, dg.Resolver(_sensor_status, model_field_type=str)] = (
        dg.DefaultSensorStatus.RUNNING
    )
    claude_key: str = "claude"
    store_key: str = "store"
    backfill_policy: Annotated[
        Any, dg.Resolver(_backfill_policy, model_field_type=str | int | None)
    ] = None
    renamed_from: str | None = None
    budget: Annotated[Any, dg.Resolver(_budget, model_field_type=dict | None)] = None
    prices: Annotated[dict[str, Any], dg.Resolver(_prices, model_field_type=dict)] = {}  # noqa: RUF012 - pydantic copies defaults

    def pipeline(self) -> BatchPipeline:
        """Return the pipeline that the YAML declares. Override it to set what YAML cannot say."""
        return BatchPipeline(
            name=self.name,
            source=self.source,
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
            status_sensor=self.status_sensor,
            claude_key=self.claude_key,
            store_key=self.store_key,
            backfill_policy=self.backfill_policy,
            renamed_from=self.renamed_from,
            budget=self.budget,
            prices=self.prices,
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the pipeline's definitions, without resources."""
        return build_definitions(self.pipeline())


def _fields(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected a mapping of fields, found {type(value).__name__}.")
    return value


def _made(kind: Callable[..., Made], fields: Mapping[str, Any], where: str) -> Made:
    """Make what a mapping of fields declares; say which field is unknown or missing."""
    known = {
        name: one
        for name, one in inspect.signature(kind).parameters.items()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}."
            raise InputError(f"{where}: there is no field {name}; {hint}")
    needed = [name for name, one in known.items() if one.default is one.empty]
    if missing := [name for name in needed if name not in fields]:
        raise InputError(f"{where}: {', '.join(missing)} is missing.")
    return kind(**fields)


def _status(kind: type[Status], value: Any, where: str) -> Status:
    try:
        return kind[str(value).upper()]
    except KeyError:
        raise InputError(f"{where} is {value!r}; it must be running or stopped.") from None


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
