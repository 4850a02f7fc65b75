"""How many records need an answer: what a selection would find now, without committing it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from batch_pipeline.records.fingerprint import opened
from batch_pipeline.records.partitions import PartitionFilter
from batch_pipeline.records.reading import source_columns
from batch_pipeline.records.rules import Rule
from batch_pipeline.records.selection import Ask, IndexFile, select
from batch_pipeline.records.sources import Source
from batch_pipeline.records.submission import Question
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Scope, latest_records, situation


def count_needed(
    store: Store,
    scope: Scope | None,
    source: Source,
    compile_question: Callable[[Mapping[str, str]], Question],
    *,
    partition_filter: Callable[[Mapping[str, str]], PartitionFilter | None],
    refresh: Literal["changed", "new"],
    max_attempts: int,
    seconds: float,
    rules: Sequence[Rule] = (),
) -> int:
    """Return how many records a run would ask, or publish again at no cost.

    Args:
        scope: None when nothing was ever asked at the endpoint in force.
        seconds: how long it may take.
        rules: the pipeline's.
        store, source, compile_question, partition_filter, refresh, max_attempts: as for ``select_submission``.

    Raises:
        TooLongError, BusyError, InputError: as ``fingerprint.read`` does.
    """
    index = situation(store.ledger, scope).index if scope else []
    with store.files.scratch() as folder, opened(source, seconds) as connection:
        columns = source_columns(connection)
        question = compile_question(columns)
        store.files.register(connection)
        counts = select(
            connection,
            keys=source.keys,
            content_columns=question.columns,
            files=question.files,
            version=question.version,
            request=question.request_hash,
            most_doublings=question.most_doublings,
            index=[IndexFile.of(row, store.files.url) for row in index],
            earlier=[
                store.files.url(name)
                for name in latest_records(store.ledger, scope.pipeline, scope.variant)
            ]
            if scope
            else [],
            out_dir=folder,
            ledger_id=store.ledger.id,
            refresh=refresh,
            max_attempts=max_attempts,
            partition=partition_filter(columns),
            rules=rules,
            ask=Ask(limit=0),  # so all that would be asked is left out of this run
        )
    return counts.left_out + counts.reused + counts.ruled
