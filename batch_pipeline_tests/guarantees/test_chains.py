"""A pipeline on another one's results asks what changed there, and nothing twice."""

from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from batch_pipeline import (
    Arrivals,
    BatchPipeline,
    Classify,
    DuckDBSource,
    DuckDBTable,
    InputError,
    MessageTemplate,
    ParquetDataset,
    build_definitions,
)
from batch_pipeline.definitions.arrivals.tick import tick
from batch_pipeline.definitions.lineage import of_records
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.records.sources import ResultsSource
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import House

COMPLAINTS = "_status = 'answered' and label = 'complaint'"
KINDS = ["praise", "complaint"]
GIST: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 50,
    "prompt": "Why? {{ text }} {{ label }}",
}


@pytest.fixture
def stages(house: House) -> "Stages":
    """Notes of which every other one is a complaint, sorted; the complaints are asked about again."""
    house.sql("update notes set text = text || if(id % 2 = 0, ' complaint', ' praise')")
    return Stages(house)


class Stages:
    """Two pipelines, the second on the results of the first."""

    def __init__(self, house: House) -> None:
        self.house = house

    def first(self, **fields: Any) -> Nights:
        request = Classify(KINDS, column="text", model="claude-haiku-4-5")
        run = self.house.nights(**fields)
        values = {name: getattr(run.pipeline, name) for name in ("source", "destination")}
        run.pipeline = BatchPipeline(name="notes", request=request, **{**values, **fields})
        return run

    def second(self, first: Nights, where: str | None = COMPLAINTS, **fields: Any) -> Nights:
        how = {"key": fields.pop("key")} if "key" in fields else {}
        return self.house.nights(
            GIST,
            **{
                "name": "gists",
                "source": first.pipeline.results(where, **how),
                "destination": DuckDBTable(database=self.house.warehouse, table="gists"),
                **fields,
            },
        )


def night(run: Nights, partition: str | None = None, **config: Any) -> None:
    """Submit, and collect at once: the emulator answers at once."""
    run.submit(partition, **config)
    run.collect(partition)


def gists(house: House) -> set[int]:
    return {row[0] for row in house.sql("select id from gists where _status = 'answered'")}


def test_a_changed_class_flows_on_and_an_unchanged_one_does_not(stages: Stages) -> None:
    house = stages.house
    first = stages.first()
    second = stages.second(first, on_deleted="drop")
    night(first)
    night(second)
    assert house.paid == 60
    assert gists(house) == set(range(0, 40, 2))
    columns = [row[0] for row in house.sql("describe gists")]
    assert columns[:5] == ["id", "text", "part", "label", "answer"]
    assert columns.count("_status") == 1

    # All is answered again, by other batches at other costs: the same classes ask nothing more.
    night(first, force=True)
    assert house.paid == 100
    second.submit()
    assert house.paid == 100
    shown = second.metadata("records")
    assert (shown["asked"], shown["settled"]) == (0, 20)

    # One note becomes a complaint, one is none any more, one complains of something else.
    house.sql(
        "update notes set text = 'note 1 complaint' where id = 1",
        "update notes set text = 'note 2 praise' where id = 2",
        "update notes set text = 'note 4, complaint' where id = 4",
    )
    night(first)
    night(second)
    assert house.paid == 105
    assert gists(house) == {1, *range(0, 40, 2)} - {2}
    second.submit()
    assert house.paid == 105 and house.paid_twice == 40


def test_a_first_night_that_has_not_ended_is_said_and_asks_nothing(stages: Stages) -> None:
    house = stages.house
    first = stages.first()
    second = stages.second(first)
    assert second.submit().success
    shown = second.metadata("records")
    assert "There are no results of notes yet: table answers in" in shown["not_yet"]
    assert (house.paid, shown["asked"]) == (0, 0)
    house.emulator.configure(manual=True)
    first.submit()
    second.submit()
    assert second.metadata("records")["not_yet"]
    house.emulator.configure(manual=False)
    house.emulator.end()
    first.until_quiet()
    night(second)
    assert gists(house) == set(range(0, 40, 2))
    # The same when somebody drops it later: it is put right, and nothing is asked.
    house.sql("drop table answers")
    second.submit()
    assert "If they were there before" in second.metadata("records")["not_yet"]
    first.submit()
    second.submit()
    shown = second.metadata("records")
    assert (shown["asked"], shown["settled"], house.paid) == (0, 20, 60)


