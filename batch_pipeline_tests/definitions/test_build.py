"""What a declared pipeline becomes in a code location, before anything runs."""

import os
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    InputError,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
    build_definitions,
)
from batch_pipeline.definitions.assets.batches import console_of
from batch_pipeline.definitions.assets.define import stage_specs
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline_tests.definitions.conftest import RECORDS, TEMPLATE
from batch_pipeline_tests.support.dagster_nights import Nights

STAGES = ("records", "requests", "batches", "results")
CLAUDE = ClaudeBatches(api_key="test-key", base_url="http://127.0.0.1:9", poll_interval_seconds=20)
STORE = BatchStore(root="/nonexistent/store")


def pipeline(**fields: Any) -> BatchPipeline:
    return BatchPipeline(
        **{
            "name": "invoices",
            "source": DuckDBSource(database="/nonexistent/w.duckdb", table="t", key="id"),
            "request": MessageTemplate(**TEMPLATE),
            **fields,
        }
    )


def spec(definitions: dg.Definitions, *key: str) -> dg.AssetSpec:
    return definitions.resolve_asset_graph().get(dg.AssetKey(list(key))).to_asset_spec()


def keys(definitions: dg.Definitions) -> set[str]:
    return {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}


def jobs(definitions: dg.Definitions) -> dict[str, set[str]]:
    """The jobs by name, and the assets of each."""
    return {
        job.name: {key.path[-1] for key in job.asset_layer.selected_asset_keys}
        for job in definitions.resolve_all_job_defs()
        if not job.name.startswith("__")
    }


def test_a_pipeline_becomes_four_assets_four_jobs_a_schedule_a_sensor_and_a_check() -> None:
    definitions = build_definitions(pipeline(schedule="0 23 * * *"), claude=CLAUDE, store=STORE)
    assert keys(definitions) == {f"invoices/{stage}" for stage in STAGES}
    assert jobs(definitions) == {
        "invoices_submit": {"records", "requests", "batches"},
        "invoices_send": {"batches"},
        "invoices_collect": {"results"},
        "invoices_probe": set(),
    }
    assert [one.name for one in definitions.schedules or []] == ["invoices_nightly"]
    (sensor,) = definitions.sensors or []
    assert sensor.name == "invoices_status" and sensor.minimum_interval_seconds == 20
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert {job.name for job in sensor.jobs} == set(jobs(definitions)) - {"invoices_probe"}
    graph = definitions.resolve_asset_graph()
    assert {(check.asset_key.to_user_string(), check.name) for check in graph.asset_check_keys} == {
        ("invoices/results", "every_record_accounted_for"),
        ("invoices/results", "answers_fetched_in_time"),
    }
    key = dg.AssetKey(["invoices", "results"])
    results = next(one for one in definitions.assets or [] if key in one.keys)
    assert {check.name: check.blocking for check in results.check_specs} == {
        "every_record_accounted_for": True,
        "answers_fetched_in_time": False,
    }
    for before, after in pairwise(STAGES):
        (dep,) = spec(definitions, "invoices", after).deps
        assert dep.asset_key.path == ["invoices", before]
    assert {graph.get(key).group_name for key in graph.get_all_asset_keys()} == {"invoices"}
    definitions.validate_loadable(definitions)


def test_prefix_group_tags_upstream_and_spec_are_dagsters_own() -> None:
    definitions = build_definitions(
        pipeline(
            key_prefix=["finance", "ap-team"],
            group_name="night",
            tags={"team": "finance"},
            upstream=["raw_invoices", ["erp", "suppliers"]],
            asset_spec=lambda one: one.replace_attributes(owners=["team:finance"]),
            status_sensor=dg.DefaultSensorStatus.STOPPED,
        ),
        claude=CLAUDE,
        store=STORE,
    )
    assert keys(definitions) >= {f"finance/ap-team/invoices/{stage}" for stage in STAGES}
    records = spec(definitions, "finance", "ap-team", "invoices", "records")
    assert records.group_name == "night" and records.tags["team"] == "finance"
    assert list(records.owners) == ["team:finance"]
    assert {dep.asset_key.to_user_string() for dep in records.deps} == {
        "raw_invoices",
        "erp/suppliers",
    }
    assert set(jobs(definitions)) == {
        f"invoices_{job}" for job in ("submit", "send", "collect", "probe")
    }
    assert definitions.resolve_job_def("invoices_submit").tags["team"] == "finance"
    (sensor,) = definitions.sensors or []
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED


def test_a_prefix_may_be_one_word() -> None:
    definitions = build_definitions(pipeline(key_prefix="finance"), claude=CLAUDE, store=STORE)
    assert keys(definitions) == {f"finance/invoices/{stage}" for stage in STAGES}


