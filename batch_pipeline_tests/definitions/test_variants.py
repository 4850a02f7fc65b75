"""Variants: the same records, asked in several ways, one row per key and variant."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from sklearn import metrics

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    InputError,
    MessageTemplate,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.extent import WHOLE, only_whole
from batch_pipeline_tests.support.stage_calls import StageCalls

RECORDS = 8
SORTED = {"type": "object", "properties": {"section": {"type": "string", "enum": ["net", "text"]}},
          "required": ["section"], "additionalProperties": False}  # fmt: skip
THREE: dict[str, dict[str, Any]] = {
    "base": {},
    "short": {"prompt": "{{ summary }}"},
    "told": {"system": "You sort packages with care."},
}
Make = Callable[..., StageCalls]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A DuckDB file with a table of a few records."""
    path = tmp_path / "packages.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute(
            "create table packages as select i as id, 'package ' || i as summary, 'the text of ' || i as description,"
            f" if(i % 2 = 0, 'net', 'text') as kind, i % 2 as day from range({RECORDS}) as t (i)"
        )
    return path


@pytest.fixture
def make(
    claude_emulator: EmulatorProcess, tmp_path: Path, database: Path, clock: HandClock
) -> Make:
    """Make a pipeline over the records; called again, it is the next version of the code."""
    instance = dg.DagsterInstance.ephemeral()

    def made(variants: Mapping[str, Mapping[str, Any]] | None = None, **fields: Any) -> StageCalls:
        request = MessageTemplate(
            model="claude-haiku-4-5", max_tokens=50, prompt="{{ summary }}: {{ description }}", output=SORTED
        )  # fmt: skip
        pipeline = BatchPipeline(
            **{
                "name": "packages",
                "source": DuckDBSource(database=str(database), table="packages", key="id"),
                "request": request,
                "destination": DuckDBTable(database=str(database), table="sections"),
                "variants": variants or {},
                **fields,
            }
        )
        claude = ClaudeBatches(api_key="test-key", base_url=claude_emulator.base_url)
        return StageCalls(pipeline, claude, BatchStore(root=str(tmp_path / "store")), instance)

    return made


def rows(database: Path, table: str = "sections") -> list[tuple[int, str, str]]:
    """The key, the variant and the status of each row, in order."""
    with duckdb.connect(str(database)) as con:
        return con.execute(f"select id, _variant, _status from {table} order by all").fetchall()


def every(*names: str) -> list[tuple[int, str, str]]:
    """The rows of variants that are answered."""
    return [(key, name, "answered") for key in range(RECORDS) for name in sorted(names)]


def paid(emulator: EmulatorProcess) -> list[str]:
    """The custom_ids of all that was billed."""
    return [line["custom_id"] for line in emulator.billed_requests()]


def variants_in(custom_ids: list[str]) -> list[str]:
    """The variants that requests were of, which their ids say behind the key."""
    return [one.split("-", 3)[3].split("_", 1)[1] for one in custom_ids]


