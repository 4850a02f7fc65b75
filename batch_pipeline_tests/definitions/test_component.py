"""A pipeline in YAML is the pipeline in Python."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from pydantic import BaseModel

from batch_pipeline import (
    AnswerBy,
    Arrivals,
    BatchPipelineComponent,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    Escalate,
    ParquetDataset,
    ParquetSource,
    RequestFiles,
    Schedule,
    build_definitions,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.definitions.conftest import RECORDS
from batch_pipeline_tests.support.dagster_nights import Nights

HERE = "batch_pipeline_tests.definitions.test_component"
PROMPT = "Supplier: {{ supplier }}\nText: {{ description }}"


class Invoice(BaseModel):
    """What the component's output imports."""

    department: str
    amount: float


def build(record: dict[str, Any]) -> dict[str, Any]:
    """What the component's build imports."""
    return {"messages": [{"role": "user", "content": record["description"]}]}


def attributes(**fields: Any) -> dict[str, Any]:
    return {
        "name": "invoices",
        "source": {"database": "warehouse.duckdb", "table": "invoices", "key": "invoice_id"},
        "request": {"model": "claude-haiku-4-5", "max_tokens": 256, "prompt": PROMPT},
        **fields,
    }


@contextmanager
def loaded(
    values: dict[str, Any], files: dict[str, str] | None = None, kind: str | None = None
) -> Iterator[tuple[BatchPipelineComponent, dg.Definitions]]:
    """A component and its definitions, loaded from a project's YAML."""
    yaml = {"type": kind or "batch_pipeline.BatchPipelineComponent", "attributes": values}
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=BatchPipelineComponent, defs_yaml_contents=yaml
        )
        for name, text in (files or {}).items():
            (folder / name).write_text(text)
        with sandbox.load_component_and_build_defs(defs_path=folder) as (component, definitions):
            assert isinstance(component, BatchPipelineComponent)
            yield component, definitions


def problem(values: dict[str, Any]) -> str:
    """All that is said, cause by cause, about YAML that cannot be loaded."""
    with pytest.raises(Exception) as failed, loaded(values):
        pass
    said, error = [], failed.value
    while error is not None:
        said.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def complete(definitions: dg.Definitions) -> dg.Definitions:
    """Definitions with the resources that a project gives them."""
    claude, store = ClaudeBatches(api_key="test-key"), BatchStore(root="none")
    resources = {"claude": claude, "cheap": claude, "store": store, "lake": store}
    return dg.Definitions.merge(definitions, dg.Definitions(resources=resources))


def names(definitions: dg.Definitions) -> dict[str, Any]:
    graph = complete(definitions).resolve_asset_graph()
    return {
        "assets": {key.to_user_string() for key in graph.get_all_asset_keys()},
        "checks": {str(key) for key in graph.asset_check_keys},
        "groups": {graph.get(key).group_name for key in graph.get_all_asset_keys()},
        "descriptions": {graph.get(key).description for key in graph.get_all_asset_keys()},
        "jobs": {job.name for job in definitions.jobs or []},
        "schedules": {
            (one.name, one.cron_schedule, one.execution_timezone, one.default_status)
            for one in definitions.schedules or []
        },
        "sensors": {(one.name, one.default_status) for one in definitions.sensors or []},
    }


def test_the_yaml_defines_what_python_defines_and_no_resources() -> None:
    fields = attributes(
        destination={"database": "warehouse.duckdb", "table": "answers"},
        schedule="0 23 * * *",
        upstream=["raw_invoices", ["erp", "suppliers"]],
        key_prefix=["finance"],
        group_name="night",
        tags={"team": "finance"},
        refresh="new",
        on_deleted="drop",
        max_attempts=2,
        output_prefix="ai_",
        status_sensor="stopped",
        claude_key="cheap",
        store_key="lake",
    )
    with loaded(fields) as (component, definitions):
        pipeline = component.pipeline()
        assert pipeline.source == DuckDBSource(
            database="warehouse.duckdb", table="invoices", key="invoice_id"
        )
        assert pipeline.destination == DuckDBTable(database="warehouse.duckdb", table="answers")
        assert pipeline.request.prompt == PROMPT
        assert (pipeline.refresh, pipeline.on_deleted, pipeline.max_attempts) == ("new", "drop", 2)
        assert pipeline.output_prefix == "ai_" and pipeline.tags == {"team": "finance"}
        assert pipeline.status_sensor == dg.DefaultSensorStatus.STOPPED
        assert names(definitions) == names(build_definitions(pipeline))
        assert names(definitions)["assets"] >= {"finance/invoices/results", "erp/suppliers"}
        assert not definitions.resources
        dg.Definitions.validate_loadable(complete(definitions))


