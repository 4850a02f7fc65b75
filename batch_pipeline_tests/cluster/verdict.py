"""What a night on a cluster came to: every key one row, nothing paid twice, ledger = bill; and who did what."""

from collections import Counter, defaultdict
from typing import Any

from batch_pipeline.definitions.rows import destination_of
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.store.standing import standing
from batch_pipeline.store.store import Store
from batch_pipeline_tests.cluster.project import pipeline
from batch_pipeline_tests.cluster.records import Sources
from batch_pipeline_tests.cluster.worker_tags import RUN_TAG
from batch_pipeline_tests.support.judgement import Judgement, judge


def rows_of(store: Store, name: str) -> list[dict[str, Any]]:
    """Return what a pipeline's destination holds."""
    with memory_connection() as connection:
        destination = destination_of(pipeline(name), store)
        relation = destination.relation(connection)
        return (
            connection.sql(f"select k, answer, _status, _error from {relation}")
            .to_arrow_table()
            .to_pylist()
        )


def pass_judgement(store: Store, sources: Sources, emulator: EmulatorProcess) -> Judgement:
    """Assert that each key has its one row and the ledger tells the bill; return the rest."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name in sources.counts:
        found = rows_of(store, name)
        twice = [key for key, times in Counter(row["k"] for row in found).items() if times > 1]
        assert not twice, f"{name}: keys with several rows: {twice[:5]}"
        rows |= {(name, row["k"]): row for row in found}
    return judge(store, rows, sources.prompts(), emulator)


def is_over(store: Store, sources: Sources) -> list[str]:
    """Return which pipelines have something on their way, or records without a row."""
    found = {name: standing(store, name) for name in sources.counts}
    left = [name for name, now in found.items() if not now.is_quiet or now.held]
    if left:
        return left
    return [name for name, count in sources.counts.items() if len(rows_of(store, name)) < count]


def work_of(runs: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Return how many runs of which kind each worker did, and how they ended."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        worker = run["tags"].get(RUN_TAG, "nobody")
        found[worker][run["jobName"].rpartition("_")[2]] += 1
        if run["status"] != "SUCCESS":
            found[worker][run["status"].lower()] += 1
    return found
