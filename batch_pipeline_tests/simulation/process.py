"""A process of a deployment, whose rows are made by Python or, in a whole episode, by DuckDB."""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

from batch_pipeline import (
    BatchPipeline,
    Budget,
    ClaudeBatches,
    DuckDBSource,
    MessageTemplate,
)
from batch_pipeline.batches.poll import poll
from batch_pipeline.errors import StoreError
from batch_pipeline.results.collect import collect
from batch_pipeline.store.clock import Clock
from batch_pipeline.store.store import open_store
from batch_pipeline_tests.simulation import rows as rows_module
from batch_pipeline_tests.support.deployment import Deployment, Stages

TEMPLATE = MessageTemplate(model="claude-haiku-4-5", max_tokens=100, prompt="{{ k }}: {{ t }}")


@lru_cache(maxsize=256)
def _pipeline(fields: tuple[tuple[str, Any], ...], budget: float | None) -> BatchPipeline:
    return BatchPipeline(
        name="p",
        source=DuckDBSource(database="none.duckdb", table="records", key="k"),
        request=TEMPLATE,
        budget=Budget(per_month_usd=budget, reserve="max") if budget else None,
        **dict(fields),
    )


@lru_cache(maxsize=256)
def _claude(url: str, fields: tuple[tuple[str, Any], ...]) -> ClaudeBatches:
    return ClaudeBatches(api_key="test-key", base_url=url, **dict(fields))


class Quick(Stages):
    """A process without DuckDB: see ``rows``.

    Args:
        deployment: of what.
        clock: the time.
        records: the source, as it is at each moment.
        budget: USD a month; None: no cap.
    """

    def __init__(
        self,
        deployment: Deployment,
        clock: Clock,
        records: Mapping[str, str],
        budget: float | None = None,
    ) -> None:
        self.deployment, self.records = deployment, records
        self.pipeline = _pipeline(tuple(deployment.pipeline.items()), budget)
        self.claude = _claude(deployment.url, tuple(deployment.claude.items()))
        self.name = self.pipeline.name
        self.store = open_store(deployment.folder, deployment.ledger, clock)
        self.api = self.claude.api()

    def submit(self, partition: str = "", **ask: Any) -> None:
        """Run ``NAME_submit``."""
        scope = self.scope(partition)
        rows_module.select_records(
            self.store,
            scope,
            self.records,
            self.pipeline.max_attempts,
            ask.get("limit"),
            ask.get("retries_only", False),
        )
        rows_module.prepare(self.store, scope, TEMPLATE, self.claude.limits)
        self._send(scope)

    def collect(self, partition: str = "") -> None:
        """Run ``NAME_collect``."""
        scope = self.scope(partition)
        poll(self.store, self.api, scope.endpoint, self.claude.policy)
        report = collect(self.store, self.api, scope, self.pipeline.max_attempts)
        rows_module.publish(self.store, self.name)
        if report.broken:
            raise StoreError("; ".join(report.broken))
        rows_module.account(self.store, scope)

    def check_table(self, records: Mapping[str, str] | None = None) -> None:
        """Assert that each record has its row, and each row what it was asked."""
        wanted = dict(self.records if records is None else records)
        rows = list(rows_module.table_of(self.store, self.name).values())
        for row in rows:
            if row["status"] == "answered":
                prompt = rows_module.prompt_of(row["key"], row["text"])
                digest = sha256(prompt.encode()).hexdigest()
                assert row["answer"] == digest, f"{row['key']} has another's answer: {row}"
        for key, text in wanted.items():
            mine = [row for row in rows if (row["key"], row["text"]) == (key, text)]
            assert mine, f"{key} ({text}) has no row"
            last = [row for row in mine if row["is_latest"]]
            again = all(row["key"] != key or not row["is_latest"] for row in mine)
            assert len(last) <= 1 and (last or again), f"{key} has not one row: {mine}"

    def _answered_again(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for custom_id, row in rows_module.table_of(self.store, self.name).items():
            if row["status"] == "answered":
                found.setdefault(custom_id.split("-")[1], []).append(custom_id)
        return {content: ids for content, ids in found.items() if len(ids) > 1}