def test_the_component_is_found_by_its_public_name_and_by_where_it_lives() -> None:
    for kind in (
        "batch_pipeline.BatchPipelineComponent",
        "batch_pipeline.definitions.component.BatchPipelineComponent",
    ):
        with loaded(attributes(), kind=kind) as (component, _):
            assert component.name == "invoices"


def test_texts_for_claude_are_taken_as_they_stand_and_all_else_is_dagsters_to_render(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BP_TABLE", "tickets")
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Read {{ description }}"}]},
        {"role": "assistant", "content": "Yes, {{ supplier }}"},
        {"role": "user", "content": "Go"},
    ]
    fields = attributes(
        source={"database": "w.duckdb", "table": "{{ env.BP_TABLE }}", "key": ["a", "b"]},
        request={
            "model": "claude-haiku-4-5",
            "max_tokens": 256,
            "system": "You know {{ supplier }}. {% if vip %}Be kind.{% endif %}",
            "messages": messages,
            "params": {"temperature": 0.5, "metadata": {"user_id": "{{ env.BP_TABLE }}"}},
        },
    )
    with loaded(fields) as (component, _):
        request = component.pipeline().request
        assert request.system == "You know {{ supplier }}. {% if vip %}Be kind.{% endif %}"
        assert request.messages == messages
        assert request.params == {"temperature": 0.5, "metadata": {"user_id": "tickets"}}
        assert component.source.table == "tickets" and component.source.keys == ("a", "b")


def test_a_prompt_may_be_a_file_beside_the_yaml() -> None:
    request = {"model": "claude-haiku-4-5", "max_tokens": 9, "prompt_file": "prompt.md"}
    request |= {"cache": "5m", "cache_by": ["contract"]}
    text = "Wie heißt {{ supplier }}?\n"
    with loaded(attributes(request=request), {"prompt.md": text}) as (component, _):
        asked = component.pipeline().request
        assert asked.prompt == text and list(asked.cache_by) == ["contract"]
    assert 'set cache="5m"' in problem(attributes(request={**request, "cache": None}))
    said = problem(attributes(request={**request, "prompt_file": "none.md"}))
    assert "prompt_file: there is no" in said and "none.md" in said


def test_the_output_is_a_schema_in_place_or_a_class_to_import() -> None:
    schema = {
        "type": "object",
        "properties": {"department": {"type": "string", "enum": ["IT", "HR"]}},
        "required": ["department"],
        "additionalProperties": False,
    }
    base = attributes()["request"]
    with loaded(attributes(request={**base, "output": schema})) as (component, _):
        assert component.pipeline().request.output == schema
    with loaded(attributes(request={**base, "output": f"{HERE}.Invoice"})) as (component, _):
        assert component.pipeline().request.output is Invoice
    built = {"model": "claude-haiku-4-5", "max_tokens": 9, "build": f"{HERE}.build"}
    built |= {"columns": ["description"], "version": "1"}
    with loaded(attributes(request=built)) as (component, _):
        assert component.pipeline().request.build is build
    for dotted in ("no.such.module.Name", f"{HERE}.Nothing", "Invoice"):
        said = problem(attributes(request={**base, "output": dotted}))
        assert f"output: '{dotted}' cannot be imported" in said


def test_a_text_that_looks_like_a_number_stays_a_text() -> None:
    schema = {"type": "object", "properties": {"stars": {"enum": ["1", "2", "true"]}}}
    fields = attributes(
        request={**attributes()["request"], "output": schema, "version": "2"},
        partitions={"type": "static", "partition_keys": ["2026", "2027"]},
        partition_column="year",
        tags={"dagster/priority": "3"},
        output_prefix="_1",
    )
    with loaded(fields) as (component, _):
        pipeline = component.pipeline()
        assert pipeline.request.output == schema and pipeline.request.version == "2"
        assert pipeline.partitions == dg.StaticPartitionsDefinition(["2026", "2027"])
        assert pipeline.tags == {"dagster/priority": "3"} and pipeline.output_prefix == "_1"


