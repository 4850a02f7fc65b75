"""What a component's YAML declares, made of what stands in it: sources, requests, partitions."""

import difflib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from importlib import import_module
from typing import Any, TypeVar

import dagster as dg
from dagster.components.resolved.core_models import OpSpec

from batch_pipeline.batches.deadline import AnswerBy
from batch_pipeline.batches.hours import SendBetween, check_timezone
from batch_pipeline.definitions.component_bounds import Bounds
from batch_pipeline.definitions.component_problems import YamlError, nearest, refused
from batch_pipeline.definitions.component_templates import rendered
from batch_pipeline.errors import InputError, plain
from batch_pipeline.pipeline import (
    NAME,
    Arrivals,
    Budget,
    Schedule,
    check_cron,
)
from batch_pipeline.records.sources import (
    DuckDBSource,
    ParquetSource,
    RequestFiles,
    ResultsSource,
    Source,
)
from batch_pipeline.requests.escalate import Escalate
from batch_pipeline.requests.own_prices import check_prices
from batch_pipeline.requests.tasks.classify import Classify
from batch_pipeline.requests.tasks.extract import Extract
from batch_pipeline.requests.tasks.score import Score
from batch_pipeline.requests.tasks.summarize import Summarize
from batch_pipeline.requests.tasks.task import Task, template_of
from batch_pipeline.requests.tasks.translate import Translate
from batch_pipeline.requests.template import MessageTemplate
from batch_pipeline.requests.unsatisfiable import check_yaml
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.thresholds import Threshold

AS_WRITTEN = ("prompt", "system", "messages", "labels", "rubric", "fields")
"""What is told to Claude: Dagster does not render it."""
_VARIABLE = re.compile(r"\s*\{\{\s*env(?:\.(\w+)|\(\s*['\"](\w+)['\"]\s*\))\s*\}\}\s*")
TASKS: dict[str, type[Task]] = {
    kind.__name__.lower(): kind for kind in (Classify, Extract, Summarize, Translate, Score)
}
"""What a request's ``task`` may be."""
Make = Callable[[dg.ResolutionContext, Any], Any]
Made = TypeVar("Made")
Status = TypeVar("Status", bound=Enum)


class Written(dg.Resolver):
    """How a field of a component is written in YAML, and what is made of it.

    Args:
        kind: the type of what is written: the model's field has it.
        description: what it means.
        make: makes the value; None: what is rendered is the value.
        shown: the default, as it is written; nothing: the field must be given.
        examples: what may be written.
    """

    REQUIRED = object()

    def __init__(
        self,
        kind: Any,
        description: str,
        make: Make | None = None,
        shown: Any = REQUIRED,
        examples: list[Any] | None = None,
    ) -> None:
        super().__init__(
            _placed(make or rendered),
            model_field_type=kind,
            description=description,
            examples=examples,
            inject_before_resolve=False,
        )
        self.kind = kind
        self.shown = shown


def _placed(make: Make) -> Make:
    """Let what is refused be named by its place in the file."""

    def placed(context: dg.ResolutionContext, value: Any) -> Any:
        try:
            return make(context, value)
        except YamlError:
            raise
        except InputError as error:
            raise refused(context, error) from None

    return placed


def name(context: dg.ResolutionContext, raw: Any) -> str:
    """Return a pipeline's name."""
    value = rendered(context, raw)
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InputError(
            "A pipeline's name must start with a letter and hold only letters, digits and underscores; "
            f"{value!r} does not. Dagster builds job and sensor names from it."
        )
    return value


def source(context: dg.ResolutionContext, raw: Any) -> Source:
    """Return the source that a mapping declares."""
    value = rendered(context, raw)
    if isinstance(value, DuckDBSource | ParquetSource | ResultsSource | RequestFiles):
        return value
    fields = _fields(value, "source")
    if "results" in fields:
        return made(ResultsSource, fields, "source")
    if "request_files" in fields:
        named = {"path" if name == "request_files" else name: one for name, one in fields.items()}
        return made(RequestFiles, named, "source")
    return made(ParquetSource if "path" in fields else DuckDBSource, fields, "source")


def destination(context: dg.ResolutionContext, raw: Any) -> DuckDBTable | ParquetDataset | None:
    """Return the destination that a mapping declares."""
    value = rendered(context, raw)
    if value is None or isinstance(value, DuckDBTable | ParquetDataset):
        return value
    fields = _fields(value, "destination")
    return made(ParquetDataset if "path" in fields else DuckDBTable, fields, "destination")


