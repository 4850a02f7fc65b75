"""What the UI and the ticks show: of the whole, of runs that others started, as often as was said."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from click.testing import CliRunner

from batch_pipeline import ClaudeBatches, DuckDBSource, Schedule, build_definitions
from batch_pipeline.cli.main import main
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import InputError
from batch_pipeline_tests.definitions.test_component import loaded
from batch_pipeline_tests.faults.conftest import *  # noqa: F403 - its fixtures
from batch_pipeline_tests.faults.conftest import HOUR, MINUTE, Night, parts
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.extent import only_whole

FIELDS = {"timezone": "Europe/Nowhere", "cron": "0 25 * * *"}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("wrong", ["", "soon", None, 7])
def test_a_schedule_that_cannot_be_is_refused_with_its_field(field: str, wrong: Any) -> None:
    for value in (wrong, FIELDS[field]):
        given = {"cron": "0 23 * * *", field: value}
        with pytest.raises(InputError, match=f"Schedule: {field} is "):
            Schedule(**given)


def test_a_pipelines_bad_cron_string_is_refused_when_it_is_declared(nights: Any) -> None:
    with pytest.raises(InputError, match="Schedule: cron is 'every night'"):
        nights(schedule="every night")


@only_whole
def test_results_show_the_tables_totals_beside_the_runs_numbers(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit(where="id < 30")
    night.end()
    night.submit()
    night.end()
    shown = night.metadata("results")
    assert shown["answered"] <= 10 and shown["dagster/row_count"] == 40
    assert f"| answered | {shown['answered']} | 40 |" in shown["statuses"]
    assert "missing" not in shown and "missing" not in shown["statuses"]


def _whole(night: Night) -> tuple[int, ...]:
    """What ``status`` says of the whole source: rows, answered, failed, on their way, never asked."""
    (one,) = json.loads(_plain(night, "status", "--json"))["pipelines"]
    names = (
        "source_rows",
        "source_answered",
        "source_failed",
        "source_on_their_way",
        "never_asked",
    )
    found = tuple(one[name] for name in names)
    assert found[0] == sum(found[1:]), found
    return found


def _said(night: Night) -> str:
    return " ".join(_plain(night, "status").split())


def _plain(night: Night, *words: str) -> str:
    done = CliRunner().invoke(main, [*words, "--store", night.store.root])
    assert done.exit_code in (0, 3), done.output
    return done.output


def _limit(night: Night, limit: int, part: str | None = None, **more: Any) -> None:
    asked = {"limit": limit, **more}
    night.run("submit", {"ops": {"invoices__records": {"config": asked}}}, part)


def test_status_tells_of_the_whole_source_and_not_of_the_last_partition_or_run(
    nights: Any, claude_emulator: EmulatorProcess
) -> None:
    night = parts(nights)
    _limit(night, 5, "a")
    assert _whole(night) == (20, 0, 0, 5, 15)
    night.end()
    assert _whole(night) == (20, 5, 0, 0, 15)
    _limit(night, 4, "b")
    assert _whole(night) == (40, 5, 0, 4, 31)
    night.end()
    _limit(night, 3, "a")
    night.end()
    assert _whole(night) == (40, 12, 0, 0, 28)
    assert "Of all 40 source rows (as of " in _said(night)  # a time, or two: it may be midnight
    assert "UTC, when they were last selected from): 12 answered, 28 never asked" in _said(night)
    each = json.loads(_plain(night, "status", "invoices", "--json"))["pipelines"]
    assert [(one["partition"], one["source_answered"], one["never_asked"]) for one in each] == [
        ("a", 8, 12),
        ("b", 4, 16),
    ]
    for part in "ab":
        night.submit(part)
    night.end()
    assert _whole(night) == (40, 40, 0, 0, 0)


@only_whole
def test_status_tells_what_failed_for_good_and_what_is_to_be_asked_again(
    nights: Any, claude_emulator: EmulatorProcess
) -> None:
    night = nights(max_attempts=2)
    claude_emulator.configure(answers="digest", batch_seconds=60, rates={"errored": 1.0})
    _limit(night, 6)
    night.clock.advance(5 * MINUTE)
    night.tick_and_run()
    assert _whole(night) == (40, 0, 6, 0, 34)
    night.end()
    claude_emulator.configure(answers="digest", batch_seconds=60, rates={"refused": 1.0})
    _limit(night, 4)
    night.end()
    claude_emulator.configure(answers="digest", batch_seconds=60, rates={})
    _limit(night, 10)
    night.end()
    assert _whole(night) == (40, 10, 10, 0, 20)
    assert "10 answered, 10 failed, 20 never asked" in _said(night)
    _limit(night, 3, force=True)  # the first ones by key: they had failed
    assert _whole(night) == (40, 10, 7, 3, 20)
    night.end()
    assert _whole(night) == (40, 13, 7, 0, 20)


@only_whole
def test_status_follows_the_source_also_on_nights_that_ask_nothing(
    nights: Any, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    database = tmp_path / "own.duckdb"

    def change(sql: str) -> None:
        with duckdb.connect(str(database)) as connection:
            connection.execute(sql)

    change("create table notes as select range as id, 'note ' || range as text from range(30)")
    night = nights(source=DuckDBSource(database=str(database), table="notes", key="id"))
    night.submit()
    night.end()
    assert _whole(night) == (30, 30, 0, 0, 0)
    night.clock.advance(25 * HOUR)
    change("delete from notes where id >= 20")
    assert _whole(night) == (30, 30, 0, 0, 0)  # as of the last selection, and that is said
    night.submit()
    assert _whole(night) == (20, 20, 0, 0, 0)
    assert f"Of all 20 source rows (as of {night.clock.now():%Y-%m-%d %H:%M}" in _said(night)
    change("update notes set text = 'new' where id < 8")
    _limit(night, 0)
    assert _whole(night) == (20, 12, 0, 0, 8)
    _limit(night, 2)
    night.clock.advance(MINUTE)
    change("update notes set text = 'newer' where id = 0")
    _limit(night, 1)  # while the earlier ones are on their way
    assert _whole(night) == (20, 12, 0, 2, 6)
    night.end()
    assert _whole(night) == (20, 14, 0, 0, 6)
    database.unlink()  # or it is locked: nobody looks
    assert _whole(night) == (20, 14, 0, 0, 6)


def _command(night: Night, *words: str) -> tuple[int, str]:
    """Run a command over the night's store; return its exit code, and what it says as one line."""
    done = CliRunner().invoke(main, [*words, "--store", night.store.root])
    return done.exit_code, " ".join(done.output.split())