def test_a_spec_that_changes_a_key_is_refused_with_the_way_to_do_it() -> None:
    moved = pipeline(asset_spec=lambda one: one.replace_attributes(key=["elsewhere"]))
    with pytest.raises(InputError, match=r"invoices/records the key elsewhere.*key_prefix"):
        build_definitions(moved, claude=CLAUDE, store=STORE)


def test_jobs_run_in_process_unless_another_executor_is_given() -> None:
    for executor, expected in (
        (None, "in_process"),
        (dg.multiprocess_executor.configured({"max_concurrent": 2}), "multiprocess"),
    ):
        definitions = build_definitions(pipeline(executor=executor), claude=CLAUDE, store=STORE)
        assert definitions.resolve_job_def("invoices_submit").executor_def.name == expected


def test_pipelines_merge_with_each_other_and_with_the_users_own_definitions() -> None:
    @dg.asset(deps=[dg.AssetKey(["invoices", "results"])])
    def report() -> None: ...

    parts = [
        build_definitions(pipeline()),
        build_definitions(pipeline(name="letters"), pipeline(name="tickets", claude_key="slow")),
        dg.Definitions(
            assets=[report],
            resources={"claude": CLAUDE, "slow": CLAUDE, "store": STORE, "mail": "smtp://..."},
        ),
    ]
    assert not any(part.resources for part in parts[:2])
    merged = dg.Definitions.merge(*parts)
    dg.Definitions.validate_loadable(merged)
    assert keys(merged) == {"report"} | {
        f"{name}/{stage}" for name in ("invoices", "letters", "tickets") for stage in STAGES
    }
    ticket_job = merged.resolve_job_def("tickets_submit")
    assert {"slow", "store"} <= set(ticket_job.get_required_resource_defs())


def test_resources_go_to_the_keys_that_the_pipelines_ask_for() -> None:
    definitions = build_definitions(
        pipeline(claude_key="cheap", store_key="lake"), pipeline(name="letters"),
        claude=CLAUDE, store=STORE,
    )  # fmt: skip
    assert set(definitions.resources or {}) == {"cheap", "lake", "claude", "store"}


def test_two_pipelines_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match=r"Two pipelines are named invoices.*name of its own"):
        build_definitions(pipeline(), pipeline(), claude=CLAUDE, store=STORE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "my-invoices"}, "must start with a letter.*'my-invoices' does not"),
        ({"partition_column": "day"}, "partitions is missing"),
        ({"partitions": dg.StaticPartitionsDefinition(["a"])}, "partition_column is missing"),
        ({"refresh": "always"}, "'always'; it must be changed or new"),
        ({"on_deleted": "ignore"}, "'ignore'; it must be keep or drop"),
        ({"max_attempts": 0}, "max_attempts is 0; it must be 1 or more"),
    ],
)
def test_fields_that_could_not_work_are_refused_when_declared(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pipeline(**fields)


DEFINING = """
import os, sys
import dagster as dg
from batch_pipeline import *

opened = []
def audit(event, args):
    if event == "open" and isinstance(args[0], str) and not args[0].endswith((".py", ".pyc")):
        opened.append(args[0])
    if event in ("socket.connect", "os.mkdir", "sqlite3.connect"):
        opened.append(f"{event} {args}")
request = MessageTemplate(model="claude-haiku-4-5", max_tokens=10, prompt="{{ a }}")
import batch_pipeline.definitions.build, batch_pipeline.definitions.component
sys.addaudithook(audit)
definitions = build_definitions(
    BatchPipeline(
        name="one", request=request, schedule="0 1 * * *",
        source=DuckDBSource(database=dg.EnvVar("NOT_SET"), table=dg.EnvVar("NOR_THIS"), key="id"),
        destination=DuckDBTable(database=dg.EnvVar("NOT_SET"), table="t"),
    ),
    BatchPipeline(
        name="two", request=request,
        source=ParquetSource(path="s3://nobody/nothing/*.parquet", key="id"),
        destination=ParquetDataset(path=dg.EnvVar("NOT_SET")),
    ),
    claude=ClaudeBatches(api_key=dg.EnvVar("NOT_SET"), base_url=dg.EnvVar("NOT_SET")),
    store=BatchStore(root=dg.EnvVar("NOT_SET"), ledger=dg.EnvVar("NOT_SET")),
)
definitions.get_repository_def().get_all_jobs()
print(opened)
"""


def test_defining_pipelines_touches_no_disk_no_network_and_no_environment(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEFINING],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(RECORDS.parents[2])},
    )
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