def test_parquet_in_and_parquet_out() -> None:
    fields = attributes(
        source={"path": "in/*.parquet", "key": "id"}, destination={"path": "s3://b/out"}
    )
    with loaded(fields) as (component, _):
        assert component.source == ParquetSource(path="in/*.parquet", key="id")
        assert component.destination == ParquetDataset(path="s3://b/out")


def test_a_schedule_may_say_its_zone_and_whether_it_runs() -> None:
    fields = attributes(
        schedule={"cron": "30 1 * * *", "timezone": "Europe/Berlin", "status": "running"}
    )
    with loaded(fields) as (component, definitions):
        running = dg.DefaultScheduleStatus.RUNNING
        assert component.schedule == Schedule("30 1 * * *", "Europe/Berlin", running)
        assert names(definitions)["schedules"] == {
            ("invoices_nightly", "30 1 * * *", "Europe/Berlin", running)
        }


def test_a_backfill_is_divided_into_runs_as_declared() -> None:
    for said, policy in (
        ("single_run", dg.BackfillPolicy.single_run()),
        (7, dg.BackfillPolicy.multi_run(7)),
        (None, None),
    ):
        with loaded(attributes(backfill_policy=said)) as (component, _):
            assert component.pipeline().backfill_policy == policy


def test_addresses_of_reports_are_read_at_run_time_and_never_shown() -> None:
    secret = "hidden-pass-word"
    said = {"notify": "{{ env.REPORT_URL }}", "notify_when": "trouble", "notify_rows": "select 1"}
    with loaded(attributes(**said)) as (component, _):
        pipeline = component.pipeline()
        assert [*pipeline.notify] == [dg.EnvVar("REPORT_URL")]
        assert (pipeline.notify_when, pipeline.notify_rows) == ("trouble", "select 1")
    for wrong in ({"url": f"mailto://a:{secret}@x"}, [f"mialto://a:{secret}@x"], [[secret]]):
        refused = problem(attributes(notify=wrong))
        assert "notify" in refused and secret not in refused


def test_arrivals_are_asked_as_declared() -> None:
    said = {"min_records": 10, "cooldown_minutes": 5, "status": "running"}
    with loaded(attributes(arrivals=said)) as (component, definitions):
        running = dg.DefaultSensorStatus.RUNNING
        assert component.pipeline().arrivals == Arrivals(10, 5, running)
        assert ("invoices_arrivals", running) in names(definitions)["sensors"]
    with loaded(attributes(arrivals={})) as (component, definitions):
        assert component.pipeline().arrivals == Arrivals(1, 60, dg.DefaultSensorStatus.STOPPED)
    with loaded(attributes()) as (component, definitions):
        assert {name for name, _ in names(definitions)["sensors"]} == {"invoices_status"}


@pytest.mark.parametrize(
    ("partitions", "expected"),
    [
        (
            {"type": "daily", "start_date": "2026-03-01", "timezone": "Europe/Berlin"},
            dg.DailyPartitionsDefinition(start_date="2026-03-01", timezone="Europe/Berlin"),
        ),
        (
            {"type": "hourly", "start_date": "2026-03-01-00:00"},
            dg.HourlyPartitionsDefinition(start_date="2026-03-01-00:00"),
        ),
        (
            {"type": "weekly", "start_date": "2026-03-01"},
            dg.WeeklyPartitionsDefinition(start_date="2026-03-01"),
        ),
        (
            {"type": "monthly", "start_date": "2026-03-01"},
            dg.MonthlyPartitionsDefinition(start_date="2026-03-01"),
        ),
        (
            {
                "type": "time_window",
                "start": "2026-03-01",
                "fmt": "%Y-%m-%d",
                "cron_schedule": "0 6 * * *",
            },
            dg.TimeWindowPartitionsDefinition(
                start="2026-03-01", fmt="%Y-%m-%d", cron_schedule="0 6 * * *"
            ),
        ),
        (
            {"type": "static", "partition_keys": ["de", "fr"]},
            dg.StaticPartitionsDefinition(["de", "fr"]),
        ),
        ({"type": "dynamic", "name": "files"}, dg.DynamicPartitionsDefinition(name="files")),
    ],
)
def test_partitions_are_written_by_type(
    partitions: dict[str, Any], expected: dg.PartitionsDefinition
) -> None:
    with loaded(attributes(partitions=partitions, partition_column="day")) as (component, defs):
        assert component.pipeline().partitions == expected
        records = complete(defs).resolve_asset_graph().get(dg.AssetKey(["invoices", "records"]))
        assert records.partitions_def == expected


