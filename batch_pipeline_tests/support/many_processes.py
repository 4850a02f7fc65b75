"""Eight processes submit, send, collect and tick one pipeline at once, in real time.

Meanwhile its records change and calls fail. Whatever they do to one another, nobody sees an error of
a database, and in the end each record has its row, and each request was paid once.
"""

import random
import time
import traceback
from pathlib import Path
from typing import Any

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import BatchPipelineError, HeldError
from batch_pipeline.store.clock import SystemClock
from batch_pipeline_tests.support import processes
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.deployment import (
    Deployment,
    Stages,
    change_records,
    make_records,
    on_clock,
    read_records,
)
from batch_pipeline_tests.support.extent import extent
from batch_pipeline_tests.support.pooling import pooled

PROCESSES = 8
FEWEST_RUNS = extent(4, 8)  # of each process
LONGEST_SECONDS = 600.0  # for those, on a machine that has much else to do
ALL_CHANGE_TURNS = 10  # how many turns it takes until all records have changed at once
SEND_AGAIN_SECONDS = 4000.0  # longer than every lease and every wait
FAULTS: list[tuple[str, str, dict[str, Any]]] = [
    ("create", "drop_before", {}),
    ("create", "drop_after", {}),
    ("create", "status_after", {"status": 500}),
    ("create", "status_before", {"status": 413}),
    ("create", "status_before", {"status": 529}),
    ("create", "status_before", {"status": 429, "headers": {"retry-after": "1"}}),
    ("list", "drop_before", {}),
    ("list", "status_before", {"status": 500}),
    ("retrieve", "status_before", {"status": 529}),
    ("retrieve", "status_before", {"status": 404}),
    ("results", "drop_before", {}),
    ("results", "cut_results_at_line", {"line": 1}),
    ("results", "cut_results_mid_line", {"line": 1, "clean": False}),
    ("results", "line_replaced", {"line": 1}),
]
# What a run may end with: the API's faults, said as what they are. Never what a database said.
DATABASE_WORDS = ("locked", "deadlock", "database", "sqlite", "psycopg", "ledger", "stayed in use")


def work(deployment: Deployment, runs: int, seconds: float, seed: int, report: str) -> None:
    """Do what runs and sensors do, so many times and for so long at least; a child's work.

    Args:
        deployment: of what.
        runs: how often at least, however slow the machine is.
        seconds: how long at least, in real time.
        seed: draws the jobs.
        report: a file for how many runs there were, and for what no run may end with.
    """
    rng = random.Random(seed)
    done, odd = 0, []
    until = time.monotonic() + seconds
    while done < runs or time.monotonic() < until:
        try:
            stages = Stages(deployment, SystemClock())
            job = rng.choice(["submit", "submit", "send", "collect", "tick", "tick"])
            if job == "tick":
                stages.tick()
            elif job == "submit":
                _submit(stages)
            else:
                stages.run(job)
            stages.close()
        except BatchPipelineError as error:
            if any(word in str(error).lower() for word in DATABASE_WORDS):
                odd.append(traceback.format_exc())
        except Exception:
            odd.append(traceback.format_exc())
        done += 1
    Path(report).write_text("\n".join([str(done), *odd]))


def eight_processes(
    folder: Path,
    emulator: EmulatorProcess,
    ledger: str | None,
    *,
    table: bool,
    runs: int = FEWEST_RUNS,
    seconds: float = 0,
) -> str:
    """Let eight processes work, and check what came of it.

    Args:
        folder: for all files.
        emulator: the API; it is reset.
        ledger: its URL; None: SQLite in the store.
        table: whether the results go to a table in the file that the source is in.
        runs: how often each works at least.
        seconds: how long they work at least.

    Returns:
        What they did, in a line.
    """
    rng = random.Random(0)
    emulator.reset(
        answers="digest",
        batch_seconds=1.0,
        rates={"errored": 0.1, "expired": 0.05, "invalid": 0.05},
    )
    deployment = Deployment(
        folder=str(folder / "store"),
        warehouse=str(folder / "warehouse.duckdb"),
        url=emulator.base_url,
        ledger=ledger,
        table=table,
        claude={"max_batch_requests": 7, "max_queued_requests": 60},
    )
    make_records(deployment.warehouse, {f"k{number:03d}": "text" for number in range(40)})
    reports = [folder / f"report-{number}" for number in range(PROCESSES)]
    running = [
        processes.start(folder, work, deployment, runs, seconds, number, str(report))
        for number, report in enumerate(reports)
    ]
    turn, until = 0, time.monotonic() + seconds + LONGEST_SECONDS
    while any(child.is_alive for child in running) and time.monotonic() < until:
        turn += 1
        _change_records(rng, deployment.warehouse, turn)
        on, kind, settings = rng.choice(FAULTS)
        emulator.fault(on, kind, nth=rng.randint(1, 4), **settings)
        time.sleep(0.2)
    for child in running:
        child.join()
    assert not any(child.error for child in running), [child.error for child in running]
    done = [report.read_text().partition("\n") for report in reports]
    odd = [text for _, _, text in done if text]
    assert not odd, "\n".join(odd)
    emulator.clear_faults()
    emulator.configure(rates={}, batch_seconds=0)
    clock = HandClock(moved=emulator.advance)
    clock.advance(SEND_AGAIN_SECONDS)
    with pooled(), on_clock(clock):
        stages = Stages(deployment, clock)
        stages.until_quiet(clock.advance)
        _submit(stages)
        stages.until_quiet(clock.advance)
        stages.check_table(read_records(deployment.warehouse))
        stages.check_bill(emulator)
        told = (
            f"{sum(int(n) for n, _, _ in done)} runs, {turn} changes, {len(stages.files())} files"
        )
        stages.close()
    return f"{told}, {emulator.bill()['requests']} requests paid"


def _submit(stages: Stages) -> None:
    """Submit; where most of the table has changed since it was asked, say that this is meant."""
    try:
        stages.submit()
    except HeldError as error:
        if "allow_reask: true" not in str(error):
            raise
        stages.submit(allow_reask=True)


def _change_records(rng: random.Random, warehouse: str, turn: int) -> None:
    """Change several records at once: the file is rarely free; now and then, change all."""
    if turn % ALL_CHANGE_TURNS == 0:
        change_records(warehouse, "update records set t = ?", f"text {turn}")
    texts = ", ".join(f"('k{rng.randrange(60):03d}', 'text {turn}')" for _ in range(5))
    change_records(
        warehouse,
        f"insert or replace into records (k, t) select * from (values {texts}) as t (k, t) "
        "qualify row_number() over (partition by k) = 1",
    )
    if rng.random() < 0.3:
        change_records(warehouse, "delete from records where k = ?", f"k{rng.randrange(60):03d}")
