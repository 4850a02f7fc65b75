"""Bad input: a clear error before anything is sent, and never the key."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from sqlalchemy import update

from batch_pipeline import (
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    InputError,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.tables import meta
from batch_pipeline_tests.definitions.conftest import TEMPLATE
from batch_pipeline_tests.definitions.test_nights import change
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole

KEY = "sk-ant-secret-0123456789"
CREATE = "POST /v1/messages/batches"


def refusal(run: Nights, emulator: EmulatorProcess, **config: Any) -> str:
    """What a submit run says that fails before anything is sent."""
    with pytest.raises(dg.Failure) as failed:
        run.submit(**config)
    assert failed.value.allow_retries is False
    assert CREATE not in emulator.stats()["calls"]
    return failed.value.description or ""


def says(message: str, *parts: str) -> bool:
    """Whether a message has all these parts."""
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"
    return True


@pytest.mark.played
def test_a_source_that_is_not_there_or_cannot_be_read(
    nights, claude_emulator: EmulatorProcess, warehouse: Path, tmp_path: Path
) -> None:
    def refused(**source: Any) -> str:
        kind = ParquetSource if "path" in source else DuckDBSource
        return refusal(nights(source=kind(**{"key": "package", **source})), claude_emulator)

    gone = str(tmp_path / "gone.duckdb")
    says(refused(database=gone, table="t"), "no DuckDB database at", gone, "create the file")
    text = tmp_path / "notes.txt"
    text.write_text("This is no database. " * 100)
    says(refused(database=str(text), table="t"), "cannot be opened", str(text))
    table = refused(database=str(warehouse), table="pakages")
    says(table, "no table `pakages`", "Did you mean `packages`", "It holds: packages")
    query = refused(database=str(warehouse), query="select * from packages where nothing = 1")
    says(query, "The `query` of the source", "cannot be run", '"nothing"')
    says(refused(database=str(warehouse), query="selec 1"), "is not valid SQL", "selec")
    two = refused(database=str(warehouse), query="select 1; select 2")
    says(two, "must be a single SELECT")
    drop = refused(database=str(warehouse), query="drop table packages")
    says(drop, "must be a single SELECT")
    says(refused(path=str(tmp_path / "none.parquet")), "No Parquet file matches", "none.parquet")
    says(refused(path=str(tmp_path / "*.parquet")), "No Parquet file matches", "*.parquet")
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(b"PAR1 no more")
    says(refused(path=str(torn)), "torn.parquet", "cannot be read")


@pytest.mark.played
def test_keys_that_name_no_record_or_two(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    absent = nights(source=DuckDBSource(database=str(warehouse), table="packages", key="pakage"))
    says(
        refusal(absent, claude_emulator),
        "The key column `pakage` is not in the source",
        "Did you mean `package`",
    )
    change(warehouse, "create table twice as from packages union all from packages limit 302")
    twice = nights(source=DuckDBSource(database=str(warehouse), table="twice", key="package"))
    message = refusal(twice, claude_emulator)
    says(
        message, "(package) is not unique: 2 source rows repeat a key", "(2 times)", "Add a column"
    )
    change(warehouse, "update packages set package = null where section = 'admin'")
    nulls = refusal(nights(), claude_emulator)
    assert re.search(r"The key \(package\) is NULL in \d+ source rows", nulls)
    says(nulls, "leave these rows out")


@pytest.mark.played
def test_a_question_that_cannot_be_asked(nights, claude_emulator: EmulatorProcess) -> None:
    unknown = refusal(nights({"prompt": "{{ sumary }}"}), claude_emulator)
    says(unknown, "prompt reads column 'sumary'", "did you mean 'summary'")
    for template, message in (
        ({"prompt": "Sort this."}, "prompt reads no column"),
        ({"prompt": "{{ summary "}, "prompt, line 1"),
        ({"output": {"type": "string"}}, "the root must be an object"),
        ({"output": {"type": "object", "properties": {"a": {"type": "wish"}}}}, "output"),
        ({"model": ""}, "model must be"),
        ({"max_tokens": 0}, "max_tokens must be"),
        ({"params": {"stream": True}}, "the API refuses in a batch"),
    ):
        with pytest.raises(InputError, match=message):
            MessageTemplate(**TEMPLATE | template)


@pytest.mark.played
def test_names_that_collide(nights, claude_emulator: EmulatorProcess, warehouse: Path) -> None:
    def schema(name: str) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: {"type": "string"}},
            "required": [name],
            "additionalProperties": False,
        }

    collides = refusal(nights({"output": schema("Section")}), claude_emulator)
    says(collides, "`Section`", "source column `section`", "output_prefix")
    reserved = refusal(nights({"output": schema("_Status")}), claude_emulator)
    says(reserved, "`_Status`", "reserve", "output_prefix")
    fine = nights({"output": schema("Section")}, output_prefix="claude_")
    fine.night(limit=2)
    assert {"section", "claude_Section"} <= set(next(iter(fine.rows().values())))
    change(warehouse, "alter table packages add column _ERROR varchar")
    with pytest.raises(dg.Failure) as failed:
        nights().submit()
    says(failed.value.description or "", "`_ERROR`", "reserve", 'select "_ERROR" as')


@pytest.mark.played
def test_run_config_that_makes_no_sense(nights, claude_emulator: EmulatorProcess) -> None:
    run = nights()
    for where, part in (
        ("sektion = 'admin'", "sektion"),
        ("section =", "not valid SQL"),
        ("true; drop table packages", "not valid SQL"),
        ("cast(package as integer) > 3", "Conversion Error"),
    ):
        says(refusal(run, claude_emulator, where=where), where, part)
    says(refusal(run, claude_emulator, limit=-1), "limit of this run is -1", "0 or more")


@only_whole
@pytest.mark.played
def test_a_record_that_is_too_large_is_rejected_alone(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    first = "(select min(package) from packages)"
    change(warehouse, f"update packages set summary = repeat('x', 9000) where package = {first}")
    run = nights({"prompt": "{{ summary }}"}, claude={"max_batch_bytes": 8000})
    run.night(limit=5)
    rows = run.rows()
    (rejected,) = [row for row in rows.values() if row["_status"] == "rejected"]
    assert rejected["package"] == min(rows) and rejected["answer"] is None
    says(rejected["_error"], "too large", "8,000")
    assert [row["_status"] for row in rows.values()].count("answered") == 4
    assert claude_emulator.bill()["requests"] == 4
    run.night(limit=5)  # it is not asked again
    assert run.metadata("requests")["rejected"] == 0


@pytest.mark.played
def test_when_every_record_is_too_large_each_is_rejected_and_nothing_is_sent(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    change(warehouse, "update packages set summary = repeat('x', 2000)")
    run = nights({"prompt": "{{ summary }}"}, claude={"max_batch_bytes": 1000})
    run.night(limit=3)
    assert [row["_status"] for row in run.rows().values()] == ["rejected"] * 3
    assert CREATE not in claude_emulator.stats()["calls"]


@pytest.mark.played
def test_no_key_a_refused_key_and_a_key_that_cannot_be_one(
    nights, claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    run = nights()

    def with_key(key: str | None) -> Nights:
        claude = ClaudeBatches(api_key=key, base_url=claude_emulator.base_url)
        return Nights(run.pipeline, claude, run.store)

    for none in (None, "", " \n"):
        says(refusal(with_key(none), claude_emulator), "no API key", "ANTHROPIC_API_KEY")
    for torn in ("sk-ant-01\n23", "sk-ant–0123", "sk-ant 0123", "“sk-ant-0123”"):  # noqa: RUF001
        message = refusal(with_key(torn), claude_emulator)
        says(message, "API key holds a character", "Copy it again")
        assert "sk-ant" not in message
    claude_emulator.configure(keys={"good": "default"})
    message = refusal(with_key("bad"), claude_emulator)
    says(message, "does not accept the API key (401", "api_key")
    claude_emulator.fault("list", "status_before", status=403, message="Not for you")
    message = refusal(with_key("good"), claude_emulator)
    says(message, "does not allow this key", "403: Not for you")
    with_key("good\n").submit(limit=1)  # as a secret read from a file ends
    assert claude_emulator.stats()["calls"][CREATE] == 1


@pytest.mark.played
def test_an_address_where_no_api_is(nights, claude_emulator: EmulatorProcess) -> None:
    nobody = nights(claude={"base_url": "http://127.0.0.1:9"})
    says(refusal(nobody, claude_emulator), "http://127.0.0.1:9 could not be asked", "base_url")
    wrong = nights(claude={"base_url": f"{claude_emulator.base_url}/v2"})
    says(refusal(wrong, claude_emulator), f"{claude_emulator.base_url}/v2 answers 404")


@pytest.mark.played
def test_a_store_that_cannot_be_used(
    nights, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    run = nights()

    def with_store(**store: Any) -> Nights:
        return Nights(run.pipeline, run.claude, BatchStore(**store))

    def refused(**store: Any) -> str:
        return refusal(with_store(**store), claude_emulator)

    in_the_way = tmp_path / "file"
    in_the_way.write_text("a file")
    for root in (str(in_the_way), str(in_the_way / "below"), "/proc/nowhere/store"):
        says(refused(root=root), root, "cannot be written", "write access")
    says(refused(root="memory://remote"), "is remote", "PostgreSQL")
    says(refused(root="nonsense://bucket/x"), "nonsense", "root")
    here = str(tmp_path / "fine")
    says(refused(root=here, ledger="mysql://me:pw@db/x"), "is mysql", "PostgreSQL are supported")
    nonsense = refused(root=here, ledger="what me:secret-pw@worry")
    says(nonsense, "no SQLAlchemy URL", "postgresql://user:password@host/database")
    says(refused(root=here, ledger="sqlite://"), "in memory, which forgets")
    nobody = refused(root=here, ledger="postgresql://me:secret-pw@127.0.0.1:9/ledger")
    says(nobody, "postgresql://me:***@127.0.0.1:9/ledger", "cannot be used", "database runs")
    assert "secret-pw" not in nonsense + nobody
    old = with_store(root=here)
    with old.store.open().ledger.write() as tx:
        tx.execute(update(meta).where(meta.c.key == "schema_version").values(value="99"))
    says(refusal(old, claude_emulator), "newer batch_pipeline", "version 99", "Upgrade")


@pytest.mark.played
def test_a_destination_that_is_somebody_elses(
    nights, claude_emulator: EmulatorProcess, warehouse: Path, tmp_path: Path
) -> None:
    change(warehouse, "create table reports as select 1 as id")
    table = nights(destination=DuckDBTable(database=str(warehouse), table="Reports"))
    says(refusal(table, claude_emulator), "Reports", "not made by batch_pipeline", "another table")
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "sales.csv").write_text("1,2")
    folder = nights(destination=ParquetDataset(path=str(tmp_path / "lake")))
    says(refusal(folder, claude_emulator), "sales.csv", "Name an empty or new folder")


def test_an_empty_source_is_a_good_run_that_says_so(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    change(warehouse, "delete from packages")
    run = nights()
    result = run.submit()
    assert result.success and CREATE not in claude_emulator.stats()["calls"]
    lines = [entry.user_message for entry in run.instance.all_logs(result.run_id)]
    assert "packages: the source has no rows. Nothing to ask." in lines


@pytest.mark.played
def test_a_question_that_fails_on_every_record_is_corrected_at_no_cost(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    failing = nights({"prompt": "{{ summary.nothing.at_all }}"})
    message = refusal(failing, claude_emulator, limit=4)
    says(message, "failed on all 4 records", "Nothing was sent", "Correct the template")
    change(warehouse, "alter table packages add column hint varchar default 'a hint'")
    corrected = nights({"prompt": "{{ summary }} {{ hint }}"})
    corrected.night(limit=3)
    assert len(corrected.rows()) == 3 and claude_emulator.bill()["requests"] == 3


@pytest.mark.played
def test_a_lost_file_of_the_store_fails_the_run_and_costs_no_other_row(
    nights, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    run = nights()
    run.submit(limit=3)
    run.submit(limit=3)
    records, other = sorted((tmp_path / "store" / "packages").glob("*/records.parquet"))
    away = records.rename(tmp_path / "away")
    with pytest.raises(dg.Failure) as failed:
        run.collect()
    says(
        failed.value.description or "",
        "1 cannot be collected",
        records.parent.name,
        "records.parquet",
    )
    assert len(run.rows()) == 3 and other.exists()
    away.rename(records)
    run.collect()
    assert len(run.rows()) == 6 and claude_emulator.bill()["requests"] == 6


def secrets_in(folder: Path, secret: str) -> list[str]:
    """The files below a folder that hold a secret."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


