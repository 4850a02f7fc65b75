"""The check that every record comes back: when it passes, when it warns, when it blocks."""

from pathlib import Path

import dagster as dg
import duckdb
from sqlalchemy import select

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.tables import request_files
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole


def evaluation(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (found,) = (
        one
        for one in result.get_asset_check_evaluations()
        if one.check_name == "every_record_accounted_for"
    )
    assert found.check_name == "every_record_accounted_for"
    return found


def counts(found: dg.AssetCheckEvaluation) -> dict[str, int]:
    return {name: value.value for name, value in found.metadata.items()}


def collected_rows(run: Nights) -> list[Path]:
    """The Parquet files of joined rows, in the order of their batches."""
    store = run.store.open()
    files = store.ledger.rows(select(request_files).order_by(request_files.c.seq))
    return [Path(store.files.url(file["results_path"])) for file in files if file["results_path"]]


def rewrite(path: Path, query: str) -> None:
    """Write other rows over a file of rows; ``rows`` stands for what it has."""
    other = path.with_suffix(".other")
    with duckdb.connect() as connection:
        connection.execute(
            f"copy (with rows as (from read_parquet('{path}')) {query}) to '{other}' (format parquet)"
        )
    other.replace(path)


def with_downstream(run: Nights) -> None:
    """Give the pipeline an asset downstream, and a job that collects and makes it."""

    @dg.asset(deps=[run.pipeline.asset_key("results")])
    def report() -> None: ...

    both = dg.AssetSelection.assets(run.pipeline.asset_key("results"), report)
    job = dg.define_asset_job("packages_report", selection=both)
    own = dg.Definitions(assets=[report], jobs=[job])
    run.definitions = dg.Definitions.merge(run.definitions, own)


def test_it_warns_while_requests_are_on_their_way_and_then_passes(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    run = nights(claude={"max_batch_requests": 4})
    run.submit(limit=7)
    claude_emulator.end(claude_emulator.batches()[0]["id"])
    first = evaluation(run.collect())
    assert first.passed and first.severity == dg.AssetCheckSeverity.WARN
    assert first.description == (
        "3 requests are still on their way; all that came back is accounted for."
    )
    numbers = {"submissions_compared": 0, "records": 0, "pending": 3}
    faults = {"missing": 0, "unexpected": 0, "doubled": 0}
    assert counts(first) == numbers | faults
    claude_emulator.end()
    second = evaluation(run.collect())
    assert second.passed and second.description == (
        "Every record has exactly one row: 7 records of 1 submission."
    )
    assert counts(second) == {"submissions_compared": 1, "records": 7, "pending": 0} | faults
    third = evaluation(run.collect())  # what was found balanced is not compared again
    assert third.passed and counts(third)["submissions_compared"] == 0


def test_rows_that_are_lost_doubled_or_foreign_fail_it_and_stop_what_follows(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    run = nights(claude={"max_batch_requests": 6})
    with_downstream(run)
    run.submit(limit=13)
    first, second, *others = claude_emulator.batches()
    claude_emulator.end(first["id"])
    claude_emulator.end(second["id"])
    run.collect()
    paths = collected_rows(run)
    whole = [path.read_bytes() for path in paths]
    rewrite(paths[0], "from rows order by _custom_id limit 5")
    rewrite(
        paths[1],
        "from rows union all (select * replace ('not-ours' as _custom_id) from rows limit 1)"
        " union all (from rows limit 2)",
    )
    assert others
    claude_emulator.end()

    result = run.run("report", raises=False)
    found = evaluation(result)
    assert not result.success
    assert not found.passed and found.severity == dg.AssetCheckSeverity.ERROR
    expected = {"missing": 1, "unexpected": 1, "doubled": 2, "records": 13, "pending": 0}
    assert counts(found) == {"submissions_compared": 1, **expected}
    assert "submission 1 (" in found.description
    assert "1 of 13 records have no row" in found.description
    assert run.instance.get_latest_materialization_event(dg.AssetKey("report")) is None
    assert not run.run("collect", raises=False).success  # until somebody has looked

    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(content)
    assert evaluation(run.run("report")).passed
    assert run.instance.get_latest_materialization_event(dg.AssetKey("report")) is not None


@only_whole
def test_rejected_and_reused_records_have_their_row_too(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    run = nights({"prompt": "{{ summary }}"}, claude={"max_batch_bytes": 3000})
    run.submit(limit=3)
    run.collect()
    first = "(select min(package) from packages)"
    with duckdb.connect(str(warehouse)) as connection:
        (was,) = connection.execute(
            f"select summary from packages where package = {first}"
        ).fetchone() or ("",)
        connection.execute(
            f"update packages set summary = repeat('x', 5000) where package = {first}"
        )
    run.submit(limit=1)
    assert counts(evaluation(run.collect()))["records"] == 1
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(f"update packages set summary = $1 where package = {first}", [was])
    run.submit(limit=0)
    found = evaluation(run.collect())
    assert found.passed and counts(found)["records"] == 1
    assert {row["_status"] for row in run.rows().values()} == {"answered"}
