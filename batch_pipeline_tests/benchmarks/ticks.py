"""What one tick of a status sensor takes with many open batches, and how often they read the list.

Run as: python -m batch_pipeline_tests.benchmarks.ticks [PIPELINES [BATCHES_OF_EACH [HISTORY]]]
"""

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy import insert

from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.clock import going_by
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions, transitions
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.deployment import Deployment, Stages, make_records

LIST = "GET /v1/messages/batches"
KEY = "test-key"
RUN_SECONDS = 65.0  # from one round of ticks to the next


@contextmanager
def pipelines(
    emulator: EmulatorProcess, folder: Path, count: int, batches: int, **fields: Any
) -> Iterator[list[Nights]]:
    """Give pipelines in one store and one Dagster, each with as many batches open.

    Args:
        emulator: where they are open; its batches end when they are told to.
        folder: for the store and the source.
        count: of pipelines.
        batches: of each, with one request.
        **fields: of each pipeline.
    """
    emulator.configure(manual=True)
    warehouse = str(folder / "warehouse.duckdb")
    parts = fields.get("partitions").get_partition_keys() if "partitions" in fields else ()
    make_records(warehouse, {str(number): "text" for number in range(batches)}, parts)
    store = str(folder / "store")
    claude = {"max_batch_requests": 1, "max_queued_requests": count * batches}
    dagster = dg.instance_for_test()
    with dagster as instance:
        runs = []
        for number in range(count):
            given = {"name": f"pipeline_{number}", "destination": None, **fields}
            deployment = Deployment(
                store, warehouse, emulator.base_url, pipeline=given, claude=claude
            )
            stages = Stages(deployment, HandClock())
            for part in parts or [""]:
                stages.submit(part)
            stages.close()
            runs.append(nights_of(stages.pipeline, stages.claude, store, instance))
        assert len(emulator.batches()) == count * batches
        yield runs


def nights_of(
    pipeline: BatchPipeline, claude: ClaudeBatches, store: str, instance: dg.DagsterInstance
) -> Nights:
    return Nights(pipeline, claude, BatchStore(root=store), instance)


def add_history(store: Store, endpoint_id: str, pipeline: str, nights: int, batches: int) -> None:
    """Write nights of long ago into the ledger: all is collected, and in the table."""
    then = store.clock.now() - timedelta(days=400)
    for night in range(nights):
        name = f"{pipeline}-{night}"
        ids = [f"{name}-{number}" for number in range(batches)]
        common = {"pipeline": pipeline, "partition": "", "number": 1_000 + night}
        with store.ledger.write() as tx:
            tx.execute(
                insert(submissions).values(
                    id=name, state="built", endpoint_id=endpoint_id, version="v", counts={},
                    created_at=then, verified_at=then, **common,
                )
            )  # fmt: skip
            tx.execute(
                insert(request_files),
                [
                    {
                        "id": id, "submission_id": name, "endpoint_id": endpoint_id, "seq": number,
                        "kind": FileKind.BATCH, "requests": 1_000, "bytes": 1, "first_row": 0,
                        "last_row": 1, "state": FileState.COLLECTED, "batch_id": f"old-{id}",
                        "batch_created_at": then, "first_sent_at": then, "sent_at": then,
                        "ended_at": then, "collected_at": then, "published_at": then, **common,
                    }
                    for number, id in enumerate(ids)
                ],
            )  # fmt: skip
            tx.execute(
                insert(transitions),
                [
                    {
                        "file_id": id, "pipeline": pipeline, "partition": "", "at": then,
                        "from_state": FileState.ENDED, "to_state": FileState.COLLECTED, "note": "",
                    }
                    for id in ids
                ],
            )  # fmt: skip


def round_of_ticks(runs: Sequence[Nights], emulator: EmulatorProcess, what: str) -> None:
    """Let each sensor tick once, and print what that took."""
    before = emulator.stats()["calls"].get(LIST, 0)
    took: list[tuple[float, float]] = []
    wanted = 0
    for run in runs:
        wall, cpu = time.perf_counter(), time.process_time()
        tick = run.tick()
        took.append((time.perf_counter() - wall, time.process_time() - cpu))
        wanted += len(tick.run_requests or [])
    lists = emulator.stats()["calls"].get(LIST, 0) - before
    worst = max(took)
    print(
        f"{what:34} slowest {worst[0]:6.2f} s wall, {worst[1]:5.2f} s CPU; all {len(took)} "
        f"{sum(one[0] for one in took):6.1f} s; {lists} list calls; {wanted} runs asked for",
        flush=True,
    )


def measure(
    folder: Path, clock: HandClock, count: int, batches: int, history: int, **fields: Any
) -> None:
    """Measure the rounds of ticks between sending and collecting."""
    with (
        EmulatorProcess(folder / "emulator") as emulator,
        pipelines(emulator, folder, count, batches, **fields) as runs,
    ):
        store = runs[0].store.open()
        with store.ledger.read() as tx:
            endpoint = tx.execute(request_files.select().limit(1)).mappings().one()["endpoint_id"]
        for run in runs:
            add_history(store, endpoint, run.pipeline.name, history // count // 20, 20)

        def each(what: str, prepare: Callable[[], object] = lambda: None) -> None:
            prepare()
            clock.advance(RUN_SECONDS)
            round_of_ticks(runs, emulator, what)

        print(f"{count} pipelines with {batches} open batches each, {history:,} of earlier nights")
        each("first tick")
        each("nothing new")
        each("one batch in ten ended", lambda: end_some(emulator))
        each("all ended", emulator.end)
        each("all ended, collect not yet run")
        each("a lost reply of each", lambda: lose(store, count))


def end_some(emulator: EmulatorProcess) -> None:
    for batch in emulator.batches()[::10]:
        emulator.end(batch["id"])


def lose(store: Store, count: int) -> None:
    """Let files of each pipeline be as if their replies had been lost."""
    moment = store.clock.now()
    with store.ledger.write() as tx:
        is_sent = request_files.c.state.in_(["in_progress", "ended"])
        rows = tx.execute(request_files.select().where(is_sent))
        lost = list(rows.mappings())[:count]
        for row in lost:
            tx.execute(
                request_files.update()
                .where(request_files.c.id == row["id"])
                .values(state=FileState.UNKNOWN, batch_id=None, attempt_ended_at=moment)
            )


def main() -> None:
    """Measure many pipelines, and one with as many partitions."""
    count, batches, history = (
        int(given) for given in (*sys.argv[1:], *("50", "20", "100000")[len(sys.argv) - 1 :])
    )
    logging.disable(logging.CRITICAL)
    with going_by(HandClock()) as clock:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), clock, count, batches, history)
        with tempfile.TemporaryDirectory() as folder:
            parts = [f"part-{number}" for number in range(count * batches)]
            of_each = dg.StaticPartitionsDefinition(parts)
            measure(
                Path(folder), clock, 1, count * batches, history,
                partitions=of_each, partition_column="part",
            )  # fmt: skip


if __name__ == "__main__":
    main()