@only_whole
@pytest.mark.parametrize(
    "hurt", ["drop table answers", "delete from answers", "delete from answers where id < 30"]
)
def test_a_first_table_that_was_hurt_costs_nothing_and_loses_no_row(
    stages: Stages, hurt: str
) -> None:
    house = stages.house
    first = stages.first()
    second = stages.second(first, on_deleted="drop")
    night(first)
    night(second)
    house.sql(hurt)
    night(second)
    # Where nothing of it is there, that is no reason to drop anything.
    assert gists(house) == ({*range(30, 40, 2)} if "where" in hurt else {*range(0, 40, 2)})
    night(first)
    night(second)
    assert house.paid == 60
    assert gists(house) == set(range(0, 40, 2))


@only_whole
def test_where_the_first_keeps_its_results_does_not_matter(stages: Stages) -> None:
    house = stages.house
    first = stages.first()
    night(first)
    night(stages.second(first))
    assert house.paid == 60
    for place in (ParquetDataset(path=str(house.folder / "sorted")), None):
        first = stages.first(destination=place)
        night(first)
        second = stages.second(first)
        night(second)
        assert second.metadata("records")["settled"] == 20
    assert house.paid == 60


@only_whole
def test_a_chain_on_partitions_asks_each_by_itself_and_may_have_another_key(
    stages: Stages,
) -> None:
    house = stages.house
    parts = dg.StaticPartitionsDefinition(["0", "1", "2", "3"])
    first = stages.first(partitions=parts, partition_column="part", destination=None)
    second = stages.second(first, partitions=parts, key=["text"])
    assert second.pipeline.partition_column == "part"
    night(first, "2")
    night(second, "2")
    assert gists(house) == set(range(2, 40, 4)) and house.paid == 20
    night(second, "0")
    assert house.paid == 20
    whole = stages.second(first, name="whole", destination=None)
    night(whole)
    assert len(whole.rows()) == 10


def test_the_second_follows_the_first_by_itself(stages: Stages) -> None:
    house = stages.house
    first = stages.first(destination=ParquetDataset(path=str(house.folder / "sorted")))
    second = stages.second(first)
    definitions = build_definitions(
        first.pipeline, second.pipeline, claude=first.claude, store=first.store
    )
    sensors = {one.name: one for one in definitions.sensors or []}
    assert "gists_arrivals" in sensors and "notes_arrivals" not in sensors
    assert sensors["gists_arrivals"].default_status == dg.DefaultSensorStatus.STOPPED
    graph = definitions.resolve_asset_graph()
    records = second.pipeline.asset_key("records")
    results = first.pipeline.asset_key("results")
    assert graph.get(records).parent_keys == {results}
    lineage = of_records(second.pipeline, ["id", "label"])["dagster/column_lineage"]
    assert lineage.deps_by_column["label"] == [dg.TableColumnDep(results, "label")]