def test_paths_are_read_from_the_environment_when_it_runs_and_start_at_the_project_root(
    claude_emulator: EmulatorProcess,
    warehouse: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "workspace.yaml").touch()
    (tmp_path / "deep" / "down").mkdir(parents=True)
    run = Nights(
        pipeline(
            name="packages",
            source=DuckDBSource(
                database=dg.EnvVar("BP_WAREHOUSE"),
                query=dg.EnvVar("BP_QUERY"),
                key="package",
            ),
            destination=DuckDBTable(
                database=dg.EnvVar("BP_WAREHOUSE"), table=dg.EnvVar("BP_TABLE")
            ),
        ),
        ClaudeBatches(api_key=dg.EnvVar("BP_KEY"), base_url=dg.EnvVar("BP_URL")),
        BatchStore(root="data/batches", ledger=dg.EnvVar("BP_LEDGER")),
    )
    monkeypatch.chdir(tmp_path / "deep" / "down")
    monkeypatch.setenv("BP_WAREHOUSE", warehouse.name)
    monkeypatch.setenv("BP_QUERY", "select * from packages order by package limit 4")
    monkeypatch.setenv("BP_TABLE", "answers")
    monkeypatch.setenv("BP_KEY", "test-key")
    monkeypatch.setenv("BP_URL", claude_emulator.base_url)
    monkeypatch.setenv("BP_LEDGER", "sqlite:///data/money.sqlite")
    run.night()
    assert len(run.rows()) == 4
    assert (tmp_path / "data" / "money.sqlite").is_file()
    assert not (tmp_path / "data" / "batches" / "ledger.sqlite").exists()
    assert run.metadata("results")["table"] == f"table answers in {warehouse}"


def test_parquet_paths_come_from_the_environment_too(
    claude_emulator: EmulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Nights(
        pipeline(
            source=ParquetSource(path=dg.EnvVar("BP_SOURCE"), key="package"),
            destination=ParquetDataset(path=dg.EnvVar("BP_TARGET")),
        ),
        ClaudeBatches(base_url=claude_emulator.base_url),
        BatchStore(root=dg.EnvVar("BP_ROOT")),
    )
    monkeypatch.setenv("BP_SOURCE", str(RECORDS))
    monkeypatch.setenv("BP_TARGET", str(tmp_path / "answers"))
    monkeypatch.setenv("BP_ROOT", str(tmp_path / "store"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")
    run.night(limit=3)
    assert len(run.rows()) == 3


def test_the_submit_job_takes_limit_where_and_force_in_both_of_dagsters_ways(
    nights, claude_emulator: EmulatorProcess
) -> None:
    run = nights(key_prefix="my-team")
    op = "my_team__packages__records"
    run.submit(limit=2)
    assert claude_emulator.bill()["requests"] == 2
    run.run("submit", {"ops": {op: {"config": {"limit": 1, "where": "section = 'admin'"}}}})
    assert claude_emulator.bill()["requests"] == 3
    run.run("submit", {"limit": 5, "ops": {op: {"config": {"force": True}}}})
    assert claude_emulator.bill()["requests"] == 8


def test_a_word_that_the_submit_job_does_not_know_is_refused(nights) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="limits"):
        nights().submit(limits=3)


def test_records_are_stale_when_a_night_was_left_out_and_no_other_asset_is() -> None:
    declared = pipeline(schedule="0 23 * * 1-5")
    specs = stage_specs(declared)
    policies = {stage: one.freshness_policy for stage, one in specs.items()}
    # From Friday to Monday, and two hours.
    assert policies.pop("records") == dg.FreshnessPolicy.time_window(timedelta(days=3, hours=2))
    assert set(policies.values()) == {None}
    assert stage_specs(pipeline())["records"].freshness_policy is None


def test_assets_link_to_the_lines_that_declare_their_pipeline() -> None:
    source = DuckDBSource(database="a.duckdb", table="t", key="id")
    declared = BatchPipeline(name="here", source=source, request=MessageTemplate(**TEMPLATE))
    for one in stage_specs(declared).values():
        (reference,) = one.metadata["dagster/code_references"].code_references
        assert Path(reference.file_path) == Path(__file__)
        line = Path(__file__).read_text().splitlines()[reference.line_number - 1]
        assert line.strip().startswith("declared = BatchPipeline(")


def test_only_batches_of_the_public_api_are_linked_to_the_console() -> None:
    public = Endpoint("https://api.anthropic.com", "org", "wrkspc_1")
    assert console_of(public) == "https://platform.claude.com/workspaces/wrkspc_1/batches"
    unnamed = Endpoint("https://api.anthropic.com", "", "")
    assert console_of(unnamed) == "https://platform.claude.com/workspaces/default/batches"
    assert console_of(Endpoint("http://localhost:8000", "org", "wrkspc_1")) is None