def test_held_and_the_run_agree_when_a_key_is_revoked_between_two_nights(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    night.end()
    assert _command(night, "held")[0] == _command(night, "status")[0] == 0
    claude_emulator.fault("revoke_key")
    failure = night.fail("submit")
    (held,) = night.held.pipelines
    assert held.error == failure and held.goes_on_by_itself
    code, said = _command(night, "held")
    assert code == 3 and "does not accept the API key (401" in said
    assert "put it right; invoices_status sees that and goes on, or launch the job again" in said
    code, said = _command(night, "status")
    assert code == 3 and "To do: invoices is held" in said
    night.tick()
    assert night.held.pipelines and "does not accept the API key (401" in night.message
    claude_emulator.clear_faults("revoke_key")
    night.tick()
    assert night.held.pipelines == []
    assert _command(night, "held") == (0, "Nothing is held.")
    night.judge_good()


def test_held_and_the_sensor_agree_when_a_key_is_revoked_while_batches_are_open(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    claude_emulator.fault("revoke_key")
    night.clock.advance(20 * MINUTE)
    night.tick()
    (held,) = night.held.pipelines
    assert held.error.rstrip(".") in night.message
    _, said = _command(night, "status")
    assert "never asked about these batches" not in said and "daemon" not in said
    claude_emulator.clear_faults("revoke_key")
    night.end()
    assert night.held.pipelines == []
    night.judge_good()


@only_whole
def test_what_is_released_or_sent_again_while_the_key_is_revoked_is_held_again(
    nights: Any, claude_emulator: EmulatorProcess
) -> None:
    night = nights({"on_unknown": "hold"})
    claude_emulator.fault("create", "drop_before", nth=2)
    claude_emulator.fault("create", "revoke_key", nth=4)
    night.fail("submit")
    code, said = _command(night, "held", "invoices", "--release")
    assert code == 0 and "held again if the API still refuses" in said
    night.clock.advance(20 * MINUTE)
    night.tick()
    assert [one.pipeline for one in night.held.pipelines] == ["invoices"]
    failure = night.fail("send")
    assert [one.error for one in night.held.pipelines] == [failure]
    claude_emulator.clear_faults("revoke_key")
    night.end()
    (held,) = night.held.files
    assert night.held.pipelines == []
    claude_emulator.fault("revoke_key")
    night.tick_for(5 * MINUTE)
    _command(night, "held", "--resend", held.id)
    night.clock.advance(20 * MINUTE)
    night.tick()
    code, said = _command(night, "held")
    assert code == 3 and "does not accept the API key (401" in said
    _, said = _command(night, "status")
    assert "1 file not sent, because the pipeline is held" in said
    claude_emulator.clear_faults("revoke_key")
    night.end()
    night.judge_good()


def test_a_run_of_a_backfill_is_seen_and_no_other_is_requested_beside_it(nights: Any) -> None:
    night = parts(nights)
    night.submit("a")
    night.submit("b")
    night.clock.advance(10 * MINUTE)
    results = night.pipeline.asset_key("results")
    run = night.instance.create_run_for_job(
        night.definitions.resolve_implicit_global_asset_job_def(),
        asset_selection=frozenset({results}),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": "a", "dagster/backfill": "one"},
    )
    requests = night.tick().run_requests
    assert [request.partition_key for request in requests] == ["b"]
    night.instance.report_run_failed(run)
    assert {request.partition_key for request in night.tick().run_requests} == {"a", "b"}


@only_whole
def test_in_a_project_of_components_the_projects_resource_says_how_often_to_look(
    night: Night, clock: HandClock
) -> None:
    fields = {
        "name": "invoices",
        "source": {"database": night.pipeline.source.database, "table": "invoices", "key": "id"},
        "request": {"model": "claude-haiku-4-5", "max_tokens": 100, "prompt": "{{ text }}"},
    }
    claude = ClaudeBatches(
        api_key="test-key", base_url=night.emulator.base_url, poll_interval_seconds=600
    )
    resources = {"claude": claude, "store": night.store}
    with loaded(fields) as (_, built):
        night.claude = claude
        night.definitions = dg.Definitions.merge(built, dg.Definitions(resources=resources))
        night.submit()
        before = _lists(night.emulator)
        for _ in range(120):
            night.tick()
            clock.advance(15)
    assert _lists(night.emulator) - before == pytest.approx(3, abs=1)


@only_whole
@pytest.mark.parametrize("seconds", [60, 300])
def test_a_resource_that_is_defined_elsewhere_says_how_often_to_look(
    night: Night, clock: HandClock, seconds: int
) -> None:
    claude = ClaudeBatches(
        api_key="test-key", base_url=night.emulator.base_url, poll_interval_seconds=seconds
    )
    merged = dg.Definitions.merge(
        build_definitions(night.pipeline),
        dg.Definitions(resources={"claude": claude, "store": night.store}),
    )
    night.claude, night.definitions = claude, merged
    sensor = merged.get_repository_def().get_sensor_def("invoices_status")
    every = sensor.minimum_interval_seconds
    assert every <= 15
    night.submit()
    before = _lists(night.emulator)
    for _ in range(round(1200 / every)):
        night.tick()
        clock.advance(every)
    looks = _lists(night.emulator) - before
    assert looks == pytest.approx(1200 / seconds, abs=1)
    assert f"poll_interval_seconds is {seconds}" in night.ticks[-1].skip_message


@only_whole
def test_five_partitions_of_a_backfill_cause_ten_runs_and_none_that_sends_nothing(
    nights: Any, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    database = tmp_path / "five.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute(
            "create table notes as select range as id, 'note ' || range as text, "
            "substr('abcde', 1 + range::int % 5, 1) as part from range(20)"
        )
    night = nights(
        source=DuckDBSource(database=str(database), table="notes", key="id"),
        partitions=dg.StaticPartitionsDefinition([*"abcde"]),
        partition_column="part",
    )
    job = night.definitions.resolve_implicit_global_asset_job_def()
    stages = [
        night.pipeline.asset_key(one) for one in ("records", "requests", "batches", "results")
    ]

    def run(part: str, some: list[dg.AssetKey]) -> None:
        job.execute_in_process(
            instance=dg.DagsterInstance.ephemeral(), asset_selection=some, partition_key=part,
            resources={"claude": night.claude, "store": night.store},
        )  # fmt: skip

    def ticks() -> list[tuple[str, str]]:
        requested = night.tick().run_requests or []
        for one in requested:
            night.run(one.job_name.removeprefix("invoices_"), partition=one.partition_key)
        return [(one.job_name, one.partition_key) for one in requested]

    backfill = {
        part: night.instance.create_run_for_job(
            job,
            asset_selection=frozenset(stages),
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": part, "dagster/backfill": "one"},
        )
        for part in "abcde"
    }
    for part in backfill:
        run(part, stages[:2])
        assert ticks() == []  # its files are ready, and its own run sends them
    for part, one in backfill.items():
        run(part, stages[2:])
        night.instance.report_run_failed(one)  # ended, one way or the other
        assert ticks() == []
    assert len(claude_emulator.batches()) == 5
    night.clock.advance(10 * MINUTE)
    assert ticks() == [("invoices_collect", part) for part in "abcde"]
    assert ticks() == [] and len(night.rows()) == 20


def _lists(emulator: EmulatorProcess) -> int:
    return emulator.stats()["calls"].get("GET /v1/messages/batches", 0)


def test_a_base_url_with_the_apis_path_is_refused_with_the_right_one() -> None:
    for path in ("/v1", "/v1/", "/v1/messages", "/v1/messages/batches/", "/V1"):
        claude = ClaudeBatches(api_key="key", base_url=f"https://gateway.example/llm{path}")
        with pytest.raises(
            InputError, match=r"Write https://gateway\.example/llm\. Nothing was sent"
        ):
            claude.api()
    ClaudeBatches(api_key="key", base_url="https://gateway.example/v1x").api().close()