@only_whole
def test_a_changed_answer_of_the_first_is_an_arrival(stages: Stages) -> None:
    house = stages.house
    first = stages.first(destination=ParquetDataset(path=str(house.folder / "sorted")))
    second = stages.second(first)
    definitions = build_definitions(
        first.pipeline, second.pipeline, claude=first.claude, store=first.store
    )
    cursor: str | None = None

    def look() -> Any:
        nonlocal cursor
        context = dg.build_sensor_context(
            instance=house.instance,
            cursor=cursor,
            definitions=definitions,
            resources={"claude": first.claude, "store": first.store},
        )
        with context:
            result = tick(context, second.pipeline, Arrivals(cooldown_minutes=0))
        cursor = result.cursor
        return result

    assert "There is no file yet: the results of notes" in look().skip_reason.skip_message
    night(first)
    look()
    assert [one.job_name for one in look().run_requests] == ["gists_submit"]
    job = definitions.resolve_job_def("gists_submit")
    assert job.execute_in_process(instance=house.instance).success
    second.collect()
    # Another night in which every answer stays the same is no arrival.
    night(first, force=True)
    look()
    assert not look().run_requests
    house.sql("update notes set text = 'note 1 complaint' where id = 1")
    night(first)
    look()
    assert [one.job_name for one in look().run_requests] == ["gists_submit"]


def test_what_could_not_work_is_refused_when_it_is_declared(stages: Stages) -> None:
    first = stages.first().pipeline
    parts = dg.StaticPartitionsDefinition(["0", "1"])
    parted = stages.first(partitions=parts, partition_column="part")
    assert stages.second(parted, partitions=parts).pipeline.partition_column == "part"
    for where, said in (
        ("label =", "is no SQL"),
        ("random() < 0.5", "says something else each time"),
        ("", "it must be a condition in SQL"),
    ):
        with pytest.raises(InputError, match=said) as refused:
            first.results(where)
        assert "notes.results()" in str(refused.value)
    with pytest.raises(InputError, match="needs `key`"):
        first.results(key=[])
    request = MessageTemplate(**GIST)
    with pytest.raises(InputError, match="of a pipeline of the same name"):
        BatchPipeline(name="notes", source=first.results(), request=request)
    kept = stages.first(destination=None).pipeline
    with pytest.raises(InputError, match="Give notes a destination"):
        BatchPipeline(name="gists", source=kept.results(), request=request, store_key="lake")
    with pytest.raises(InputError, match="which is no pipeline"):
        BatchPipeline(
            name="gists",
            source=ResultsSource(results=DuckDBSource(database="w", table="t", key="id")),
            request=request,
        )


@only_whole
def test_a_condition_that_the_results_do_not_have_is_said(stages: Stages, tmp_path: Path) -> None:
    first = stages.first()
    night(first, limit=1)
    second = stages.second(first, where="labels = 'complaint'")
    said = second.refusal("submit", {})
    assert "The `where` of the source (labels = 'complaint') cannot be used" in said
    assert "_cost_usd" in said and 'Did you mean "label"' not in said
    with memory_connection() as connection, pytest.raises(duckdb.Error):
        connection.execute("from answers")


@only_whole
def test_variants_on_results_and_results_of_variants(stages: Stages) -> None:
    """The answers of both variants are records of a second pipeline; a third asks its own variants about one."""
    house = stages.house
    both = {"plain": {}, "short": {"prompt": "Short: {{ text }}"}}
    first = house.nights(variants=both)
    first.night()
    assert house.paid == 80
    asked = {"model": "claude-haiku-4-5", "max_tokens": 50, "prompt": "{{ answer }} {{ id }}"}

    def on(run: Nights, name: str, where: str | None = None, **fields: Any) -> Nights:
        how = {"key": fields.pop("key", None)}
        return house.nights(
            asked,
            **{
                "name": name,
                "source": run.pipeline.results(where, **how),
                "destination": DuckDBTable(database=house.warehouse, table=name),
                "output_prefix": f"{name}_",
                **fields,
            },
        )

    second = on(first, "gists")
    second.night()
    assert house.paid == 160
    assert house.sql("select count(*), count(distinct (id, _variant)) from gists") == [(80, 80)]
    with pytest.raises(InputError, match="both would write a column _variant"):
        on(first, "again", variants=both)
    third = on(second, "again", "id < 10 and _variant = 'plain'", key="id")
    third.night()
    assert house.paid == 170
    for run in (first, second, third):
        run.night()
    assert house.paid == 170
