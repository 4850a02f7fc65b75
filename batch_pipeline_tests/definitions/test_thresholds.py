"""Checks on results that a user sets thresholds for, and bounds of figures in YAML."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    InputError,
    MessageTemplate,
    Threshold,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.clock import going_by
from batch_pipeline_tests.definitions.test_component import attributes, loaded, problem
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import House

OUTPUT = {
    "type": "object",
    "properties": {"kind": {"type": "string"}},
    "required": ["kind"],
    "additionalProperties": False,
}


@pytest.fixture
def house(tmp_path: Path, claude_emulator: EmulatorProcess):
    with going_by(HandClock()) as clock:
        yield House(tmp_path, claude_emulator, clock)


def found(run: Any, name: str) -> dg.AssetCheckResult:
    [one] = [one for one in run.get_asset_check_evaluations() if one.check_name == name]
    return one


def test_they_go_by_what_a_night_came_to_in_the_end(house: House) -> None:
    house.sql("update notes set text = 'note ' || id || ' .'")
    house.emulator.configure(
        outcomes={
            "note 1 ": "refused",
            "note 2 ": "unfit",
            "note 3 ": "errored",
            "note 4 ": "unfit",
        }
    )
    checks = {"error_rate": 0.03, "schema_valid": Threshold(0.96, "ERROR", blocking=True)}
    run = house.nights({"output": OUTPUT}, checks=checks)
    early = run.collect()
    assert all(found(early, name).passed for name in checks)
    run.submit()
    first = run.collect()
    rate, valid = found(first, "error_rate"), found(first, "schema_valid")
    assert not rate.passed and rate.severity == dg.AssetCheckSeverity.WARN
    assert rate.description == (
        "Of submission 1: 4 of 40 records (10.00%) have no answer; at most 3.00% may."
    )
    assert not valid.passed and valid.severity == dg.AssetCheckSeverity.ERROR
    assert "36 of 38 answers (94.74%) fit the schema; at least 96.00% must" in str(
        valid.description
    )
    table: Any = rate.metadata["worst_reasons"]
    [worst, *_] = [record.data for record in table.records]
    assert (worst["status"], worst["records"], worst["keys"]) == ("invalid", 2, "2; 4")
    assert '"kind" is a required property' in worst["reason"] and "reads:" not in worst["reason"]
    # What is asked again counts with the night that it belongs to, each record once.
    house.emulator.configure(outcomes={"note 1 ": "refused"})
    run.submit()
    second = run.collect()
    assert found(second, "error_rate").passed and found(second, "schema_valid").passed
    assert found(second, "error_rate").description == (
        "Of submission 1 and 1 submission that asked again: 1 of 40 records (2.50%) have no answer; at most "
        "3.00% may."
    )


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ({"error_rate": 2}, "it must be a share from 0 to 1"),
        ({"error_rate": True}, "the limit is True"),
        ({"error_rate": float("nan")}, "the limit is nan"),
        ({"schema_valid": "98%"}, "checks: schema_valid: the limit is '98%'"),
        ({"errors": 0.1}, "checks has 'errors'; there are error_rate and schema_valid"),
        ([0.1], "it must be a dict of thresholds"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused_when_it_is_declared(checks: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"Pipeline notes: .*{said}"):
        pipeline(checks, OUTPUT)


def test_a_threshold_needs_what_it_is_about() -> None:
    with pytest.raises(InputError, match="there is no schema that answers must fit"):
        pipeline({"schema_valid": 0.9}, None)
    with pytest.raises(InputError, match='blocking needs severity="ERROR"'):
        Threshold(0.1, blocking=True)
    with pytest.raises(InputError, match="severity is 'FATAL'"):
        Threshold(0.1, "FATAL")  # pyright: ignore[reportArgumentType]


def pipeline(checks: Any, output: Any) -> BatchPipeline:
    return BatchPipeline(
        name="notes",
        source=DuckDBSource(database="w.duckdb", table="notes", key="id"),
        request=MessageTemplate(
            model="claude-haiku-4-5", max_tokens=9, prompt="{{ text }}", output=output
        ),
        checks=checks,
    )


@only_whole  # docs/results.md has such a pipeline, too, and its night is played
def test_in_yaml_they_are_the_same_and_a_figure_has_bounds(house: House) -> None:
    source = {"database": house.warehouse, "table": "notes", "key": "id"}
    values = attributes(
        name="notes",
        source=source,
        checks={"error_rate": {"limit": 0.5, "severity": "ERROR", "blocking": True}},
        bounds={"cost_usd": {"max": 0.0001}, "answered": {"min": 1, "severity": "ERROR"}},
        request={"model": "claude-haiku-4-5", "max_tokens": 9, "prompt": "{{ text }}"},
    )
    with loaded(values) as (component, built):
        assert component.pipeline().thresholds == {"error_rate": Threshold(0.5, "ERROR", True)}
        claude = ClaudeBatches(api_key="any", base_url=house.emulator.base_url)
        run = Nights(component.pipeline(), claude, BatchStore(root=str(house.root)))
        given = dg.Definitions(resources={"claude": claude, "store": run.store})
        run.definitions = dg.Definitions.merge(built, given)
        run.submit()
        done = run.collect()
    passed = {one.check_name: one.passed for one in done.get_asset_check_evaluations()}
    assert not passed.pop("cost_usd_bounds_check")
    assert passed.pop("answered_bounds_check") and passed.pop("error_rate")
    assert {*passed} == {"every_record_accounted_for", "answers_fetched_in_time"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"checks": {"error_rat": 0.1}}, "error_rate"),
        ({"checks": {"error_rate": 5}}, "it must be a share from 0 to 1"),
        ({"checks": {"error_rate": {"limit": 0.1, "blocking": True}}}, "blocking needs severity"),
        ({"bounds": {"cost_usd": {}}}, "bounds: cost_usd: there is no bound in it"),
        ({"bounds": {"cost_usd": {"min": 3, "max": 1}}}, "no number is within these"),
        ({"bounds": {"cost_usd": {"maximum": 1}}}, "max"),
    ],
)
def test_what_cannot_be_is_refused_in_yaml(fields: dict[str, Any], said: str) -> None:
    assert said in problem(attributes(**fields))