def test_partitions_of_several_dimensions_are_written_by_their_names() -> None:
    given = {
        "type": "multi",
        "dimensions": {
            "date": {"type": "daily", "start_date": "2026-03-01"},
            "region": {"type": "static", "partition_keys": ["EU", "US"]},
        },
    }
    columns = {"date": "day", "region": "region"}
    with loaded(attributes(partitions=given, partition_column=columns)) as (component, _):
        pipeline = component.pipeline()
        assert pipeline.partition_column == columns
        assert pipeline.partitions == dg.MultiPartitionsDefinition(
            {
                "date": dg.DailyPartitionsDefinition(start_date="2026-03-01"),
                "region": dg.StaticPartitionsDefinition(["EU", "US"]),
            }
        )


REQUEST = attributes()["request"]
SOURCE = attributes()["source"]


DAILY = {"type": "daily", "start_date": "2026-03-01"}
WINDOWS = {"type": "time_window", "start": "2026-03-01", "fmt": "%Y-%m-%d"}


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"sorce": {}}, ["sorce"]),
        ({"name": "my invoices"}, ["must start with a letter", "'my invoices'"]),
        ({"refresh": "always"}, ["refresh", "always", "'changed' or 'new'"]),
        ({"max_attempts": "many"}, ["max_attempts", "many"]),
        (
            {"source": {**SOURCE, "tabel": "x"}},
            ["attributes.source.tabel: there is no field tabel", "did you mean table?"],
        ),
        ({"source": {"database": "w.duckdb", "key": "id"}}, ["exactly one of `query`", "`table`"]),
        ({"source": {"database": "w.duckdb", "table": "t"}}, ["source: key is missing"]),
        ({"source": {"table": "t", "key": "id"}}, ["source: database is missing"]),
        ({"source": "warehouse.duckdb"}, ["source", "mapping"]),
        ({"destination": {"database": "w.duckdb"}}, ["destination: table is missing"]),
        (
            {"destination": {"folder": "x"}},
            ["attributes.destination.folder: there is no field folder", "it has database"],
        ),
        (
            {"request": {**REQUEST, "promt": "x"}},
            ["attributes.request.promt: there is no field promt", "did you mean prompt?"],
        ),
        ({"request": {**REQUEST, "prompt": "Sort this."}}, ["prompt reads no column"]),
        ({"request": {**REQUEST, "prompt_file": "p.md"}}, ["give prompt or prompt_file, not both"]),
        ({"request": {"prompt": PROMPT, "max_tokens": 5}}, ["request: model is missing"]),
        ({"request": {**REQUEST, "output": {"type": "string"}}}, ["root must be an object"]),
        (
            {"schedule": {"cron": "0 1 * * *", "zone": "UTC"}},
            ["attributes.schedule.zone: there is no field zone", "did you mean timezone?"],
        ),
        (
            {"schedule": {"cron": "0 1 * * *", "status": "on"}},
            ["attributes.schedule.status is 'on'; it must be 'running' or 'stopped'."],
        ),
        (
            {"arrivals": {"cooldown": 5}},
            [
                "attributes.arrivals.cooldown: there is no field cooldown; did you mean cooldown_minutes?"
            ],
        ),
        (
            {"backfill_policy": "all"},
            ["backfill_policy is 'all'", "it must be 'single_run' or a valid integer."],
        ),
        (
            {"arrivals": {"status": "on"}},
            ["arrivals.status is 'on'; it must be 'running' or 'stopped'."],
        ),
        ({"arrivals": {"min_records": 0}}, ["min_records is 0; it must be 1 or more"]),
        ({"arrivals": {"cooldown_minutes": "1h"}}, ["cooldown_minutes is '1h'"]),
        ({"status_sensor": "on"}, ["status_sensor is 'on'; it must be 'running' or 'stopped'."]),
        ({"partitions": {"type": "dayly"}}, ["'dayly'", "daily"]),
        ({"schedule": "every night"}, ["attributes.schedule: Schedule: cron is 'every night'"]),
        (
            {"schedule": {"cron": "0 25 * * *"}},
            ["Schedule: cron is '0 25 * * *'", "five fields"],
        ),
        (
            {"schedule": {"cron": "0 1 * * *", "timezone": "Berlin"}},
            ["Schedule: timezone is 'Berlin'", "such as UTC or Europe/Berlin"],
        ),
        (
            {"partitions": {**DAILY, "timezone": "Berlin"}},
            ["partitions (type daily): timezone is 'Berlin'", "such as UTC or Europe/Berlin"],
        ),
        (
            {"partitions": {**DAILY, "timezone": 7}},
            ["attributes.partitions.timezone is 7; it must be a valid string."],
        ),
        (
            {"partitions": {**WINDOWS, "cron_schedule": "0 25 * * *"}},
            ["partitions (type time_window): cron_schedule is '0 25 * * *'", "five fields"],
        ),
        (
            {
                "partitions": {
                    "type": "multi",
                    "dimensions": {"day": {**DAILY, "timezone": "Berlin"}},
                }
            },
            ["partitions (type daily): timezone is 'Berlin'"],
        ),
        (
            {"partitions": {"type": "daily", "start_date": "soon"}},
            [
                "attributes.partitions.start_date: partitions (type daily) cannot be (start_date='soon')",
                "'soon' does not match",
            ],
        ),
        (
            {"partitions": {**DAILY, "minute_offset": 99}},
            [
                "attributes.partitions.minute_offset: partitions (type daily) cannot be",
                "minute_offset=99",
            ],
        ),
        ({"partitions": {"type": "daily"}}, ["attributes.partitions: start_date is missing"]),
        (
            {"partitions": {"type": "static", "keys": ["a"]}},
            ["there is no field keys; it has type, partition_keys."],
        ),
        (
            {"partitions": {"type": "daily", "start_date": "2026-03-01"}},
            ["partition_column is missing"],
        ),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], parts: list[str]) -> None:
    said = problem(attributes(**fields))
    for part in parts:
        assert part in said, said