def request(context: dg.ResolutionContext, raw: Any) -> MessageTemplate | None:
    """Return the request that a mapping declares; its texts for Claude are taken as they stand."""
    if raw is None:
        return None
    given = rendered(context, raw) if isinstance(raw, str) else raw
    if isinstance(given, MessageTemplate | Task):
        return template_of(given)
    return _template(_request_fields(context, given, "request"))


def variants(context: dg.ResolutionContext, raw: Any) -> dict[str, dict[str, Any]]:
    """Return the fields of the request that differ, by the variant's name; texts for Claude as they stand."""
    given = rendered(context, raw) if isinstance(raw, str) else raw
    if given is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, fields in _fields(given, "variants").items():
        of_it = rendered(context, fields) if isinstance(fields, str) else fields
        found[name] = _request_fields(context.at_path(name), of_it or {}, f"variants: {name}")
    return found


def _request_fields(context: dg.ResolutionContext, given: Any, where: str) -> dict[str, Any]:
    """Return the fields of a request, or of what differs in one: files read, dotted paths imported."""
    given = _fields(given, where)
    resolved = {name: value for name, value in given.items() if name not in AS_WRITTEN}
    fields = dict(_fields(rendered(context, resolved), where))
    fields |= {name: given[name] for name in AS_WRITTEN if name in given}
    for what in ("prompt", "output"):
        file = f"{what}_file"
        if fields.get(what) is not None and fields.get(file) is not None:
            raise InputError(f"{where}: give {what} or {file}, not both.")
    if fields.get("prompt_file") is not None:
        fields["prompt"] = _read(context, fields["prompt_file"], "prompt_file")
    if fields.get("output_file") is not None:
        fields["output"] = _schema(context, fields["output_file"])
    fields = {n: v for n, v in fields.items() if n not in ("prompt_file", "output_file")}
    for what in ("output", "build"):
        if isinstance(fields.get(what), str):
            fields[what] = imported(what, fields[what])
    check_yaml(fields.get("output"), f"{where}: output")
    return fields


def _template(fields: Mapping[str, Any]) -> MessageTemplate:
    """Return the template that the fields of ``request`` declare: its own, or those of a ``task``."""
    if "task" not in fields:
        return made(MessageTemplate, fields, "request")
    given = dict(fields)
    task = given.pop("task")
    if not isinstance(task, str) or task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"request: task is {task!r}; it must be one of {', '.join(TASKS)}.{hint}")
    if isinstance(given.get("fields"), str):
        given["fields"] = imported("fields", given["fields"])
    return made(TASKS[task], given, f"request (task {task})").template


def schedule(context: dg.ResolutionContext, raw: Any) -> Schedule | None:
    """Return the schedule that a cron string or a mapping declares."""
    value = rendered(context, raw)
    if value is None or isinstance(value, Schedule):
        return value
    if not isinstance(value, Mapping):
        return Schedule(value)
    fields = dict(value)
    if "status" in fields:
        fields["status"] = _status(dg.DefaultScheduleStatus, fields["status"], "schedule: status")
    return made(Schedule, fields, "schedule")


def answer_by(context: dg.ResolutionContext, raw: Any) -> AnswerBy | None:
    """Return the time that a text or a mapping declares."""
    value = rendered(context, raw)
    if value is None or isinstance(value, AnswerBy):
        return value
    if not isinstance(value, Mapping):
        return AnswerBy(value)
    return made(AnswerBy, dict(value), "answer_by")


def send_between(context: dg.ResolutionContext, raw: Any) -> SendBetween | None:
    """Return the hours that a text or a mapping declares."""
    value = rendered(context, raw)
    if value is None or isinstance(value, SendBetween):
        return value
    if not isinstance(value, Mapping):
        return SendBetween(value)
    return made(SendBetween, dict(value), "send_between")


def arrivals(context: dg.ResolutionContext, raw: Any) -> Arrivals | None:
    """Return the arrivals that a mapping declares."""
    value = rendered(context, raw)
    if value is None or isinstance(value, Arrivals):
        return value
    fields = dict(_fields(value, "arrivals"))
    if "status" in fields:
        fields["status"] = _status(dg.DefaultSensorStatus, fields["status"], "arrivals: status")
    return made(Arrivals, fields, "arrivals")