def test_a_variant_that_is_added_or_changed_is_asked_alone_and_the_rows_of_one_that_is_gone_stay(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    make(THREE).night()
    assert rows(database) == every(*THREE)
    assert len(paid(claude_emulator)) == 3 * RECORDS
    # One is added, and one changed: these two are asked.
    four = {
        **THREE,
        "lowercase": {"prompt": "{{ summary | lower }}"},
        "short": {"prompt": "About {{ summary }}"},
    }
    make(four).night()
    assert rows(database) == every(*four)
    asked = Counter(variants_in(paid(claude_emulator)[3 * RECORDS :]))
    assert asked == {"lowercase": RECORDS, "short": RECORDS}
    two = {"base": {}, "short": four["short"]}
    make(two).submit()
    assert rows(database) == every(*four)
    assert len(paid(claude_emulator)) == 5 * RECORDS == len(set(paid(claude_emulator)))


@only_whole
def test_what_is_open_of_a_variant_that_is_gone_is_collected_and_what_waits_is_not_sent(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    make({"base": {}, "short": THREE["short"]}).submit()
    make({"base": {}, "told": THREE["told"]}).select("records", "requests")
    left = make({"base": {}})
    for _ in range(4):
        left.tick_and_run()
    assert rows(database) == every("base", "short")
    assert len(paid(claude_emulator)) == 2 * RECORDS
    said = left.tick().skip_message
    assert "1 file of what packages does not ask (any more) (told) will not be sent" in said
    make({"base": {}, "told": THREE["told"]}).until_quiet()
    assert rows(database) == every("base", "short", "told")
    assert len(paid(claude_emulator)) == 3 * RECORDS


@only_whole
def test_variants_of_partitions(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    days = dg.StaticPartitionsDefinition(["0", "1"])
    nights = make(
        {"base": {}, "short": THREE["short"]},
        partitions=days,
        partition_column="day",
        label="kind",
        on_deleted="drop",
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    job = nights.definitions.resolve_job_def("packages_collect")
    assert job.execute_in_process(instance=nights.instance, partition_key="0", raise_on_error=False)
    for day in ("0", "1"):
        nights.submit(day)
    nights.until_quiet()
    assert rows(database) == every("base", "short")
    with duckdb.connect(str(database)) as con:
        con.execute("update packages set day = 1")  # all of a day moves to the other
    nights.submit("1")
    nights.submit("0")
    nights.until_quiet()
    assert rows(database) == every("base", "short")
    assert len(paid(claude_emulator)) == 2 * RECORDS
    assert job.execute_in_process(instance=nights.instance, partition_key="0").success
    assert nights_metadata(nights)["labelled"] == RECORDS
    with duckdb.connect(str(database)) as con:
        con.execute("delete from packages where id = 3")
    nights.submit("1")
    nights.until_quiet()
    assert rows(database) == [row for row in every("base", "short") if row[0] != 3]


def test_answers_without_variants_and_with_them_never_share_a_table(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    make().submit()
    said = make(THREE).refusal("submit", {"force": True})
    assert "packages was asked without variants until now" in said
    assert "under another name, with a destination of its own" in said
    elsewhere = {
        "name": "compared",
        "destination": DuckDBTable(database=str(database), table="compared"),
    }
    make({"base": {}}, **elsewhere).submit()
    said = make(**elsewhere).refusal("submit", {})
    assert "compared was asked with variants until now" in said
    assert len(paid(claude_emulator)) == 2 * RECORDS
    if not WHOLE:
        return
    # What is on its way comes into the table as it was asked, with or without.
    make(**elsewhere).until_quiet()
    make(THREE).until_quiet()
    assert rows(database, "compared") == every("base")
    with duckdb.connect(str(database)) as con:
        assert con.execute("select count(*) from sections").fetchone() == (RECORDS,)
    assert len(paid(claude_emulator)) == 2 * RECORDS


@only_whole
def test_a_table_that_lost_its_rows_is_put_right_and_a_store_that_lost_its_answers_refused(
    make: Make, database: Path, tmp_path: Path, claude_emulator: EmulatorProcess
) -> None:
    two = {"base": {}, "short": THREE["short"]}
    make(two).night()
    with duckdb.connect(str(database)) as con:
        con.execute("delete from sections where _variant = 'short'")
    make(two).submit()
    assert rows(database) == every("base", "short")
    # Another store, the same table: what is answered there would be paid again.
    other = make(two)
    other.store = BatchStore(root=str(tmp_path / "other"))
    assert "would be paid again" in other.refusal("submit", {})
    assert len(paid(claude_emulator)) == 2 * RECORDS


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ({"": {}}, "has the name ''"),
        ({"two words": {}}, "has the name 'two words'"),
        ({"a": {}, "A": {}}, "a and A, which differ in case only"),
        ({"a": {"promt": "{{ summary }}"}}, "Did you mean prompt?"),
        ({"a": "short"}, "must be a dict of the request's fields"),
        (["a"], "it must be a dict"),
        ({"a": {"prompt": "nothing"}}, "variants['a']: prompt reads no column"),
        ({"a": {"output": None}}, "gives the answer other columns than the request: answer VARCHAR"),
        ({"a": {"keep_thinking": True}}, "thinking VARCHAR, and not"),
    ],
)  # fmt: skip
def test_what_is_no_variant_is_refused_when_it_is_declared(
    make: Make, variants: Any, said: str
) -> None:
    with pytest.raises(InputError, match="Pipeline packages: ") as caught:
        make(variants)
    assert said in str(caught.value)


def test_a_source_that_has_the_column_of_variants_is_refused_before_any_money(
    make: Make, database: Path
) -> None:
    source = DuckDBSource(
        database=str(database), query="select *, 1 as _Variant from packages", key="id"
    )
    said = make({"base": {}}, source=source).refusal("submit", {})
    assert "has a column `_Variant`" in said and "Give it another name" in said


def test_scores_are_those_of_the_table_and_fail_nothing(
    make: Make, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = make({"base": {}, "short": THREE["short"]}, label={"section": "kind"})
    with duckdb.connect(str(database)) as con:
        con.execute("update packages set kind = null where id = 0")
    nights.submit()
    nights.execute("packages_collect")
    with duckdb.connect(str(database)) as con:
        con.execute(
            "update packages set kind = 'net' where id = 1"
        )  # labels are read as they are now
        pairs = con.execute(
            "select _variant, p.kind, section from sections join packages as p using (id) where p.kind is not null"
        ).fetchall()
    job = nights.definitions.resolve_job_def("packages_collect")
    assert job.execute_in_process(instance=nights.instance).success
    shown = nights_metadata(nights)
    for variant in ("base", "short"):
        truth, said = zip(*[(a, b) for name, a, b in pairs if name == variant], strict=True)
        assert shown[f"accuracy_{variant}"] == pytest.approx(
            metrics.accuracy_score(truth, said), abs=1e-6
        )
        assert shown[f"macro_f1_{variant}"] == pytest.approx(
            metrics.f1_score(truth, said, average="macro"), abs=1e-6
        )
        assert f"| {variant} | 7 | 1.000 (0.646-1.000) |" in shown["comparison"]
    # The comparison first, figures of one metric together; what is a table opens in a window, where it is not cut.
    assert [*shown] == [
        "comparison", "agreement", "classes", "confusion", "labelled", "accuracy_base", "accuracy_short",
        "macro_f1_base", "macro_f1_short", "cost_per_1000_base", "cost_per_1000_short", "file",
    ]  # fmt: skip
    assert min(len(shown[name]) for name in [*shown][:4]) >= 1_000
    with duckdb.connect() as con:
        kept = con.execute("select distinct metric from read_parquet(?)", [shown["file"]])
        assert {"accuracy", "precision", "kappa", "cost_per_1000"} <= {
            row[0] for row in kept.fetchall()
        }
    with duckdb.connect(str(database)) as con:
        con.execute("alter table packages drop kind")
    assert job.execute_in_process(instance=nights.instance).success
    assert "has no column `kind`" in nights_metadata(nights)["comparison"]
    monkeypatch.setattr("batch_pipeline.definitions.assets.scores.check_extra", lambda: 1 / 0)
    assert job.execute_in_process(instance=nights.instance).success, "scores fail no collecting"
    if not WHOLE:
        return
    alone = dg.define_asset_job(
        "alone", dg.AssetSelection.assets(nights.pipeline.asset_key("scores"))
    )
    definitions = dg.Definitions.merge(nights.definitions, dg.Definitions(jobs=[alone]))
    run = definitions.resolve_job_def("alone").execute_in_process(
        instance=nights.instance, raise_on_error=False
    )
    assert not run.success


def nights_metadata(nights: StageCalls) -> dict[str, Any]:
    """The newest metadata of the scores, as Dagster has it."""
    event = nights.instance.get_latest_materialization_event(nights.pipeline.asset_key("scores"))
    assert event is not None and event.asset_materialization is not None
    return {name: one.value for name, one in event.asset_materialization.metadata.items()}


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("", "it must be the name of the source's column"),
        ({"sectoin": "kind"}, "which the output does not have. It has: section"),
        ({"section": "kind", "other": "kind"}, "it must be the name of the source's column"),
    ],
)
def test_what_is_no_label_is_refused_when_it_is_declared(make: Make, label: Any, said: str) -> None:
    with pytest.raises(InputError, match="Pipeline packages: ") as caught:
        make(label=label)
    assert said in str(caught.value)


def test_a_request_that_reads_its_label_is_refused_before_any_money(make: Make) -> None:
    said = make(
        {"base": {}, "told": {"prompt": "{{ summary }}: {{ kind }}"}}, label="kind"
    ).refusal("submit", {})
    assert "the request reads the column `kind`, which is its label" in said


def test_without_what_scores_need_the_code_says_so_when_it_is_loaded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = make(label="kind")
    monkeypatch.setattr("batch_pipeline.results.scores.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'batch-pipeline\[scores\]'"):
        _ = nights.definitions
