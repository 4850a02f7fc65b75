"""The table ``judged``: the answers of one batch, each with the verdict on it, in DuckDB."""

from datetime import datetime

import pyarrow as pa

from batch_pipeline.records.connections import with_enough_memory
from batch_pipeline.results import sql
from batch_pipeline.results.file_records import Requested
from batch_pipeline.results.judge import Counts, judge_file
from batch_pipeline.results.question import Question

JUDGED_TYPES = {
    "custom_id": "varchar", "status": "varchar", "error": "varchar", "model": "varchar",
    "stop_reason": "varchar", "input_tokens": "bigint", "output_tokens": "bigint",
    "cache_read_tokens": "bigint", "cache_write_tokens": "bigint", "cost": "decimal(38,15)",
    "answer": "varchar", "tool_calls": "varchar", "citations": "varchar",
    "thinking": "varchar",
}  # fmt: skip
"""The columns of a batch of judged rows, as DuckDB sees them."""


class JudgedAnswers:
    """The answers of one batch, put into the table ``judged`` of the connection that has its records.

    Args:
        requested: the records of the batch's request file.
        question: what an answer must look like.
        priced_at: when the batch was processed; it decides the prices.
        live: its requests were asked through the Messages API, at full price.
    """

    def __init__(
        self,
        requested: Requested,
        question: Question,
        priced_at: datetime,
        *,
        live: bool = False,
    ) -> None:
        self._requested, self._connection = requested, requested.connection
        self._question, self._priced_at, self._live = question, priced_at, live
        self.counts = Counts()

    def clear(self) -> None:
        """Make the table, without rows."""
        self.counts = Counts()
        columns = ", ".join(f"null::{kind} as {name}" for name, kind in JUDGED_TYPES.items())
        self._connection.execute(
            "create or replace temp table judged as "
            + sql.JUDGED.format(parsed=self._question.parsed(), rows=f"(select {columns} limit 0)")
        )

    def fill(self, path: str) -> None:
        """Make the table, with the answers of a local file."""
        self.clear()
        question = self._question
        for batch in judge_file(
            path,
            question.output,
            priced_at=self._priced_at,
            counts=self.counts,
            asked=self._requested.custom_ids,
            tools=question.tool_calls,
            prices=question.prices,
            citations=question.citations,
            thinking=question.thinking,
            live=self._live,
        ):
            self._put(batch)

    def are_whole(self, expected: int) -> bool:
        """Return whether each request has its one line, and there is no other.

        Args:
            expected: lines that the API says there are.
        """
        counts = self.counts
        answered = counts.statuses.total()
        return (
            counts.lines == answered == expected == len(self._requested.custom_ids)
            and not counts.damaged
            and not counts.foreign
        )

    def _put(self, batch: pa.RecordBatch) -> None:
        """Put judged rows into the table."""
        con = self._connection
        con.register("batch", pa.Table.from_batches([batch]))
        query = "insert into judged " + sql.JUDGED.format(
            parsed=self._question.parsed(), rows="batch"
        )
        with_enough_memory(con, lambda: con.execute(query))
        con.unregister("batch")