def budget(context: dg.ResolutionContext, raw: Any) -> Budget | None:
    """Return the budget that a mapping declares."""
    value = rendered(context, raw)
    if value is None or isinstance(value, Budget):
        return value
    return made(Budget, _fields(value, "budget"), "budget")


def escalate(context: dg.ResolutionContext, raw: Any) -> Escalate | None:
    """Return the escalation that a mapping declares."""
    value = rendered(context, raw)
    if value is None or isinstance(value, Escalate):
        return value
    return made(Escalate, _fields(value, "escalate"), "escalate")


def checks(context: dg.ResolutionContext, raw: Any) -> dict[str, Any]:
    """Return thresholds by check: shares, and what a mapping declares."""
    given = _fields(rendered(context, raw), "checks")
    return {
        name: _made_in("checks", name, Threshold, one) if isinstance(one, Mapping) else one
        for name, one in given.items()
        if one is not None
    }


def _made_in(field: str, name: str, kind: Callable[..., Made], given: Mapping[str, Any]) -> Made:
    where = f"{field}: {name}"
    try:
        return made(kind, given, where)
    except InputError as error:
        told = str(error)
        raise InputError(told if told.startswith(where) else f"{where}: {told}") from None


def bounds(context: dg.ResolutionContext, raw: Any) -> dict[str, Bounds]:
    """Return bounds by the name of a figure."""
    given = _fields(rendered(context, raw), "bounds")
    return {
        name: _made_in("bounds", name, Bounds, _fields(one, f"bounds: {name}"))
        for name, one in given.items()
    }


def prices(context: dg.ResolutionContext, raw: Any) -> dict[str, Any]:
    """Return prices by model."""
    given = dict(_fields(rendered(context, raw), "prices"))
    check_prices(given)
    return given


def notify(context: dg.ResolutionContext, raw: Any) -> list[str]:
    """Return the addresses of reports; a variable of the environment is read when one is sent."""
    given = [raw] if isinstance(raw, str) else raw
    if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
        raise InputError("notify must be a list of Apprise URLs. What was given is not shown.")
    return [text_of_environment(context.at_path(place), one) for place, one in enumerate(given)]


def text_of_environment(context: dg.ResolutionContext, value: str) -> Any:
    """Return a text, read at run time where it is a variable of the environment: it stays out of the code."""
    if found := _VARIABLE.fullmatch(value):
        return dg.EnvVar(found[1] or found[2])
    return rendered(context, value)


def answers(context: dg.ResolutionContext, raw: Any) -> dict[str, Any] | None:
    """Return answers by condition."""
    value = rendered(context, raw)
    return None if value is None else dict(_fields(value, "answer_when"))


def partitions(context: dg.ResolutionContext, raw: Any) -> dg.PartitionsDefinition | None:
    """Return the partitions that a mapping declares by its type."""
    value = rendered(context, raw)
    if value is None or isinstance(value, dg.PartitionsDefinition):
        return value
    fields = dict(_fields(value, "partitions"))
    kind = fields.pop("type", None)
    if kind == "multi":
        given = _fields(fields.get("dimensions"), "partitions: dimensions")
        inner = {name: partitions(context, one) for name, one in given.items()}
        return made(
            dg.MultiPartitionsDefinition, {"partitions_defs": inner}, "partitions (type multi)"
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
        return made(kinds[kind], fields, where)
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


def sensor_status(context: dg.ResolutionContext, raw: Any) -> dg.DefaultSensorStatus:
    """Return whether a sensor runs from the start."""
    value = rendered(context, raw)
    if isinstance(value, dg.DefaultSensorStatus):
        return value
    return _status(dg.DefaultSensorStatus, value, "status_sensor")


def backfill_policy(context: dg.ResolutionContext, raw: Any) -> dg.BackfillPolicy | None:
    """Return how a backfill is divided into runs."""
    match rendered(context, raw):
        case None:
            return None
        case "single_run":
            return dg.BackfillPolicy.single_run()
        case int() as most if most > 0:
            return dg.BackfillPolicy.multi_run(most)
        case dg.BackfillPolicy() as policy:
            return policy
        case value:
            raise InputError(
                f"backfill_policy is {value!r}; it must be single_run, or how many partitions a run "
                "takes at most."
            )


def tags(context: dg.ResolutionContext, raw: Any) -> dict[str, str]:
    """Return tags: their values are texts."""
    given = _fields(rendered(context, raw), "tags")
    return {str(name): str(value) for name, value in given.items()}


def executor(context: dg.ResolutionContext, raw: Any) -> dg.ExecutorDefinition | None:
    """Return the executor of the jobs: one of Dagster's by its name, or any by its dotted path."""
    value = rendered(context, raw)
    if value is None or isinstance(value, dg.ExecutorDefinition):
        return value
    if isinstance(value, Mapping):
        most = value.get("max_concurrent")
        config = {} if most is None else {"max_concurrent": most}
        return dg.multiprocess_executor.configured(config)
    own = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}
    if value in own:
        return own[value]
    if "." not in value:
        near = difflib.get_close_matches(value, own, n=1)
        raise InputError(
            f"executor is {value!r}; it must be in_process, multiprocess, or the dotted path of an executor."
            + (f" Did you mean {near[0]}?" if near else "")
        )
    found = imported("executor", value)
    if not isinstance(found, dg.ExecutorDefinition):
        raise InputError(f"executor: {value!r} is no executor of Dagster.")
    return found