def test_a_pipeline_in_yaml_runs_its_night(
    claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    fields = attributes(
        name="packages",
        source={"path": str(RECORDS), "key": "package"},
        request={"model": "claude-haiku-4-5", "max_tokens": 99, "prompt": "{{ summary }}"},
    )
    with loaded(fields) as (component, _):
        run = Nights(
            component.pipeline(),
            ClaudeBatches(api_key="test-key", base_url=claude_emulator.base_url),
            BatchStore(root=str(tmp_path / "store")),
        )
        run.night(limit=4)
    assert len(run.rows()) == 4


def test_ready_requests_are_named_by_their_files_and_have_no_request() -> None:
    source = {"request_files": "requests/*.jsonl", "betas": ["a-2026-01-01"]}
    with loaded({"name": "ready", "source": source}) as (component, _):
        assert component.source == RequestFiles("requests/*.jsonl", betas=["a-2026-01-01"])
        assert component.pipeline().request.betas == ["a-2026-01-01"]
    bad = {"source": source, "request": attributes()["request"]}
    assert "Leave out request" in problem({"name": "ready", **bad})
    lacking = {"name": "lacking", "source": attributes()["source"]}
    assert "request is missing" in problem(lacking)
    varied = {"name": "ready", "source": source, "variants": {"a": {"system": "Be short."}}}
    assert "Leave out variants" in problem(varied)


def test_a_better_model_is_a_mapping() -> None:
    written = {
        "to": {"model": "claude-opus-5-5", "max_tokens": 900},
        "when": ["invalid", "_attempt > 1"],
        "audit": 0.1,
    }
    with loaded(attributes(escalate=written)) as (component, _):
        assert component.pipeline().escalate == Escalate(**written)
    assert "write several as a list" in problem(
        attributes(escalate={"to": "b", "when": "invalid | refused"})
    )


def test_when_answers_are_wanted_is_a_text_or_a_mapping() -> None:
    berlin = {"time": "07:00", "timezone": "Europe/Berlin"}
    for written, meant in (("07:00", AnswerBy("07:00")), (berlin, AnswerBy(**berlin))):
        with loaded(attributes(answer_by=written)) as (component, _):
            assert component.pipeline().deadline == meant
    assert "AnswerBy: time" in problem(attributes(answer_by="7 am"))
