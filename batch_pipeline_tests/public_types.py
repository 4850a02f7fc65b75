"""What a user's project may write, for two type checkers: `make lint` has pyright read it, `make dist` mypy.

Nothing here is run. Each public name stands in it once at least (`test_public_types.py` looks), with the types
that an editor shows of it; what is marked as an error must be one for both.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Mapping
from typing import assert_type

import dagster as dg
from pydantic import BaseModel

from batch_pipeline import (
    AnswerBy,
    Arrivals,
    BatchCostsComponent,
    BatchPipeline,
    BatchPipelineComponent,
    BatchPipelineError,
    BatchStore,
    Budget,
    Classify,
    ClaudeBatches,
    ClaudeBatchesComponent,
    DuckDBSource,
    DuckDBTable,
    Escalate,
    Extract,
    HeldError,
    InputError,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
    RequestFiles,
    Schedule,
    Score,
    SendBetween,
    StoreError,
    Summarize,
    Threshold,
    Translate,
    batch_costs,
    build_definitions,
)
from batch_pipeline.emulator import EmulatorProcess


class Invoice(BaseModel):
    """An answer."""

    department: str
    amount: float


invoices = BatchPipeline(
    name="invoices",
    source=DuckDBSource(
        database=dg.EnvVar("WAREHOUSE"), query="select * from invoices", key=["country", "number"]
    ),
    request=MessageTemplate(
        model="claude-haiku-4-5",
        max_tokens=256,
        system="You are a clerk.",
        prompt="{{ supplier }}",
        output=Invoice,
        cache="1h",
        params={"temperature": 0},
    ),
    destination=DuckDBTable(database="warehouse.duckdb", table="answers"),
    schedule=Schedule("0 23 * * *", timezone="Europe/Berlin"),
    arrivals=Arrivals(min_records=10),
    partitions=dg.DailyPartitionsDefinition("2026-01-01"),
    partition_column="day",
    budget=Budget(per_submission_usd=5, per_month_usd=100, over="trim"),
    upstream=[dg.AssetKey("orders"), "suppliers"],
    answer_by=AnswerBy("07:00", timezone="Europe/Berlin"),
    send_between=SendBetween("22:00-06:00"),
    checks={"error_rate": Threshold(0.02), "schema_valid": 0.98},
    escalate=Escalate(to="claude-opus-5-5", when="amount > 10000"),
    variants={"base": {}, "short": {"prompt": "{{ number }}"}},
    notify=["mailto://clerk@example.org", dg.EnvVar("REPORT_URL")],
    asset_spec=lambda spec: spec.replace_attributes(owners=["team:finance"]),
)
assert_type(invoices.name, str)
assert_type(invoices.asset_key("results"), dg.AssetKey)
others = [
    BatchPipeline(
        name="labels",
        source=ParquetSource(path="in/*.parquet", key="id"),
        request=Classify(labels=["a", "b"], column="body", model="claude-haiku-4-5"),
        destination=ParquetDataset(path="out"),
    ),
    BatchPipeline(
        name="fields",
        source=invoices.results(where="amount > 100"),
        request=Extract(fields={"due": "date"}, column="body", model="claude-haiku-4-5"),
    ),
    BatchPipeline(
        name="gists",
        source=ParquetSource(path="in/*.parquet", key=["a", "b"]),
        request=Summarize(column="body", model="claude-haiku-4-5"),
    ),
    BatchPipeline(
        name="german",
        source=DuckDBSource(database="w.duckdb", table="texts", key="id"),
        request=Translate(to="German", column="body", model="claude-haiku-4-5"),
    ),
    BatchPipeline(
        name="scores",
        source=DuckDBSource(database="w.duckdb", table="texts", key="id"),
        request=Score(rubric="how angry, from 1 to 3", column="body", model="claude-haiku-4-5"),
    ),
    BatchPipeline(name="ready", source=RequestFiles("*.jsonl")),
]
claude = ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY"), max_batch_requests=1_000)
store = BatchStore(root="data/batches")
assert_type(build_definitions(invoices, *others, claude=claude, store=store), dg.Definitions)
assert_type(batch_costs(to=DuckDBTable(database="w.duckdb", table="costs")), dg.Definitions)


class Owned(BatchPipelineComponent):
    """A component of a project's own."""

    def get_asset_spec(self, stage: str) -> dg.AssetSpec:
        """Return the spec of a stage."""
        return super().get_asset_spec(stage).replace_attributes(owners=["team:finance"])


def components() -> tuple[type[dg.Component], ...]:
    """Return the three."""
    return BatchPipelineComponent, ClaudeBatchesComponent, BatchCostsComponent


def what_is_said(error: Exception) -> str:
    """Return what to tell somebody."""
    if isinstance(error, InputError | HeldError | StoreError):
        assert_type(str(error), str)
    return "ours" if isinstance(error, BatchPipelineError) else "another's"


def test_a_pipeline(claude_emulator: EmulatorProcess) -> None:
    """What a test of a user's may do with the fixture."""
    assert_type(claude_emulator.base_url, str)
    bill: Mapping[str, object] = claude_emulator.bill()
    assert bill


# Errors, for both.
BatchPipeline(name=7, source=RequestFiles("*.jsonl"))  # type: ignore[arg-type]
BatchPipeline(name="a", source="invoices")  # type: ignore[arg-type]
BatchPipeline(name="a", source=RequestFiles("*.jsonl"), refresh="sometimes")  # type: ignore[arg-type]
BatchPipeline(name="a", source=RequestFiles("*.jsonl"), shedule="0 1 * * *")  # type: ignore[call-arg]
MessageTemplate(model="claude-haiku-4-5", max_tokens="many", prompt="{{ a }}")  # type: ignore[arg-type]
Budget(over="stop")  # type: ignore[arg-type]