def function(field: str) -> Make:
    """Return what makes a function of its dotted path."""

    def make(context: dg.ResolutionContext, raw: Any) -> Any:
        value = rendered(context, raw)
        if isinstance(value, str):
            value = imported(field, value)
        if value is not None and not callable(value):
            raise InputError(f"{field} is {value!r}; it must be the dotted path of a function.")
        return value

    return make


def automation_condition(context: dg.ResolutionContext, raw: Any) -> dg.AutomationCondition | None:
    """Return the condition that a template makes."""
    value = rendered(context, raw)
    if value is None or isinstance(value, dg.AutomationCondition):
        return value
    raise InputError(
        f"automation_condition is {value!r}; it must be a template that makes one, such as "
        '"{{ dg.AutomationCondition.eager() }}".'
    )


def op(context: dg.ResolutionContext, raw: Any) -> OpSpec | None:
    """Return how the ops are defined."""
    value = rendered(context, raw)
    if value is None or isinstance(value, OpSpec):
        return value
    fields = dict(_fields(value, "op"))
    policy = fields.pop("backfill_policy", None)
    if isinstance(policy, Mapping):
        most = policy.get("max_partitions_per_run", 1)
        policy = (
            dg.BackfillPolicy.single_run()
            if policy.get("type") == "single_run"
            else dg.BackfillPolicy.multi_run(most)
        )
    return OpSpec(**fields, backfill_policy=policy)


def made(kind: Callable[..., Made], fields: Mapping[str, Any], where: str) -> Made:
    """Make what a mapping of fields declares; say which field is unknown or missing."""
    known = {
        name: one
        for name, one in inspect.signature(kind).parameters.items()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }
    for field in fields:
        if field not in known:
            raise InputError(f"{where}: there is no field {field}; {nearest(field, list(known))}")
    needed = [name for name, one in known.items() if one.default is one.empty]
    if missing := [name for name in needed if name not in fields]:
        raise InputError(f"{where}: {', '.join(missing)} is missing.")
    return kind(**fields)


def imported(field: str, dotted: str) -> Any:
    """Return what a dotted path names.

    Raises:
        InputError: it cannot be imported.
    """
    module, _, found = dotted.rpartition(".")
    try:
        return getattr(import_module(module), found)
    except (ImportError, AttributeError, ValueError) as error:
        hint = ", or give the schema inline" if field == "output" else ""
        raise InputError(
            f"{field}: {dotted!r} cannot be imported ({error}). Write it as package.module.Name{hint}."
        ) from error


def _fields(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected a mapping of fields, found {type(value).__name__}.")
    return value


def _status(kind: type[Status], value: Any, where: str) -> Status:
    if isinstance(value, kind):
        return value
    try:
        return kind[str(value).upper()]
    except KeyError:
        raise InputError(f"{where} is {value!r}; it must be running or stopped.") from None


def _read(context: dg.ResolutionContext, file: str, field: str) -> str:
    """Read a file beside the component's YAML."""
    path = context.resolve_source_relative_path(file)
    if path.is_file():
        return path.read_text(encoding="utf-8")
    raise InputError(f"{field}: there is no file {path}. A path here begins at this file's folder.")


def _schema(context: dg.ResolutionContext, file: str) -> Any:
    try:
        return json.loads(_read(context, file, "output_file"))
    except json.JSONDecodeError as error:
        raise InputError(f"output_file: {file} is no JSON: {error}.") from None