@pytest.mark.played
@only_whole
def test_the_key_is_written_nowhere(
    nights,
    claude_emulator: EmulatorProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    clock: HandClock,
) -> None:
    monkeypatch.setenv("BP_KEY", KEY)
    run = nights(source=DuckDBSource(database=str(tmp_path / "w.duckdb"), table="t", key="k"))
    (tmp_path / "dagster").mkdir()
    with (
        dg.instance_for_test(temp_dir=str(tmp_path / "dagster")) as instance,
        duckdb.connect(str(tmp_path / "w.duckdb")) as connection,
    ):
        connection.execute("create table t as select 1 as k, 'a' as summary, 'b' as description")
        connection.close()

        def night(url: str) -> Nights:
            claude = ClaudeBatches(api_key=dg.EnvVar("BP_KEY"), base_url=url)
            return Nights(run.pipeline, claude, run.store, instance)

        assert not night("http://127.0.0.1:9").run("submit", raises=False).success
        good = night(claude_emulator.base_url)
        for fault in (
            {"on": "list", "kind": "status_before", "status": 401, "message": "No"},
            {"on": "create", "kind": "status_before", "status": 403, "message": "No"},
            {"on": "results", "kind": "status_before", "status": 401, "message": "No"},
        ):
            claude_emulator.fault(**fault)
        for job in ("submit", "submit"):
            assert not good.run(job, raises=False).success
        good.run("send")
        assert not good.run("collect", raises=False).success
        clock.advance(61)
        good.until_quiet()
        assert len(good.rows()) == 1
    assert (tmp_path / "dagster").exists() and (tmp_path / "store").exists()
    assert secrets_in(tmp_path, "packages__records")  # the event log is among what is looked at
    assert not secrets_in(tmp_path, KEY)
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err
    assert KEY not in repr(ClaudeBatches(api_key=KEY)) + repr(ClaudeBatches(api_key=KEY).api())
