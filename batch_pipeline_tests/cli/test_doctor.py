"""`doctor` says what is missing for a night, and what to do about it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from batch_pipeline.cli import checks as checkup
from batch_pipeline.cli.project import inside
from batch_pipeline_tests.support.user_project import CODE, TWO, UserProject


def levels(
    user_project: UserProject, code: int | None = None
) -> dict[tuple[str, str], tuple[str, str]]:
    """What each check found, by the first word of what it is about, and its name."""
    result = user_project.run("doctor", "--json")
    if code is not None:
        assert result.exit_code == code, result.output
    checks = json.loads(result.stdout)["checks"]
    found = {}
    for check in checks:
        assert (check["level"] == "ok") == (not check["todo"]), check
        about = check["about"].split()
        about = about[-1] if about[0] == "Pipeline" else about[0]
        found[about, check["name"]] = (check["level"], check["found"])
    return found


def bad(found: dict[tuple[str, str], tuple[str, str]]) -> dict[tuple[str, str], str]:
    return {name: level for name, (level, _) in found.items() if level != "ok"}


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def test_all_is_well_but_for_dagsters_home(user_project: UserProject):
    user_project.submit()
    found = levels(user_project, 0)
    assert bad(found) == {("Dagster", "home"): "warning"}
    assert "10 records" in found["notes", "source"][1]
    assert "1 submission" in found["Store", "ledger"][1]
    assert "SHOP_KEY" in found["API", "key"][1]
    output = user_project.run("doctor").output
    assert "1 warning." in output and "shop-key" not in output


def test_before_the_first_run_no_store_is_made(user_project: UserProject):
    found = levels(user_project, 0)
    assert found["Store", "files"] == ("ok", "not made yet: the first run makes it")
    assert not (user_project.folder / "data").exists()


def test_a_key_that_is_missing_or_wrong(user_project: UserProject):
    user_project.emulator.configure(keys={"shop-key": "main"})
    user_project.write(".env", f"SHOP_KEY=a-wrong-one\nSHOP_URL={user_project.emulator.base_url}\n")
    found = levels(user_project, 1)
    assert found["API", "answer"][0] == "failed" and "401" in found["API", "answer"][1]
    assert "a-wrong-one" not in user_project.run("doctor").output
    user_project.write(".env", f"SHOP_URL={user_project.emulator.base_url}\n")
    assert levels(user_project, 1)["API", "key"][0] == "failed"


def test_whose_key_it_is(user_project: UserProject):
    user_project.emulator.configure(keys={"shop-key": "main"})
    assert "accepts the key, of" in levels(user_project)["API", "answer"][1]


def test_a_key_in_the_code_is_a_warning_and_not_shown(user_project: UserProject):
    user_project.write(
        "pipelines.py", (CODE + TWO).replace('dg.EnvVar("SHOP_KEY")', '"sk-ant-written-here"')
    )
    assert levels(user_project, 0)["API", "key"] == ("warning", "it stands in the code")
    assert "written-here" not in user_project.run("doctor").output


def test_an_api_that_does_not_answer(user_project: UserProject):
    user_project.emulator.stop()
    found = levels(user_project, 1)
    assert bad(found) == {("API", "answer"): "failed", ("Dagster", "home"): "warning"}


def test_a_clock_that_is_wrong(user_project: UserProject):
    for seconds, level in ((300, "warning"), (3000, "failed")):
        user_project.clock.moved = lambda _seconds: None  # this machine's, not the API's
        user_project.clock.advance(seconds)
        assert levels(user_project)["API", "clock"][0] == level


def test_a_source_that_cannot_be_used(user_project: UserProject):
    with duckdb.connect(str(user_project.folder / "warehouse.duckdb")) as connection:
        connection.execute("insert into notes values (3, 'again', 'odd')")
    found = levels(user_project, 1)
    assert found["notes", "key"][0] == "failed" and "not unique" in found["notes", "key"][1]
    assert found["letters", "key"][0] == "warning"
    user_project.write("pipelines.py", (CODE + TWO).replace("{{ text }}", "{{ txt }}"))
    assert "txt" in levels(user_project, 1)["notes", "question"][1]
    (user_project.folder / "warehouse.duckdb").unlink()
    assert "no DuckDB database" in levels(user_project, 1)["notes", "source"][1]


def test_a_destination_that_is_not_ours(user_project: UserProject):
    place = 'destination=DuckDBTable(database="warehouse.duckdb", table="notes"), **more,\n'
    user_project.write("pipelines.py", (CODE + TWO).replace("**more,\n", place, 1))
    assert levels(user_project, 1)["notes", "destination"][0] == "failed"
    user_project.write(
        "pipelines.py", (CODE + TWO).replace("**more,\n", place.replace('"notes"', '"o"'), 1)
    )
    assert levels(user_project, 0)["notes", "destination"][0] == "ok"


def test_a_file_that_somebody_holds(user_project: UserProject):
    place = 'destination=DuckDBTable(database="warehouse.duckdb", table="o"), **more,\n'
    user_project.write("pipelines.py", (CODE + TWO).replace("**more,\n", place, 1))
    code = (
        "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"
    )
    path = str(user_project.folder / "warehouse.duckdb")
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        found = levels(user_project, 0)
        assert found["notes", "destination"][0] == found["notes", "source"][0] == "warning"
        holder.stdin.close()


def test_a_model_without_a_known_price(user_project: UserProject):
    user_project.write(
        "pipelines.py", (CODE + TWO).replace("claude-haiku-4-5", "claude-unheard-of")
    )
    assert levels(user_project, 0)["notes", "price"][0] == "warning"


def test_what_is_held_is_said(user_project: UserProject):
    user_project.emulator.fault("create", "status_before", status=400, times=1)
    user_project.submit()
    assert levels(user_project, 0)["notes", "held"] == ("warning", "1 file is held")


def test_a_store_with_a_newer_ledger(user_project: UserProject):
    user_project.submit()
    with user_project.store().ledger.write() as tx:
        tx.exec_driver_sql("update meta set value = '99' where key = 'schema_version'")
    found = levels(user_project, 1)
    assert (
        found["Store", "open"][0] == "failed"
        and "newer batch_pipeline" in found["Store", "open"][1]
    )
    assert found["notes", "source"][0] == "ok"


def test_little_disk(user_project: UserProject, monkeypatch: pytest.MonkeyPatch):
    user_project.submit()
    for limit, level in (("LITTLE_DISK", "warning"), ("TOO_LITTLE_DISK", "failed")):
        monkeypatch.setattr(checkup, limit, 10**18)
        assert levels(user_project)["Store", "disk"][0] == level


def test_a_project_that_cannot_be_loaded(user_project: UserProject):
    user_project.write("pipelines.py", "x = undefined\n")
    found = levels(user_project, 1)
    assert found["Project", "code"][0] == "failed"
    assert "NameError" in found["Project", "code"][1]


def test_an_error_nobody_thought_of_does_not_end_the_others(
    user_project: UserProject, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_args: object) -> None:
        raise RuntimeError("a surprise")

    monkeypatch.setattr(checkup, "check_api", broken)
    found = levels(user_project, 1)
    assert found["API", "answer"] == ("failed", "RuntimeError: a surprise")
    assert found["notes", "source"][0] == "ok"


@pytest.fixture
def home(user_project: UserProject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home that the project's .env names."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with open(user_project.folder / ".env", "a") as env:
        env.write(f"DAGSTER_HOME={folder}\n")
    return folder


def test_a_daemon_that_does_not_run(user_project: UserProject, home: Path):
    found = levels(user_project, 1)
    assert found["Dagster", "sensor daemon"] == ("failed", "it never ran with this DAGSTER_HOME")
    assert found["Dagster", "notes_status"][0] == "ok"


def test_a_daemon_that_runs(user_project: UserProject, home: Path):
    from dagster._daemon.types import DaemonHeartbeat
    from dagster._time import get_current_timestamp

    with inside(user_project.folder), dg.DagsterInstance.get() as instance:
        for kind in instance.get_required_daemon_types():
            instance.add_daemon_heartbeat(
                DaemonHeartbeat(get_current_timestamp(), kind, "a-daemon", errors=[])
            )
    found = levels(user_project, 0)
    assert found["Dagster", "sensor daemon"][0] == "ok"
    assert bad(found) == {}


def test_a_home_that_is_no_folder(user_project: UserProject, home: Path):
    (home / "dagster.yaml").unlink()
    home.rmdir()
    assert levels(user_project, 1)["Dagster", "home"][0] == "failed"
    assert "DAGSTER_HOME" not in os.environ


def test_sensors_and_schedules_that_are_off(user_project: UserProject, home: Path):
    off = 'status_sensor=dg.DefaultSensorStatus.STOPPED, schedule="0 23 * * *", **more,\n'
    user_project.write("pipelines.py", (CODE + TWO).replace("**more,\n", off, 1))
    found = levels(user_project, 1)
    assert found["Dagster", "notes_status"] == ("failed", "off, as in the code")
    assert found["Dagster", "notes_nightly"][0] == "warning"
    assert "0 23 * * * (UTC)" in found["Dagster", "notes_nightly"][1]


def test_an_automation_sensor_that_is_off_and_an_upstream_that_did_not_run(
    user_project: UserProject, home: Path
):
    eager = (
        'upstream=["raw"], asset_spec=lambda spec: '
        "spec.replace_attributes(automation_condition=dg.AutomationCondition.eager()), **more,\n"
    )
    user_project.write("pipelines.py", (CODE + TWO).replace("**more,\n", eager, 1))
    found = levels(user_project, 1)
    level, said = found["Dagster", "default_automation_condition_sensor"]
    assert level == "warning" and "off" in said and "have an automation condition" in said
    level, said = found["Dagster", "upstream raw"]
    assert level == "warning" and "it has not run yet" in said
    with inside(user_project.folder), dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("raw"))
        _switch(user_project, instance, "default_automation_condition_sensor", on=True)
    found = levels(user_project, 1)
    assert ("Dagster", "upstream raw") not in found
    assert ("Dagster", "default_automation_condition_sensor") not in found


def test_a_sensor_that_was_switched_off_in_the_ui(user_project: UserProject, home: Path):
    with inside(user_project.folder), dg.DagsterInstance.get() as instance:
        _switch(user_project, instance, "notes_status", on=False)
    found = levels(user_project, 1)
    assert found["Dagster", "notes_status"] == ("failed", "off, switched in the UI")
    assert found["Dagster", "letters_status"][0] == "ok"


def _switch(
    user_project: UserProject, instance: dg.DagsterInstance, name: str, *, on: bool
) -> None:
    """Do what the UI does when a sensor is switched off."""
    from dagster._core.remote_origin import (
        ManagedGrpcPythonEnvCodeLocationOrigin,
        RemoteInstigatorOrigin,
        RemoteRepositoryOrigin,
    )
    from dagster._core.scheduler.instigation import (
        InstigatorState,
        InstigatorStatus,
        InstigatorType,
        SensorInstigatorData,
    )
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    location = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(python_file="pipelines.py"), location_name="pipelines.py"
    )
    repository = RemoteRepositoryOrigin(location, "__repository__")
    instance.add_instigator_state(
        InstigatorState(
            RemoteInstigatorOrigin(repository, name),
            InstigatorType.SENSOR,
            InstigatorStatus.RUNNING if on else InstigatorStatus.STOPPED,
            SensorInstigatorData(),
        )
    )
